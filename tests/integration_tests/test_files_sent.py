"""Files that the bot sends: through WAHA, once each, and as words in the history."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from langchain_convsync import Reply, TurnRunner, WAHAReply
from langchain_convsync._flow import run
from langchain_convsync.stores import EventStore
from langchain_convsync.testing import FakeWAHA, ReferenceServer
from tests import promises, waha_chats
from tests.faulty_server import answers
from tests.promises import Answer, history, said, sync_and_async
from tests.waha_chats import WahaChats, never_came

server, chats = promises.server, waha_chats.chats

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
PDF = "https://example.com/carta.pdf"


def runner_of(
    reply: Reply, server: ReferenceServer, store: EventStore, chats: WahaChats
) -> TurnRunner:
    """A runner whose agent answers so."""
    return TurnRunner(
        RunnableLambda(lambda _: reply),
        client=server.client(),
        store=store,
        reply=WAHAReply(chats.url, settle=0.0),
    )


@sync_and_async
@pytest.mark.parametrize(
    ("given", "how", "file", "caption", "words"),
    [
        (
            {"file": PNG, "caption": "**Hoy**"},
            "sendImage",
            {
                "mimetype": "image/png",
                "filename": "file.png",
                "data": base64.b64encode(PNG).decode(),
            },
            "*Hoy*",
            "*Hoy*\n[image]",
        ),
        (
            {"file": PDF},
            "sendFile",
            {"mimetype": "application/pdf", "filename": "carta.pdf", "url": PDF},
            "",
            "[document: carta.pdf]",
        ),
        (
            {"file": b"OggS", "voice": True, "caption": "Ya sale"},
            "sendVoice",
            {
                "mimetype": "audio/ogg",
                "filename": "file.oga",
                "data": base64.b64encode(b"OggS").decode(),
            },
            "",
            "Ya sale\n[voice message]",
        ),
    ],
    ids=["image", "document", "voice message"],
)
def test_a_file_is_sent_and_stands_in_the_history_as_caption_and_kind(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    answer: Answer,
    given: dict[str, Any],
    how: str,
    file: dict[str, str],
    caption: str,
    words: str,
) -> None:
    """Bytes and addresses; a repeated event sends nothing, and repeats no bytes."""
    runner = runner_of(Reply(**given), server, event_store, chats)
    turn, again = answer(runner, said("Hola")), answer(runner, said("Hola"))

    sent = {**chats.files[0]} if chats.files[0] else {}
    if how == "sendVoice":  # the ending differs between systems
        sent["filename"] = file["filename"]
    assert (sent, chats.texts) == (file, [caption])
    assert [what for what, _ in chats.posts] == [how]
    assert history(server) == [("user", "Hola"), ("bot", words)]
    assert (turn.reply, again.reply) == (words, words)
    assert turn.said[0].file == given["file"]
    assert again.said == ()


@pytest.mark.usefixtures("no_pause")
def test_texts_come_first(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """And the file last."""
    reply = Reply(texts=["Nuestra carta:"], file=PDF, caption="Hoy")
    runner_of(reply, server, event_store, chats).run(said("Hola"))

    assert chats.texts == ["Nuestra carta:", "Hoy"]
    assert [file is None for file in chats.files] == [True, False]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A send without an answer is looked for at once."""
    monkeypatch.setattr("langchain_convsync.outbox.reply.FILE_TIME", 0.0)
    monkeypatch.setattr("langchain_convsync.outbox.queue.FIRST_DELAY", 0.0)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("caption", ["", "Hoy"])
@pytest.mark.parametrize("arrives", [True, False])
def test_a_send_without_an_answer_is_looked_for(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, caption: str, arrives: bool
) -> None:
    """And sent again only where it is not there."""
    chats.fates = [chats.lost if arrives else never_came]
    runner_of(Reply(file=PNG, caption=caption), server, event_store, chats).run(said("Hola"))

    assert chats.texts == [caption]
    assert (chats.reads, run(event_store.backlog()).replies) == (1, 0)


def test_a_file_that_waha_refuses_is_a_dead_letter(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """With its words; whoever reads the log reads no bytes."""
    chats.fates = [answers({"message": "Unsupported media"}, status=400)]
    runner_of(Reply(file=PNG), server, event_store, chats).run(said("Hola"))

    (letter,) = run(event_store.dead_letters())
    assert "Unsupported media" in letter.reason


def test_the_fake_waha_takes_files(server: ReferenceServer, event_store: EventStore) -> None:
    """With what a bot sends, to be looked at in tests."""
    with FakeWAHA() as waha:
        runner = TurnRunner(
            RunnableLambda(lambda _: Reply(file=PDF, caption="Hoy")),
            client=server.client(),
            store=event_store,
            reply=WAHAReply(waha.base_url),
        )
        runner.run(said("Hola"))
        (sent,) = waha.wait_for_sent()

    assert (sent.text, sent.file) == (
        "Hoy",
        {"mimetype": "application/pdf", "filename": "carta.pdf", "url": PDF},
    )
