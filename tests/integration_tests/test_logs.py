"""What an operator reads at night: a line a turn, a line a request, and no customer in any."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_convsync import Conversation, InboundEvent, Turn, TurnRunner, waha
from langchain_convsync.cli._logs import Format, Level, begin_logs
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer

CUSTOMER = "+51999999999"
WORDS = ("una pizza", "Marchando")
LOGGER = "langchain_convsync.turns"
EVENT = InboundEvent(event_id="evt_1", text=WORDS[0], phone_number=CUSTOMER)


@pytest.fixture(params=["sync", "async"])
def answer(request: pytest.FixtureRequest) -> Callable[[TurnRunner, InboundEvent], Turn]:
    if request.param == "sync":
        return TurnRunner.run
    return lambda runner, event: asyncio.run(runner.arun(event))


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        running.create_conversation(phone_number=CUSTOMER, subdomain="a", bot_id="b")
        yield running


def runner_of(server: ReferenceServer, store: EventStore, **settings: Any) -> TurnRunner:
    agent: Runnable[Any, Any] = RunnableLambda(lambda _: WORDS[1])
    return TurnRunner(agent, client=server.client(), store=store, **settings)


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged of conversations."""
    return [each for each in caplog.records if each.name == LOGGER]


def test_a_turn_is_one_line(
    server: ReferenceServer,
    event_store: EventStore,
    answer: Callable[[TurnRunner, InboundEvent], Turn],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its conversation, how it ended, and how long each phase took; a repeated event is none."""
    caplog.set_level(logging.INFO, LOGGER)
    runner = runner_of(server, event_store, on_reply=lambda _: None)

    turn = answer(runner, EVENT)
    answer(runner, EVENT)

    [line] = records(caplog)
    told: Any = line
    assert (told.turn, told.status, told.events) == (turn.turn_id, "answered", 1)
    assert told.conversation == turn.conversation_key
    assert set(told.phases) == {"read", "agent", "commit", "reply"}
    assert (
        f"Conversation {turn.conversation_key}: turn {turn.turn_id} answered, events: 1, read "
        in line.getMessage()
    )
    assert not any(private in caplog.text for private in (*WORDS, CUSTOMER, CUSTOMER[1:]))


def test_who_has_a_conversation_is_logged(
    server: ReferenceServer, event_store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A pause, its end, and a human who takes over."""
    caplog.set_level(logging.INFO, LOGGER)
    runner = runner_of(server, event_store)
    key = runner.run(EVENT).conversation_key
    caplog.clear()

    runner.pause(CUSTOMER, seconds=60.0)
    runner.resume(CUSTOMER)
    human = waha.OperatorMessage(event_id="evt_2", phone_number=CUSTOMER, text="Soy Ana")
    assert runner.take_over(human, seconds=60.0)

    assert [line.getMessage() for line in records(caplog)] == [
        f"Conversation {key} is paused for 60 s",
        f"Conversation {key} is resumed",
        f"Conversation {key} was taken over by a human, for 60 s",
    ]


def test_a_turn_prints_without_words_and_shows_them_when_asked(
    server: ReferenceServer, event_store: EventStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """`print` may end in a log; `show` is for a terminal."""
    turn = runner_of(server, event_store).run(EVENT)

    assert str(turn) == "answered: a reply of 9 characters, 1 event; show() shows the words"
    turn.show()
    server.conversation(CUSTOMER).show()

    shown = capsys.readouterr().out
    assert "bot: Marchando" in shown
    assert "customer: una pizza" in shown
    assert issubclass(Conversation, Turn.__mro__[1])


@pytest.fixture
def logs() -> Iterator[Callable[[Level, Format], None]]:
    """Logging as a command begins it, taken back afterwards."""
    root, own = logging.getLogger(), logging.getLogger("langchain_convsync")
    before = root.handlers[:], root.level, own.level
    yield begin_logs
    root.handlers[:], root.level, own.level = before
    root.setLevel(before[1])


def test_a_line_of_json_has_the_fields(
    server: ReferenceServer,
    event_store: EventStore,
    logs: Callable[[Level, Format], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """For what collects logs."""
    logs(Level.INFO, Format.JSON)

    turn = runner_of(server, event_store).run(EVENT)

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    [line] = [each for each in lines if each["logger"] == LOGGER]
    assert line.keys() >= {"time", "level", "logger", "message", "turn", "conversation", "phases"}
    assert (line["level"], line["conversation"]) == ("INFO", turn.conversation_key)


def test_a_record_is_one_line_whatever_it_quotes(
    logs: Callable[[Level, Format], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that somebody else ends is a forged one."""
    logs(Level.INFO, Format.TEXT)

    logging.getLogger("my_bot").warning("said %s", "a\n2026-01-01 forged \x1b[31m")

    assert len(capsys.readouterr().err.splitlines()) == 1


def test_serve_logs_requests_without_customers() -> None:
    """Method, route, status and milliseconds; a path as it came names the customer."""
    command = [sys.executable, "-m", "langchain_convsync.cli", "serve", "--port", "0", "--json"]
    with subprocess.Popen(
        [*command, "--log-format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["base_url"]
        try:
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(f"{url}/api/v1/whatsapp/lookup/tenant/{CUSTOMER}")
        finally:
            process.terminate()
            _, logged = process.communicate(timeout=60)

    [line] = [json.loads(each) for each in logged.splitlines() if "/lookup/" in each]
    assert line["path"] == "/api/v1/whatsapp/lookup/tenant/{phoneNumber}"
    assert (line["method"], line["status"], line["level"]) == ("GET", 404, "INFO")
    assert line["ms"] >= 0
    assert CUSTOMER[1:] not in logged


@pytest.mark.parametrize("command", ["worker bot:runner", "serve", "demo"])
def test_what_runs_takes_both_options(command: str) -> None:
    """The same words everywhere; what is no level is told which there are."""
    done = subprocess.run(
        [sys.executable, "-m", "langchain_convsync.cli", *command.split(), "--log-level", "loud"],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert "'debug', 'info', 'warning', 'error'" in " ".join(done.stderr.replace("│", "").split())
