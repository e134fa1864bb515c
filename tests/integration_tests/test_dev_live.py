"""``convsync dev --read-only``: a live store, looked at and left alone."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync import ConvSyncClient, InboundEvent, StateUpdate, TurnRunner
from langchain_convsync._flow import run
from langchain_convsync.cli import main
from langchain_convsync.stores import open_store
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import operators
from langchain_convsync.workbench.live import WHOLE, Live
from tests.developing import Page, served
from tests.redis_server import RedisServer

pytestmark = pytest.mark.slow  # the pages of a developer's tool, in processes of their own

PHONE = "+51999888777"
SECRET = "quiero una pizza"


def turn(
    server: ReferenceServer, url: str, number: int, text: str = SECRET, **settings: Any
) -> None:
    """One turn in another process's place; one that says boom ends as a dead letter."""

    def answer(messages: list[Any]) -> AIMessage:
        if "boom" in messages[-1].content:
            raise ValueError("the oven is off")
        return AIMessage(f"re: {messages[-1].content}")

    runner = TurnRunner(
        RunnableLambda(answer),
        client=server.client(),
        store=url,
        max_errors=1,
        fallback_reply="One moment",
        extractor=lambda _: StateUpdate(intent="order", context={"address": SECRET}),
        **settings,
    )
    runner.run(InboundEvent(event_id=str(number), phone_number=PHONE, text=text))
    runner.close()


def shown(url: str, *options: str) -> AbstractContextManager[Page]:
    """The page of a live store."""
    return served("--read-only", "--store", url, "--conversation", PHONE, *options)


def until(page: Page, text: str) -> str:
    """All that was told until a fact has this text."""
    told = ""
    for _, each in page.told():
        told += str(each)
        if text in str(each.get("text")):
            return told
    raise AssertionError(told)


@pytest.mark.parametrize("options", [(), ("--text",)])
def test_a_live_store_is_shown_without_words_and_without_a_lever(
    durable_store_url: str, options: tuple[str, ...]
) -> None:
    """What happens, what waits, and why; never the number, and words only if asked for."""
    with ReferenceServer() as server:
        server.create_conversation(phone_number=PHONE)
        turn(server, durable_store_url, 1)
        with shown(durable_store_url, *options) as page:
            page.until("met")
            turn(server, durable_store_url, 2, text="boom")
            told = until(page, "a dead letter: ")
            states = {}
            for kind, each in page.told():
                if kind == "state":
                    states[each["who"]] = each
                if len(states) > 1 and all(state["dead"] for state in states.values()):
                    break
            deeds = [page.do(each) for each in ("discard", "retry", "pause", "write")]
    store = open_store(durable_store_url)
    key = run(operators.conversation_key_of(store, PHONE))
    inspected = run(operators.inspect_conversation(store, key))
    store.close()
    whole = states.pop(WHOLE)
    [state] = states.values()

    assert (SECRET in str(state)) is bool(options)
    assert "999888777" not in told + str(state)
    assert state["conversation"]["currentIntent"] == "order"
    assert "address" in state["conversation"]["context"]
    assert len(whole["dead"]) == 1
    assert {deed.status_code for deed in deeds} == {403}
    assert "shows a store, and does nothing to it" in deeds[0].text
    assert len(inspected.dead_letters) == 1
    assert inspected.view.paused_until is None


def test_what_happens_between_two_looks_is_told_in_order(tmp_path: Path) -> None:
    """A turn that was committed, and who has the conversation."""
    url = str(tmp_path / "store.db")
    store = open_store(url)
    key = run(operators.conversation_key_of(store, PHONE))
    with ReferenceServer() as server, Live(store, asked=[key]) as live:
        server.create_conversation(phone_number=PHONE)
        turn(server, url, 1)
        assert live.timeline.wait(lambda facts: "1 turn committed" in _texts(facts), 60)
        run(operators.pause(store, key, 60))
        assert live.timeline.wait(lambda facts: "a human has it" in _texts(facts), 60)
        run(operators.pause(store, key, 0))
        assert live.timeline.wait(lambda facts: "the agent answers again" in _texts(facts), 60)
        for number in (2, 3):
            turn(server, url, number, max_turns_per_minute=1)
        assert live.timeline.wait(lambda facts: "it went too fast" in _texts(facts), 60)
    store.close()


def test_conversations_that_fell_silent_are_shown_no_more(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is open for days does not grow; one that is active again is shown again."""
    monkeypatch.setattr("langchain_convsync.workbench.live.MOST", 2)
    redis_server.empty()
    store, client = open_store(redis_server.url), ConvSyncClient("http://127.0.0.1:9")
    runner = TurnRunner(RunnableLambda(str), client=client, store=redis_server.url)
    with Live(store) as live:
        for number, phone in enumerate((*PHONES, PHONES[0]), 1):
            runner.accept(InboundEvent(event_id=str(number), phone_number=phone, text=SECRET))
            assert live.timeline.wait(lambda facts: len(_whos(facts, "met")) == number, 60)  # noqa: B023
        assert live.timeline.wait(lambda facts: len(_whos(facts, "parted")) == 2, 60)
    met, parted = (_whos(live.timeline.since(), kind) for kind in ("met", "parted"))
    shown = {*live.customers}, {state["who"] for state in live.listen(print)}
    runner.close()
    store.close()

    assert met[0] == met[3]
    assert parted == met[:2]
    assert shown == ({WHOLE, *met[2:]},) * 2


PHONES = ("+51999888777", "+51999888776", "+51999888775")


def _whos(facts: list[dict[str, Any]], kind: str) -> list[str]:
    return [fact["who"] for fact in facts if fact["kind"] == kind]


def _texts(facts: list[dict[str, Any]]) -> list[str]:
    return [str(fact.get("text")) for fact in facts]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--read-only", "bot:runner"], "--read-only looks at a store: name no runner with it"),
        (["--store", "x.db", "bot:runner"], "--store, --conversation and --text look at a live"),
        (["--read-only", "--store", "none.db"], "there is no event store none.db"),
    ],
)
def test_a_store_or_a_runner_is_named(
    options: list[str],
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not both."""
    monkeypatch.setattr(sys, "argv", ["convsync", "dev", "--no-open", *options])
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    assert error in capsys.readouterr().err
