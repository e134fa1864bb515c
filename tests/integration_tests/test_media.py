"""What customers send beside words reaches the model, and nothing that fails stops a turn."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt
from pydantic import SecretStr

from langchain_convsync import SQLiteEventStore, TurnRunner, WAHAReply, telemetry
from langchain_convsync._flow import run
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.stores.base import EventStore
from langchain_convsync.surfaces.messages import text_of
from langchain_convsync.testing import FakeWAHA, ReferenceServer, ScriptedChatModel
from langchain_convsync.turns import files
from tests import promises
from tests.faulty_server import (
    CLOSE,
    HANG,
    FaultyServer,
    Received,
    Script,
    answers,
    head,
    over_either_transport,
    sends,
    trickles,
)
from tests.files import ANIMATED, DOCX, JPEG, MP3, MP4, PDF, PNG, VOICE, ZIP, Attentive, coded, sent
from tests.promises import CUSTOMER, Answer, history, said, sync_and_async

server = promises.server

IMAGE = {"type": "image", "base64": coded(JPEG), "mime_type": "image/jpeg"}
PDF_URL = f"data:application/pdf;base64,{coded(PDF)}"
URL = "http://localhost:3000/api/files/default/3A.jpg"


@pytest.fixture
def waha() -> Iterator[FakeWAHA]:
    with FakeWAHA(api_key="waha-secret") as running:
        yield running


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """A WAHA that the environment names, and that answers as badly as a test asks for."""
    with FaultyServer() as running:
        monkeypatch.setenv("CONVSYNC_WAHA_BASE_URL", running.url)
        monkeypatch.setenv("CONVSYNC_WAHA_API_KEY", "waha-secret")
        yield running


def runner_of(
    server: ReferenceServer, store: EventStore, agent: Any, waha: FakeWAHA | None, **named: Any
) -> TurnRunner:
    sender = None if waha is None else WAHAReply(waha.base_url, api_key="waha-secret")
    settings = {"media": "blocks", "client": server.client(), "store": store, **named}
    return TurnRunner(agent, reply=sender, **settings)


@pytest.fixture
def memory() -> Iterator[SQLiteEventStore]:
    store = SQLiteEventStore(":memory:")
    yield store
    store.close()


def image(**fields: Any) -> Any:
    """A message with an image, by whatever URL."""
    media = {"url": URL, "mimetype": "image/jpeg", **fields.pop("media", {})}
    return said("¿Tienen esto?", media=media, **fields)


@sync_and_async
def test_a_model_sees_an_image_and_the_history_holds_words(
    server: ReferenceServer, event_store: EventStore, waha: FakeWAHA, answer: Answer
) -> None:
    """The image is there in its own turn alone."""
    attentive = Attentive()
    runner = runner_of(server, event_store, attentive.agent, waha)
    first = answer(runner, sent(waha, JPEG, "¿Tienen esto?"))
    seen = attentive.prompt
    answer(runner, said("¿Y bien?"))

    assert first.status == "answered"
    assert seen == [{"type": "text", "text": "¿Tienen esto?\n[image]"}, IMAGE]
    assert [each.content for each in attentive.given[1]] == [
        "¿Tienen esto?\n[image]",
        "Claro",
        "¿Y bien?",
    ]
    assert history(server)[:2] == [("user", "¿Tienen esto?\n[image]"), ("bot", "Claro")]


@pytest.mark.parametrize(
    ("data", "mimetype", "block"),
    [
        (PNG, "image/jpeg", {"type": "image", "mime_type": "image/png"}),
        (VOICE, "audio/ogg; codecs=opus", {"type": "audio", "mime_type": "audio/ogg"}),
        (MP3, "audio/mpeg", {"type": "audio", "mime_type": "audio/mp3"}),
        (
            PDF,
            "application/pdf",
            {"type": "file", "mime_type": "application/pdf", "extras": {"filename": "menú.pdf"}},
        ),
        (ZIP, DOCX, {"type": "file", "mime_type": DOCX, "extras": {"filename": "menú.pdf"}}),
        (b"pizza;30", "text/csv", {"type": "text", "text": "pizza;30"}),
    ],
)
def test_every_kind_of_file_is_a_standard_content_block(
    data: bytes,
    mimetype: str,
    block: dict[str, Any],
    server: ReferenceServer,
    memory: SQLiteEventStore,
    waha: FakeWAHA,
) -> None:
    """With the type that it has, whatever its message says."""
    attentive = Attentive()
    event = sent(waha, data, mimetype=mimetype, filename="menú.pdf")
    runner_of(server, memory, attentive.agent, waha).run(event)

    given = {} if block["type"] == "text" else {"base64": coded(data)}
    assert attentive.prompt[1:] == [{**block, **given}]
    [message] = attentive.given[0]
    assert isinstance(message, HumanMessage)
    assert [each["type"] for each in message.content_blocks] == ["text", block["type"]]


@pytest.mark.parametrize(
    ("data", "mimetype", "chat", "responses"),
    [
        (
            JPEG,
            "image/jpeg",
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{coded(JPEG)}"}},
            {"type": "input_image", "image_url": f"data:image/jpeg;base64,{coded(JPEG)}"},
        ),
        (
            PDF,
            "application/pdf",
            {"type": "file", "file": {"filename": "document.pdf", "file_data": PDF_URL}},
            {"type": "input_file", "filename": "document.pdf", "file_data": PDF_URL},
        ),
        (
            MP3,
            "audio/mpeg",
            {"type": "input_audio", "input_audio": {"data": coded(MP3), "format": "mp3"}},
            None,  # it hears nothing, and LangChain leaves it out
        ),
        (
            b"pizza;30",
            "text/csv",
            {"type": "text", "text": "pizza;30"},
            {"type": "input_text", "text": "pizza;30"},
        ),
    ],
)
def test_chatopenai_takes_every_block(
    data: bytes,
    mimetype: str,
    chat: dict[str, Any],
    responses: dict[str, Any] | None,
    server: ReferenceServer,
    memory: SQLiteEventStore,
    waha: FakeWAHA,
) -> None:
    """As both of OpenAI's APIs want it, by langchain-openai's own conversion."""
    attentive = Attentive()
    runner_of(server, memory, attentive.agent, waha).run(sent(waha, data, mimetype=mimetype))

    for responding, key, block in ((False, "messages", chat), (True, "input", responses)):
        model = ChatOpenAI(openai_api_key=SecretStr("x"), use_responses_api=responding)
        payload = model._get_request_payload(attentive.given[0])
        assert payload[key][0]["content"][1:] == [each for each in [block] if each]


@pytest.mark.parametrize(
    ("data", "mimetype", "told"),
    [
        (MP4, "video/mp4", "[video]"),
        (MP4, "image/jpeg", "[image: could not be loaded: files of its kind cannot be read]"),
        (
            ANIMATED,
            "image/webp",
            "[sticker: could not be loaded: files of its kind cannot be read]",
        ),
        (ZIP, "application/zip", "files of its kind cannot be read]"),
        (b"", "image/jpeg", "[image: could not be loaded: it is empty]"),
        (
            b"<!DOCTYPE html>",
            "image/jpeg",
            "[image: could not be loaded: it is not what it says it is]",
        ),
    ],
)
def test_what_no_model_reads_is_told_in_words(
    data: bytes,
    mimetype: str,
    told: str,
    server: ReferenceServer,
    memory: SQLiteEventStore,
    waha: FakeWAHA,
) -> None:
    """A page is no image; a film is named, as it always was."""
    attentive = Attentive()
    turn = runner_of(server, memory, attentive.agent, waha).run(sent(waha, data, "", mimetype))

    assert turn.status == "answered"
    assert attentive.prompt.endswith(told)


@sync_and_async
@over_either_transport
def test_a_file_is_asked_for_at_the_configured_address_with_its_key(
    server: ReferenceServer, memory: SQLiteEventStore, faulty: FaultyServer, answer: Answer
) -> None:
    """WAHA calls itself localhost:3000."""
    faulty.plays(answers(gzip.compress(JPEG), content_encoding="gzip"))
    attentive = Attentive()
    answer(runner_of(server, memory, attentive.agent, None), image())

    [asked] = faulty.received
    assert (asked.method, asked.target) == ("GET", "/api/files/default/3A.jpg")
    assert asked.headers["x-api-key"] == "waha-secret"
    assert asked.headers["accept-encoding"] == "gzip"
    assert attentive.prompt[1] == IMAGE


@pytest.mark.parametrize(
    "url",
    [
        "{trap}/3A.jpg",
        "{trap}/latest/meta-data/",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "http://localhost:3000@{host}/api/files/default/3A.jpg",
        "http://localhost:3000/api/files/../sessions",
        "http://localhost:3000/api/screenshot?session=default",
    ],
)
def test_no_url_leads_anywhere_else(
    url: str, server: ReferenceServer, memory: SQLiteEventStore, faulty: FaultyServer
) -> None:
    """Neither to other servers, nor to what WAHA's key opens besides."""
    faulty.plays(answers(JPEG))
    attentive = Attentive()
    with FaultyServer() as trap:
        trap.plays(answers(JPEG))
        url = url.format(trap=trap.url, host=trap.url.removeprefix("http://"))
        turn = runner_of(server, memory, attentive.agent, None).run(image(media={"url": url}))

    assert turn.status == "answered"
    assert (trap.received, faulty.received) == ([], [])
    assert attentive.prompt == ("¿Tienen esto?\n[image: could not be loaded: it is kept elsewhere]")


def test_a_file_of_another_address_is_asked_for_at_wahas(
    server: ReferenceServer, memory: SQLiteEventStore, faulty: FaultyServer
) -> None:
    """The path is one of WAHA's; the host is not looked at, and never asked."""
    faulty.plays(answers(b"", 404))
    attentive = Attentive()
    with FaultyServer() as trap:
        trap.plays(answers(JPEG))
        url = f"{trap.url}/api/files/default/3A.jpg"
        runner_of(server, memory, attentive.agent, None).run(image(media={"url": url}))

    assert (len(trap.received), len(faulty.received)) == (0, 1)
    assert attentive.prompt.endswith("[image: could not be loaded: it is gone]")


def redirects(request: Received) -> list[bytes]:
    """To a server that would answer."""
    where = f"http://{request.headers['host']}/api/files/other.jpg"
    return [head(302, location=where, content_length=0)]


BOMB = gzip.compress(bytes(20 * files.LARGEST_FILE))
FAULTS: dict[str, tuple[Script, str]] = {
    "says too much": (sends(head(content_length=files.LARGEST_FILE + 1), JPEG, HANG), "too large"),
    "is too much": (sends(head() + JPEG + bytes(files.LARGEST_FILE), CLOSE), "too large"),
    "bomb": (answers(BOMB, content_encoding="gzip"), "too large"),
    "gone": (answers({"message": "Not Found"}, 404), "it is gone"),
    "refused": (answers({"message": "Unauthorized"}, 401), "access was refused"),
    "fails": (answers({"message": "oops"}, 500), "the file server failed"),
    "redirect": (redirects, "it is kept elsewhere"),
    "page": (answers(b"<html>", content_type="image/jpeg"), "it is not what it says it is"),
    "encoded": (answers(JPEG, content_encoding="br"), "it is not what it says it is"),
    "no gzip": (answers(JPEG, content_encoding="gzip"), "it is not what it says it is"),
    "empty": (sends(head(204)), "it is empty"),
    "cut": (sends(head(content_length=100) + JPEG, CLOSE), "the file server did not answer"),
    "closed": (sends(CLOSE), "the file server did not answer"),
    "hangs": (sends(head(content_length=100) + JPEG, HANG), "it took too long"),
    "trickles": (trickles(head(content_length=1000) + JPEG + bytes(900)), "it took too long"),
}


@sync_and_async
@over_either_transport
@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_cannot_be_loaded_is_told_the_model_and_fails_no_turn(
    fault: str,
    server: ReferenceServer,
    memory: SQLiteEventStore,
    faulty: FaultyServer,
    answer: Answer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In words; it is logged by its kind, and counted. The history is as it always was."""
    script, why = FAULTS[fault]
    if why == "it took too long":
        monkeypatch.setattr("langchain_convsync.turns.media.FILE_TIME", 0.3)
    faulty.plays(script)
    attentive, before = Attentive(), telemetry.counted("media", what="image", outcome=why)
    with caplog.at_level(logging.WARNING):
        turn = answer(runner_of(server, memory, attentive.agent, None), image())

    assert turn.status == "answered"
    assert set(turn.phases) == {"read", "media", "agent", "commit"}
    assert attentive.prompt == f"¿Tienen esto?\n[image: could not be loaded: {why}]"
    assert history(server) == [("user", "¿Tienen esto?\n[image]"), ("bot", "Claro")]
    assert telemetry.counted("media", what="image", outcome=why) == before + 1
    assert f"a file (image) could not be loaded: {why}" in caplog.text
    assert "3A.jpg" not in caplog.text
    assert len(faulty.received) == 1


def test_a_file_that_waha_did_not_download_is_told_and_asked_for_nowhere(
    server: ReferenceServer, memory: SQLiteEventStore, faulty: FaultyServer
) -> None:
    """It tells so by an error, or by no URL."""
    attentive = Attentive()
    runner = runner_of(server, memory, attentive.agent, None)
    runner.run(image(media={"url": None}))
    first = attentive.prompt
    runner.run(image(event_id="2", media={"error": "timeout"}))

    told = "¿Tienen esto?\n[image: could not be loaded: it was not downloaded]"
    assert (first, attentive.prompt, faulty.received) == (told, told, [])


def test_a_document_keeps_its_name_where_it_cannot_be_loaded(
    server: ReferenceServer, memory: SQLiteEventStore, faulty: FaultyServer
) -> None:
    """However long that is."""
    attentive = Attentive()
    media = {"mimetype": "application/pdf", "filename": f"menú{'x' * 300}.pdf"}
    runner_of(server, memory, attentive.agent, None).run(said("¿Y esto?", media=media))

    assert attentive.prompt.startswith("¿Y esto?\n[document: menúxxx")
    assert attentive.prompt.endswith("x…: could not be loaded: it was not downloaded]")


def test_what_opens_on_the_customers_phone_only_is_told_as_it_is(
    server: ReferenceServer, memory: SQLiteEventStore, faulty: FaultyServer
) -> None:
    """There is nothing to load."""
    attentive = Attentive()
    event = said("", event_id="1", media={"kind": "image"}, view_once=True)
    runner_of(server, memory, attentive.agent, None).run(event)

    assert attentive.prompt == event.content


def test_files_of_a_burst_stand_in_their_places_until_there_are_too_many(
    server: ReferenceServer,
    memory: SQLiteEventStore,
    waha: FakeWAHA,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each in its own message, and no more of them than a request holds."""
    monkeypatch.setattr("langchain_convsync.turns.media.LARGEST_TURN", 2 * len(JPEG) + 5)
    attentive = Attentive()
    runner = runner_of(server, memory, attentive.agent, waha, debounce=0.0)
    runner.accept(sent(waha, JPEG, "uno"))
    runner.accept(said("dos"))
    runner.accept(sent(waha, JPEG, "tres"))
    runner.run(sent(waha, JPEG, "cuatro"))

    assert [each.content for each in attentive.given[-1]] == [
        [{"type": "text", "text": "uno\n[image]"}, IMAGE],
        "dos",
        [{"type": "text", "text": "tres\n[image]"}, IMAGE],
        "cuatro\n[image: could not be loaded: there are too many files]",
    ]


def test_the_last_run_of_a_turn_goes_without_files_that_its_model_refuses(
    server: ReferenceServer, memory: SQLiteEventStore, waha: FakeWAHA, no_pause: None
) -> None:
    """The customer gets an answer, and no fallback."""

    def refuse(messages: Any) -> str:
        if not isinstance(messages[-1].content, str):
            message = "this model takes no images"
            raise TypeError(message)
        return "No veo imágenes"

    attentive = Attentive(refuse)
    turn = runner_of(server, memory, attentive.agent, waha).run(sent(waha, JPEG, "¿Qué es?"))

    assert (turn.status, turn.reply, len(attentive.given)) == ("answered", "No veo imágenes", 3)
    assert (
        attentive.prompt == "¿Qué es?\n[image: could not be loaded: the last answer with it failed]"
    )


@sync_and_async
def test_beside_the_middleware_a_thread_holds_no_file(
    server: ReferenceServer, memory: SQLiteEventStore, waha: FakeWAHA, answer: Answer
) -> None:
    """Its checkpointer keeps words; the model sees the image in its own turn."""
    model = ScriptedChatModel(["Claro", "Eso dije"])
    saver = InMemorySaver()
    agent = create_agent(
        model, middleware=[ConvSyncMiddleware(server.client())], checkpointer=saver
    )
    runner = runner_of(server, memory, agent, waha)
    answer(runner, sent(waha, JPEG, "¿Tienen esto?"))
    answer(runner, said("¿Y bien?"))

    [first, second] = [
        [each.content for each in call if each.type == "human"] for call in model.calls
    ]
    assert first == [[{"type": "text", "text": "¿Tienen esto?\n[image]"}, IMAGE]]
    assert second == ["¿Tienen esto?\n[image]", "¿Y bien?"]
    kept = [saved.checkpoint["channel_values"] for saved in saver.list(None)]
    assert kept
    assert coded(JPEG) not in str(kept)


class Own(ConvSyncMiddleware):
    """A user's own kind of it."""


@pytest.mark.parametrize("place", ["outermost", "own", "inner"])
@pytest.mark.parametrize("loads", [True, False])
def test_what_came_with_a_file_is_told_a_thread_once(
    place: str, loads: bool, server: ReferenceServer, memory: SQLiteEventStore, waha: FakeWAHA
) -> None:
    """The history has its words alone, and they are known there."""
    model = ScriptedChatModel(["Claro", "Eso dije"])
    kind = Own if place == "own" else ConvSyncMiddleware
    agent: Any = create_agent(
        model,
        middleware=[kind(server.client())],
        checkpointer=None if place == "inner" else InMemorySaver(),
    )
    if place == "inner":
        graph: Any = StateGraph(MessagesState)
        graph.add_node("agent", agent).add_edge(START, "agent").add_edge("agent", END)
        agent = graph.compile(checkpointer=InMemorySaver())
    runner = runner_of(server, memory, agent, waha)
    runner.run(sent(waha, JPEG if loads else b"", "¿Tienen esto?"))
    runner.run(said("¿Y bien?"))

    told = [each for each in model.calls[-1] if each.type != "system"]
    assert [each.type for each in told] == ["human", "ai", "human"]
    assert [text_of(each) for each in told] == ["¿Tienen esto?\n[image]", "Claro", "¿Y bien?"]


def test_an_agent_without_the_middleware_gets_them_in_its_input(
    server: ReferenceServer, memory: SQLiteEventStore, waha: FakeWAHA
) -> None:
    """So does any graph."""
    model = ScriptedChatModel(["Claro"])
    runner_of(server, memory, create_agent(model), waha).run(sent(waha, JPEG, "¿Tienen esto?"))

    assert model.calls[0][-1].content == [{"type": "text", "text": "¿Tienen esto?\n[image]"}, IMAGE]


def test_for_the_answer_to_a_question_nothing_is_loaded(
    server: ReferenceServer, memory: SQLiteEventStore, faulty: FaultyServer
) -> None:
    """The agent's own code gets it, as words."""

    def ask(_state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"Oído: {interrupt('¿Cuál?')}")]}

    graph: Any = StateGraph(MessagesState)
    graph.add_node(ask).add_edge(START, "ask").add_edge("ask", END)
    runner = runner_of(server, memory, graph.compile(checkpointer=InMemorySaver()), None)
    turns = [runner.run(said("Hola")), runner.run(image())]

    assert turns[1].reply == "Oído: ¿Tienen esto?\n[image]"
    assert faulty.received == []


def test_by_default_nothing_is_loaded(
    server: ReferenceServer, memory: SQLiteEventStore, faulty: FaultyServer
) -> None:
    """Words alone."""
    attentive = Attentive()
    runner_of(server, memory, attentive.agent, None, media="text").run(image())

    assert (attentive.prompt, faulty.received) == ("¿Tienen esto?\n[image]", [])


def test_for_a_human_nothing_is_loaded(
    server: ReferenceServer, memory: SQLiteEventStore, faulty: FaultyServer
) -> None:
    """Whoever has the conversation looks at the phone."""
    attentive = Attentive()
    runner = runner_of(server, memory, attentive.agent, None)
    runner.pause(CUSTOMER, seconds=60)
    turn = runner.run(image())

    assert (turn.status, attentive.given, faulty.received) == ("paused", [], [])


def test_a_runner_that_knows_no_waha_says_what_to_give(
    server: ReferenceServer, memory: SQLiteEventStore
) -> None:
    """When it is made, not at the first image."""
    agent: Any = Attentive().agent
    for named in ({"media": "blocks"}, {"transcribe": lambda *_: "Hola"}):
        with pytest.raises(ConfigurationError, match=r"reply=WAHAReply.*CONVSYNC_WAHA_BASE_URL"):
            TurnRunner(agent, client=server.client(), store=memory, **named)
    TurnRunner(agent, client=server.client(), store=memory, media="blocks", record_only=True)


def test_files_and_an_input_of_ones_own_exclude_each_other(
    server: ReferenceServer, memory: SQLiteEventStore, waha: FakeWAHA
) -> None:
    """The input would replace them in silence."""
    with pytest.raises(ConfigurationError, match="prepare="):
        runner_of(server, memory, Attentive().agent, waha, prepare=lambda *_: [])


async def test_its_own_connections_end_with_the_runner(
    server: ReferenceServer, memory: SQLiteEventStore, faulty: FaultyServer
) -> None:
    """And begin anew with its next block."""
    faulty.plays(answers(JPEG))
    attentive = Attentive()
    runner = runner_of(server, memory, attentive.agent, None, on_reply=lambda _: None)
    for number in range(2):
        async with runner:
            await runner.arun(image(event_id=str(number)))
            assert attentive.prompt[1] == IMAGE

    assert run(memory.backlog()).queued == 0
