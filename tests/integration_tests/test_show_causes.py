"""``convsync show`` names the real cause, which another process has met and left in the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda
from typer.testing import CliRunner

from langchain_convsync._flow import run
from langchain_convsync.cli import command_line
from langchain_convsync.client import ConvSyncClient
from langchain_convsync.models import InboundEvent
from langchain_convsync.outbox import WAHAReply
from langchain_convsync.stores import EventStore, open_store
from langchain_convsync.stores.served import adopted
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner
from tests import promises
from tests.faulty_server import Script, answers
from tests.promises import CUSTOMER, echo, said
from tests.waha_chats import WahaChats, never_came, waha_server

server = promises.server
cli = CliRunner()
OTHER = "+51911111111"


def told(url: str, customer: str = CUSTOMER) -> list[str]:
    """Why what waits does wait, as another process tells it."""
    answer = cli.invoke(command_line(), ["show", customer, "--store", url, "--json"])
    assert answer.exit_code == 0, answer.output
    why: list[str] = json.loads(answer.stdout)["why"]
    assert CUSTOMER not in answer.stdout
    return why


@contextmanager
def opened(url: str) -> Iterator[EventStore]:
    store = open_store(url)
    yield store
    store.close()


def says(store: EventStore, client: Any, agent: Any = None, who: str = CUSTOMER) -> Turn:
    """A customer writes, and a process that waits for nothing answers, or cannot."""
    runner = TurnRunner(agent or echo(), client=client, store=store)
    return runner.run(InboundEvent(event_id="evt", phone_number=who, text="secreto"), wait=0.0)


def test_that_the_api_server_knows_no_conversation_is_told(
    server: ReferenceServer, durable_store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commonest cause, with what tells more."""
    monkeypatch.setattr("langchain_convsync.turns.reading.NOT_FOUND_TIME", 0.0)
    with opened(durable_store_url) as store:
        says(store, server.client(), who=OTHER)

    [why] = told(durable_store_url, OTHER)
    assert why.startswith("events, for ")
    assert "the API server knows no conversation of this customer: `convsync doctor" in why


@pytest.mark.usefixtures("no_pause")
def test_that_the_api_server_does_not_answer_is_told_until_it_does(
    server: ReferenceServer, durable_store_url: str
) -> None:
    """Then nothing waits any more, and nothing is said."""
    away = ConvSyncClient("http://127.0.0.1:1", max_retries=0)
    with opened(durable_store_url) as store:
        says(store, away)
        [why] = told(durable_store_url)
        run(adopted(store, server.client().api.address))  # the same server, where it is there
        with TurnRunner(echo(), client=server.client(), store=store) as runner:
            turn = runner.run(said("¿Hola?"))
        left = told(durable_store_url)
    away.close()

    assert "the API server does not answer: " in why
    assert (turn.status, left) == ("answered", [])


def test_that_a_human_has_it_is_told(server: ReferenceServer, durable_store_url: str) -> None:
    """And how they give it back."""
    with opened(durable_store_url) as store:
        runner = TurnRunner(echo(), client=server.client(), store=store, on_reply=lambda _: None)
        runner.pause(CUSTOMER, seconds=3600)
        runner.accept(said("secreto"))

    [why] = told(durable_store_url)
    assert why.startswith("events: a human has the conversation for 60 min more")
    assert "convsync resume" in why


def seen_meanwhile(
    server: ReferenceServer, url: str, look: Callable[[EventStore], list[str]], **options: Any
) -> list[str]:
    """What is told while the agent runs."""
    found: list[str] = []

    def agent(_messages: list[BaseMessage]) -> AIMessage:
        found.extend(look(store))
        return AIMessage("Sí")

    with opened(url) as store:
        runner = TurnRunner(RunnableLambda(agent), client=server.client(), store=store, **options)
        assert runner.run(said("Hola")).status == "answered"
    return found


def test_that_a_worker_is_at_it_is_told(server: ReferenceServer, durable_store_url: str) -> None:
    """Since when, and until when no other one may take over."""
    [why] = seen_meanwhile(server, durable_store_url, lambda _: told(durable_store_url))

    assert why.startswith("events: a worker is at them for ")
    assert "its lease ends in " in why


def test_that_other_turns_of_the_account_run_is_told(
    server: ReferenceServer, durable_store_url: str
) -> None:
    """The account is full, and the next customer waits until one ends."""

    def look(store: EventStore) -> list[str]:
        full = TurnRunner(echo(), client=server.client(), store=store, account_concurrency=1)
        new = InboundEvent(event_id="2", phone_number=OTHER, text="secreto")
        assert full.run(new, wait=0.0).status == "queued"
        return told(durable_store_url, OTHER)

    [why] = seen_meanwhile(server, durable_store_url, look, account_concurrency=1)

    assert "1 turn of the account run" in why
    assert "account_concurrency=" in why


def test_that_the_agent_fails_is_told_with_its_place(
    server: ReferenceServer, durable_store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class and line, and not a word of what it said."""
    monkeypatch.setattr("langchain_convsync.turns.process.FIRST_BACKOFF", 60.0)

    def broken(_messages: list[BaseMessage]) -> AIMessage:
        message = "secreto"
        raise ValueError(message)

    with opened(durable_store_url) as store:
        says(store, server.client(), RunnableLambda(broken))

    [why] = told(durable_store_url)
    assert (
        "the agent failed 1 of 3 times: ValueError at integration_tests/test_show_causes.py:" in why
    )
    assert "in broken; again in " in why
    assert "secreto" not in why


def test_a_silence_is_not_said_to_be_a_humans(
    server: ReferenceServer, durable_store_url: str
) -> None:
    """It ends by itself, and has another cause; a pause of a human is told as one again."""

    def shown() -> str:
        return cli.invoke(command_line(), ["show", CUSTOMER, "--store", durable_store_url]).output

    with opened(durable_store_url) as store:
        runner = TurnRunner(echo(), client=server.client(), store=store, max_turns_per_minute=1)
        held = [runner.run(said(text)).status for text in ("uno", "dos")]
        runner.accept(said("tres"))
        silent, (why, *_) = shown(), told(durable_store_url)
        runner.resume(CUSTOMER)
        runner.pause(CUSTOMER, seconds=600)
        by_a_human, (its_why, *_) = shown(), told(durable_store_url)

    assert held == ["answered", "paused"]
    assert "human         no\n" in silent
    assert "silent        for " in silent
    assert "it went too fast (max_turns_per_minute=)" in why
    assert "human         has it for 10 min more" in by_a_human
    assert "silent" not in by_a_human
    assert "a human has the conversation" in its_why


@pytest.mark.parametrize(
    ("fate", "cause"),
    [
        (answers({"error": "no"}, status=422), "WAHA's session does not work: start it, or scan"),
        (
            answers({"error": "no"}, status=429, retry_after="60"),
            "WAHA asks to slow down (status 429); again in ",
        ),
        (never_came, "it may have arrived, and is looked for before it is sent again: "),
    ],
    ids=["not working", "too many", "lost"],
)
def test_why_a_reply_waits_is_told(
    server: ReferenceServer, durable_store_url: str, fate: Script, cause: str
) -> None:
    """What WAHA said to the process that tried to send it."""
    chats = WahaChats()
    chats.fates = [fate] * 20
    with waha_server(chats) as url, opened(durable_store_url) as store:
        reply = WAHAReply(url, settle=60.0)
        runner = TurnRunner(
            echo(), client=server.client(), store=store, reply=reply, shutdown_timeout=0.1
        )
        runner.run(said("secreto"))

    [why] = [each for each in told(durable_store_url) if each.startswith("replies")]
    assert why.startswith("replies, for ")
    assert cause in why
    assert "secreto" not in why


def test_why_a_write_waits_is_told(server: ReferenceServer, durable_store_url: str) -> None:
    """The API server went away between the read and the write; then it is left alone a while."""

    def leaving(_messages: list[BaseMessage]) -> AIMessage:
        server.stop()
        return AIMessage("Sí")

    with opened(durable_store_url) as store:
        client = ConvSyncClient(server.base_url, max_retries=0)
        runner = TurnRunner(
            RunnableLambda(leaving), client=client, store=store, shutdown_timeout=0.1
        )
        assert runner.run(said("secreto")).status == "answered"
        first = told(durable_store_url)
        client.close()

    [why] = [each for each in first if each.startswith("writes")]
    assert why.startswith("writes, for ")
    assert "secreto" not in why
