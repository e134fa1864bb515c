"""Replies that are sent through WAHA: once each, although it has no idempotency keys."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync import Reply, SQLiteEventStore, WAHAReply, telemetry, waha
from langchain_convsync._flow import arun, run
from langchain_convsync.contents import Quoted
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.outbox.sender import OnUnverifiableReply
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests import promises
from tests.faulty_server import HANG, Script, answers, sends
from tests.promises import CUSTOMER, Answer, echo, said, sync_and_async
from tests.waha_chats import WahaChats, never_came, waha_server

CHAT = f"{CUSTOMER[1:]}@c.us"


server = promises.server


@pytest.fixture
def chats() -> WahaChats:
    return WahaChats()


@pytest.fixture
def url(chats: WahaChats) -> Iterator[str]:
    with waha_server(chats) as where:
        yield where


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A send without an answer is surely over at once, and is looked for at once."""
    monkeypatch.setattr("langchain_convsync.outbox.reply.SEND_TIME", 0.0)
    monkeypatch.setattr("langchain_convsync.outbox.queue.FIRST_DELAY", 0.0)


def runner_of(
    server: ReferenceServer,
    store: EventStore,
    url: str,
    on_unverifiable: OnUnverifiableReply = "drop",
) -> TurnRunner:
    sender = WAHAReply(url, api_key="waha-secret", on_unverifiable=on_unverifiable, settle=0.0)
    return TurnRunner(
        echo(), client=server.client(), store=store, reply=sender, fallback_reply="Un momento…"
    )


@sync_and_async
def test_a_reply_is_sent_to_the_chat_that_the_customer_wrote_in(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, url: str, answer: Answer
) -> None:
    """From the session that the message came through; a repeated event sends nothing."""
    runner = runner_of(server, event_store, url)
    event = said("Hola", chat_id=CHAT, waha_session="ventas")
    turn = answer(runner, event)
    again = answer(runner, event)

    assert (turn.status, again.status) == ("answered", "duplicate")
    assert chats.sent == [("ventas", CHAT, "re: Hola")]
    assert chats.keys == {"waha-secret"}


def test_without_a_chat_id_the_reply_goes_to_the_phone_number(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, url: str
) -> None:
    """Events of other sources have none."""
    runner_of(server, event_store, url).run(said("Hola"))

    assert chats.sent == [("default", CHAT, "re: Hola")]


@sync_and_async
def test_a_reply_whose_answer_was_lost_is_looked_for_and_not_sent_again(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    url: str,
    answer: Answer,
    hasty: None,
) -> None:
    """It stands in the chat."""
    chats.fates = [chats.lost]
    answer(runner_of(server, event_store, url), said("Hola"))

    assert chats.texts == ["re: Hola"]
    assert chats.reads == 1
    assert run(event_store.backlog()).replies == 0


@sync_and_async
def test_a_reply_that_never_came_is_sent_again(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    url: str,
    answer: Answer,
    hasty: None,
) -> None:
    """It does not stand in the chat."""
    chats.fates = [never_came, never_came]
    answer(runner_of(server, event_store, url), said("Hola"))

    assert chats.texts == ["re: Hola"]
    assert run(event_store.backlog()).replies == 0


def test_the_same_words_of_an_earlier_reply_are_not_taken_for_this_one(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, url: str, hasty: None
) -> None:
    """Both are in the chat, under ids of their own."""
    runner = runner_of(server, event_store, url)
    runner.run(said("sí", event_id="1"))
    chats.fates = [never_came]
    runner.run(said("sí", event_id="2"))
    chats.fates = [chats.lost]
    runner.run(said("sí", event_id="3"))

    assert chats.texts == ["re: sí"] * 3


@sync_and_async
def test_our_own_echo_tells_that_a_reply_was_sent(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    url: str,
    answer: Answer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody has to wait until the send is surely over, or to read the chat."""
    runner = runner_of(server, event_store, url)
    chats.fates = [chats.lost]
    monkeypatch.setattr(runner._deliveries, "budget", 0.1)
    answer(runner, said("Hola", chat_id=CHAT))
    waiting = run(event_store.backlog()).replies
    own = waha.parse_event({**chats.echo(1), "session": "default"})
    assert isinstance(own, waha.Ignored)

    echoes = runner.record_echo(own)
    answer(runner, said("¿Algo más?", chat_id=CHAT))

    assert (waiting, echoes) == (1, True)
    assert chats.texts == ["re: Hola", "re: ¿Algo más?"]
    assert chats.reads == 0


def test_an_echo_that_no_reply_waits_for_is_nothing(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, url: str
) -> None:
    """Mostly the answer was there before it."""
    runner = runner_of(server, event_store, url)
    runner.run(said("Hola", chat_id=CHAT))
    own = waha.parse_event(chats.echo(1))
    assert isinstance(own, waha.Ignored)

    assert not runner.record_echo(own)
    assert not runner.record_echo(waha.Ignored(reason="own echo"))


@pytest.mark.parametrize(("policy", "texts"), [("drop", ["x"]), ("resend", ["x", "re: Hola"])])
def test_the_policy_decides_where_waha_keeps_no_chats(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    url: str,
    hasty: None,
    policy: OnUnverifiableReply,
    texts: list[str],
) -> None:
    """NOWEB without its store answers 400."""
    before = telemetry.counted("replies_unverified", policy=policy)
    chats.sent = [("default", CHAT, "x")]
    chats.fates = [never_came]
    chats.reading = answers({"error": "Enable NOWEB store"}, status=400)
    runner_of(server, event_store, url, policy).run(said("Hola"))

    assert chats.texts == texts
    assert telemetry.counted("replies_unverified", policy=policy) == before + 1
    assert run(event_store.backlog()).replies == 0


@pytest.mark.parametrize("status", [429, 422, 503])
def test_a_reply_waits_for_a_waha_that_is_not_ready(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    url: str,
    hasty: None,
    status: int,
) -> None:
    """Too many at once, a session that is not WORKING, a restart."""
    chats.fates = [answers({}, status=status)]
    runner_of(server, event_store, url).run(said("Hola"))

    assert chats.texts == ["re: Hola"]


def test_what_waha_refuses_again_and_again_is_one_line_of_the_conversation(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    url: str,
    hasty: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Another cause is a line of its own."""
    chats.fates = [*[answers({}, status=429)] * 3, *[answers({}, status=503)] * 3]
    runner_of(server, event_store, url).run(said("Hola"))

    told = [r.getMessage() for r in caplog.records if "waits for WAHA" in r.getMessage()]
    assert chats.texts == ["re: Hola"]
    assert [line.partition(": ")[2][:32] for line in told] == [
        "its reply waits for WAHA: WAHAEr"
    ] * 2
    assert all(line.startswith("Conversation ") for line in told)
    assert [status for status in ("429", "503") if status in " ".join(told)] == ["429", "503"]


def refused(status: int) -> Script:
    return answers({"error": "no"}, status=status)


def test_a_reply_that_waha_refuses_for_good_is_a_dead_letter(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, url: str
) -> None:
    """An operator has to look; the next reply is sent."""
    runner = runner_of(server, event_store, url)
    chats.fates = [refused(401)]
    runner.run(said("Hola"))
    runner.run(said("¿Sigues ahí?"))

    left = run(event_store.backlog())
    assert (left.dead_letters, left.replies) == (1, 0)
    assert chats.texts == ["re: ¿Sigues ahí?"]


def test_a_reply_is_kept_until_waha_is_there_again(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """The turn is answered, the writes are delivered, the reply waits in the store."""
    runner = runner_of(server, event_store, "http://127.0.0.1:9")
    runner._deliveries.budget = 0.0
    turn = runner.run(said("Hola"))
    waiting = run(event_store.backlog()).replies
    with waha_server(chats) as url:
        runner_of(server, event_store, url).run(said("¿Sigues ahí?"))

    assert (turn.status, waiting) == ("answered", 1)
    assert chats.texts == ["re: Hola", "re: ¿Sigues ahí?"]


async def test_workers_send_what_a_dead_process_left(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, url: str
) -> None:
    """A block finds replies by itself; it also answers events that nobody waits for."""
    runner = runner_of(server, event_store, "http://127.0.0.1:9")
    runner._deliveries.budget = 0.0
    await runner.arun(said("Hola"))
    async with runner_of(server, event_store, url):
        while (await arun(event_store.backlog())).replies:
            pass

    assert chats.texts == ["re: Hola"]


def test_a_waha_that_hangs_holds_up_no_other_conversation(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Inside a block a call returns with the commit, and turns go on."""
    monkeypatch.setattr("langchain_convsync.outbox.replies.SEND_TIME", 0.5)
    chats.fates = [sends(HANG)] * 10
    runner = runner_of(server, event_store, url)
    runner._deliveries.budget = 0.0
    with runner:
        turns = [runner.run(said(text)) for text in ("Hola", "¿Sigues ahí?")]
        sent_by_then = chats.texts

    assert [turn.status for turn in turns] == ["answered"] * 2
    assert sent_by_then == []
    assert run(event_store.backlog()).replies == 2


DYING = """
import os, signal, sys
from langchain_convsync import ConvSyncClient, SQLiteEventStore, TurnRunner, WAHAReply
from langchain_convsync.outbox import replies
from tests.promises import echo, said

replies.SEND_TIME = 0.1

class Dying(SQLiteEventStore):
    def release(self, lease, **named):
        if lease.queue == "replies":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().release(lease, **named)

api, waha, path = sys.argv[1:]
runner = TurnRunner(echo(), client=ConvSyncClient(api), store=Dying(path), lease=0.1,
                    reply=WAHAReply(waha))
runner.run(said("Hola"))
"""


def test_a_process_that_dies_right_after_sending_doubles_nothing(
    server: ReferenceServer, chats: WahaChats, url: str, tmp_path: Path, hasty: None
) -> None:
    """It could not note that the reply was sent; the next one looks for it."""
    path = tmp_path / "events.db"
    arguments = [sys.executable, "-c", DYING, server.base_url, url, str(path)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    died = subprocess.run(arguments, env=env, check=False, capture_output=True)
    store = SQLiteEventStore(path)
    runner_of(server, store, url).run(said("¿Sigues ahí?"))
    left = run(store.backlog()).replies
    store.close()

    assert died.returncode == -signal.SIGKILL, died.stderr
    assert chats.texts == ["re: Hola", "re: ¿Sigues ahí?"]
    assert (chats.reads, left) == (1, 0)


def test_the_fallback_is_sent_too(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, url: str
) -> None:
    """It is the reply of a failed turn."""

    def failing(_: object) -> str:
        raise RuntimeError

    runner = TurnRunner(
        RunnableLambda(failing),
        client=server.client(),
        store=event_store,
        reply=WAHAReply(url),
        max_errors=1,
        fallback_reply="Un momento…",
    )
    turn = runner.run(said("Hola"))

    assert turn.status == "failed"
    assert chats.texts == ["Un momento…"]


def test_two_senders_are_refused(server: ReferenceServer, event_store: EventStore) -> None:
    """The customer would read everything twice."""
    with pytest.raises(ConfigurationError, match="on_reply"):
        TurnRunner(
            echo(),
            client=server.client(),
            store=event_store,
            reply=WAHAReply("http://127.0.0.1:9"),
            on_reply=print,
        )


def test_the_environment_names_waha(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument, else the environment, else an error that names both; no key in any repr."""
    with pytest.raises(ConfigurationError, match="CONVSYNC_WAHA_BASE_URL"):
        WAHAReply()
    monkeypatch.setenv("CONVSYNC_WAHA_BASE_URL", "https://waha.example.com")
    monkeypatch.setenv("CONVSYNC_WAHA_API_KEY", "waha-secret")

    assert "waha.example.com" in repr(WAHAReply())
    assert "waha-secret" not in repr(WAHAReply()) + repr(vars(WAHAReply().waha))


def test_waha_gets_its_own_key_and_not_the_api_servers(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each variable names one key, and each server learns its own alone."""
    monkeypatch.setenv("CONVSYNC_WAHA_BASE_URL", url)
    monkeypatch.setenv("CONVSYNC_WAHA_API_KEY", "waha-secret")
    monkeypatch.setenv("CONVSYNC_API_KEY", "api-secret")
    monkeypatch.setenv("CONVSYNC_BASE_URL", server.base_url)
    TurnRunner(echo(), store=event_store, reply=WAHAReply()).run(said("Hola", chat_id=CHAT))

    assert (chats.texts, chats.keys) == (["re: Hola"], {"waha-secret"})


@pytest.mark.parametrize("key", ["ñ", "a b", ""])
def test_a_malformed_key_is_told_at_once(key: str) -> None:
    """Without repeating it."""
    with pytest.raises(ConfigurationError, match="CONVSYNC_WAHA_API_KEY"):
        WAHAReply("https://waha.example.com", api_key=key)


def test_an_unknown_policy_is_refused() -> None:
    """It names the two."""
    with pytest.raises(ConfigurationError, match="drop"):
        WAHAReply("https://waha.example.com", on_unverifiable="skip")  # type: ignore[arg-type]


PDF = "https://example.com/carta.pdf"


@sync_and_async
@pytest.mark.parametrize(
    ("number", "quoted"),
    [
        (1, "*¡Listo!*"),
        (2, "Una pizza.\n\nGrande."),
        (3, "Hoy\n[document: carta.pdf]"),
        (4, "¿Algo más?"),
        (9, "[an earlier message]"),
    ],
)
def test_what_the_bot_said_is_read_where_it_is_quoted_by_its_id_alone(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    url: str,
    answer: Answer,
    number: int,
    quoted: str,
) -> None:
    """Each of its messages: older WAHAs do not tell the words, and no store of ours keeps them."""
    heard: list[str] = []

    def agent(messages: list[BaseMessage]) -> object:
        heard.append(str(messages[-1].content))
        if len(heard) > 1:
            return "¿Algo más?"
        return Reply(texts=["**¡Listo!**", "Una pizza.\n\nGrande."], file=PDF, caption="Hoy")

    sender = WAHAReply(url, settle=0.0)
    runner = TurnRunner(
        RunnableLambda(agent), client=server.client(), store=event_store, reply=sender
    )
    answer(runner, said("Hola", chat_id=CHAT))
    answer(runner, said("¿Y?", chat_id=CHAT))
    stanza = waha.stanza_id(chats.message(number)["id"]) if number < 9 else "3EB0FFFF"
    answer(runner, said("¿Seguro?", chat_id=CHAT, quoted=Quoted(id=stanza)))

    shown = "".join(f"> {line}\n" for line in quoted.split("\n"))
    assert heard == ["Hola", "¿Y?", f"{shown}¿Seguro?"]
