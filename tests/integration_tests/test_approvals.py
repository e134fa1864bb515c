"""An agent that waits for a human: LangChain's own middleware, by code, in time and too late."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import pytest
from langgraph.types import Command

from langchain_convsync._flow import run
from langchain_convsync.dedup import once
from langchain_convsync.errors import ConfigurationError, NoInterruptError
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.tools import ConvSyncToolkit
from langchain_convsync.turns import Turn, TurnRunner, operators
from tests import promises, waiting
from tests.promises import CUSTOMER
from tests.waiting import APPROVED, Calls, Cashier, asking, asking_at_once, said, syncs, wants

server, calls = promises.server, waiting.calls
pytestmark = pytest.mark.usefixtures("no_pause")


def runner_of(
    cashier: Cashier, server: ReferenceServer, store: EventStore, **settings: Any
) -> TurnRunner:
    settings = {"fallback_reply": "Ahora no", "interrupt_timeout": None, **settings}
    return TurnRunner(cashier.agent(), client=server.client(), store=store, **settings)


@pytest.mark.parametrize(
    ("decision", "paid", "told"),
    [
        ({"type": "approve"}, [1], "paid 1"),
        ({"type": "edit", "edited_action": {"name": "pay", "args": {"amount": 5}}}, [5], "paid 5"),
        ({"type": "reject", "message": "Too much"}, [], "Too much"),
        ({"type": "respond", "message": "Paid in cash"}, [], "Paid in cash"),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_a_human_decides_and_the_conversation_goes_on(
    server: ReferenceServer,
    event_store: EventStore,
    calls: Calls,
    decision: dict[str, Any],
    paid: list[int],
    told: str,
) -> None:
    """The turn tells what is asked; the reply to the decision is a turn's like any other."""
    cashier = Cashier()
    runner = runner_of(cashier, server, event_store)

    asked = calls.run(runner, 1, "Pago")
    done = calls.resume(runner, {"decisions": [decision]})
    after = calls.run(runner, 2, "Gracias")

    assert (asked.status, asked.reply) == ("interrupted", None)
    assert [each.value["action_requests"][0]["name"] for each in asked.interrupts] == ["pay"]
    assert (done.status, done.reply, after.reply) == ("answered", "Hecho", "Sí")
    assert (cashier.paid, told in " ".join(cashier.told())) == (paid, True)
    assert said(server) == ["Pago", "Hecho", "Gracias", "Sí"]
    assert calls.run(runner, 1, "Pago").interrupts == asked.interrupts


def test_what_the_customer_writes_meanwhile_is_kept_in_order(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """It waits behind the decision, and is answered after it; nothing of it looks overdue."""
    cashier = Cashier()
    runner = runner_of(cashier, server, event_store)
    calls.run(runner, 1, "Pago")

    statuses = [
        calls.run(runner, number, text, 0).status for number, text in ((2, "¿Ya?"), (3, "¿Y?"))
    ]
    waits = run(event_store.backlog())
    due = [load.due_in for load in run(event_store.loads()) if load.queue == "inbox"]
    calls.resume(runner, APPROVED)
    calls.run(runner, 3, "¿Y?")

    assert statuses == ["queued", "queued"]
    assert (waits.interrupts, waits.queued) == (1, 2)
    assert min(due) > 1000
    assert said(server) == ["Pago", "Hecho", "¿Ya?", "¿Y?", "Sí"]
    assert run(event_store.backlog()).interrupts == 0


def test_where_no_one_decides_in_time_the_run_goes_on_with_a_refusal(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """One reply answers the refusal and what the customer wrote; the model knows both."""
    cashier = Cashier()
    runner = runner_of(cashier, server, event_store, interrupt_timeout=0.5)
    calls.run(runner, 1, "Pago")

    refused = calls.run(runner, 2, "¿Ya está?")
    after = calls.run(runner, 3, "Gracias")

    assert (refused.status, refused.reply, after.reply) == ("answered", "Hecho", "Sí")
    assert cashier.paid == []
    [told] = cashier.told()
    assert "No one decided in time" in told
    assert "¿Ya está?" in told
    assert said(server) == ["Pago", "¿Ya está?", "Hecho", "Gracias", "Sí"]


def test_a_worker_sends_the_refusal_that_no_call_waits_for(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """The customer hears something even if neither they nor anybody else writes again."""
    sent: SimpleQueue[Turn] = SimpleQueue()
    settings: dict[str, Any] = {"on_reply": sent.put, "interrupt_timeout": 0.3}

    with runner_of(Cashier(), server, event_store, **settings) as runner:
        waiting.Calls(lambda done: done, "").run(runner, 1, "Pago")
        turn = sent.get(timeout=60)

    assert (turn.reply, turn.chat_id) == ("Hecho", "51999999999@c.us")
    assert said(server) == ["Pago", "Hecho"]


def test_what_takes_no_refusal_is_given_up(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """A tool that may only be approved is not run, and the next run begins."""
    cashier = Cashier(interrupt_on={"allowed_decisions": ["approve"]})
    runner = runner_of(cashier, server, event_store, interrupt_timeout=0.3)
    calls.run(runner, 1, "Pago")

    turn = calls.run(runner, 2, "¿Ya?")

    assert (turn.status, turn.reply, cashier.paid) == ("answered", "Hecho", [])
    assert said(server) == ["Pago", "¿Ya?", "Hecho"]


@pytest.mark.parametrize("by", ["resume", "prepare"])
def test_a_function_of_yours_decides_when_the_customer_has_written(
    server: ReferenceServer, event_store: EventStore, calls: Calls, by: str
) -> None:
    """What it makes of the messages resumes the run, and one reply answers them; None waits on."""
    from langgraph.types import Command

    def resume(interrupts: Any, events: Any) -> Any:
        assert [each.value["action_requests"][0]["name"] for each in interrupts] == ["pay"]
        return APPROVED if events[-1].text == "sí" else None

    def prepare(_conversation: Any, events: Any) -> Any:
        if events[-1].text == "sí":
            return Command(resume=APPROVED)
        return {"messages": [("user", event.content) for event in events]}

    cashier = Cashier()
    settings: dict[str, Any] = {"resume": resume} if by == "resume" else {"prepare": prepare}
    runner = runner_of(cashier, server, event_store, **settings)
    calls.run(runner, 1, "Pago")

    waits = calls.run(runner, 2, "mmm", 0)
    turn = calls.run(runner, 3, "sí")

    assert (waits.status, turn.status, turn.events) == ("queued", "answered", ("evt_2", "evt_3"))
    assert cashier.paid == [1]
    assert said(server) == ["Pago", "mmm", "sí", "Hecho"]


def test_a_function_that_fails_leaves_it_to_a_human(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """As one does that is async in a blocking call, or that returns no JSON."""

    def resume(*_: Any) -> Any:
        raise LookupError

    cashier = Cashier()
    runner = runner_of(cashier, server, event_store, resume=resume)
    calls.run(runner, 1, "Pago")

    waits = calls.run(runner, 2, "sí", 0)
    turn = calls.resume(runner, APPROVED)

    assert (waits.status, turn.reply, cashier.paid) == ("queued", "Hecho", [1])


def test_a_run_that_cannot_go_on_locks_no_one_out(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """An answer of another shape fails: fallback, dead letter; the next message is a new run."""
    cashier = Cashier()
    runner = runner_of(cashier, server, event_store)
    calls.run(runner, 1, "Pago")

    failed = calls.resume(runner, "sí")
    after = calls.run(runner, 2, "¿Hola?")

    assert (failed.status, failed.reply, type(failed.error)) == ("failed", "Ahora no", TypeError)
    assert (after.status, after.reply) == ("answered", "Hecho")
    assert [each for each in cashier.told() if "Not run" in each]  # every call has its answer
    assert said(server) == ["Pago", "Ahora no", "¿Hola?", "Hecho"]
    assert len(run(event_store.dead_letters())) == 1


def test_a_run_that_is_given_back_does_not_apologise_twice(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """Its memory was cleaned up, so it fails again; the customer has the fallback already."""
    cashier = Cashier()
    runner = runner_of(cashier, server, event_store)
    calls.run(runner, 1, "Pago")
    calls.resume(runner, "sí")
    conversation_key = run(operators.conversation_key_of(event_store, CUSTOMER))

    assert run(operators.retry(event_store, conversation_key)) == 1
    turn = calls.run(runner, 2, "¿Hola?")

    assert (turn.status, turn.reply) == ("answered", "Hecho")
    assert said(server) == ["Pago", "Ahora no", "¿Hola?", "Hecho"]
    assert len(run(event_store.dead_letters())) == 1


def test_a_run_that_fails_half_way_leaves_no_call_without_an_answer(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """Providers refuse a thread in which a tool's call has none: the next message needs one."""
    cashier = Cashier(failures=[ConnectionError("the bank is away") for _ in range(3)])
    runner = runner_of(cashier, server, event_store)
    calls.run(runner, 1, "Pago")

    failed = calls.resume(runner, APPROVED)
    after = calls.run(runner, 2, "¿Hola?")

    assert (failed.status, failed.reply, after.reply) == ("failed", "Ahora no", "Hecho")
    assert [each for each in cashier.told() if "Not run" in each]


def test_an_answer_that_its_agent_failed_on_is_tried_again(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """It is in the store: the human need not answer twice."""
    cashier = Cashier(failures=[ConnectionError("the bank is away")])
    runner = runner_of(cashier, server, event_store)
    calls.run(runner, 1, "Pago")

    turn = calls.resume(runner, APPROVED)

    assert (turn.status, turn.reply, cashier.paid) == ("answered", "Hecho", [1])


def test_another_process_goes_on_where_the_agents_memory_is_shared(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """Nothing of it is in the runner; and an agent that remembers nothing says so."""
    cashier = Cashier()
    calls.run(runner_of(cashier, server, event_store), 1, "Pago")
    forgetful = Cashier(script=["Nuevo"])

    turn = calls.resume(runner_of(cashier, server, event_store), APPROVED)
    calls.run(runner_of(Cashier(), server, event_store), 2, "Pago más")
    lost = calls.resume(runner_of(forgetful, server, event_store), APPROVED)

    assert turn.reply == "Hecho"
    assert (lost.status, lost.reply) == ("failed", "Ahora no")
    [letter] = run(event_store.dead_letters())
    assert "memory" in letter.reason
    assert calls.run(runner_of(forgetful, server, event_store), 3, "¿Hola?").reply == "Nuevo"


def test_the_first_answer_counts(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """The same one again is the same; another one is refused, and so is one that is late."""
    runner = runner_of(Cashier(), server, event_store)
    calls.run(runner, 1, "Pago")
    conversation_key = run(operators.conversation_key_of(event_store, CUSTOMER))

    for _ in range(2):
        run(operators.answer(event_store, conversation_key, lambda _: APPROVED))
    with pytest.raises(NoInterruptError, match="another answer"):
        calls.resume(runner, {"decisions": [{"type": "reject"}]})
    with pytest.raises(ConfigurationError, match="JSON"):
        calls.resume(runner, object())

    assert calls.resume(runner, APPROVED).reply == "Hecho"
    with pytest.raises(NoInterruptError, match="has gone on"):
        calls.resume(runner, APPROVED)


def test_a_human_who_takes_over_ends_what_waits(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """What the customer writes is recorded at once; the agent begins anew when it has them back."""
    cashier = Cashier()
    runner = runner_of(cashier, server, event_store)
    calls.run(runner, 1, "Pago")
    runner.pause(CUSTOMER, seconds=1000)

    paused = calls.run(runner, 2, "¿Hay alguien?")
    with pytest.raises(NoInterruptError):
        calls.resume(runner, APPROVED)
    runner.resume(CUSTOMER)
    turn = calls.run(runner, 3, "¿Hola?")

    assert (paused.status, turn.reply, cashier.paid) == ("paused", "Hecho", [])
    assert said(server) == ["Pago", "¿Hay alguien?", "¿Hola?", "Hecho"]


def test_what_a_store_has_forgotten_is_ended_by_the_next_message(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """The agent's memory waits for a human; no one could answer it any more."""
    cashier = Cashier()
    runner = runner_of(cashier, server, event_store)
    calls.run(runner, 1, "Pago")
    run(event_store.forget(run(operators.conversation_key_of(event_store, CUSTOMER))))

    turn = calls.run(runner, 2, "¿Hola?")

    assert (turn.status, turn.reply, cashier.paid) == ("answered", "Hecho", [])
    assert run(event_store.backlog()).interrupts == 0


@pytest.mark.parametrize("surface", ["toolkit", "middleware"])
def test_what_was_noted_before_a_decision_is_synced_at_once_and_once(
    server: ReferenceServer, event_store: EventStore, calls: Calls, surface: str
) -> None:
    """The colleague who decides sees it; the rest of the run syncs only what is new."""
    noted = wants(("sync_state", {"intent": "payment", "context": {"total": 25}}))
    rest = wants(("sync_state", {"step": "paid"}))
    client = server.client()
    cashier = Cashier(script=[noted, wants(("pay", {"amount": 1})), rest, "Hecho"])
    if surface == "toolkit":
        cashier.tools = ConvSyncToolkit(client).get_tools()
    else:
        cashier.middleware = [ConvSyncMiddleware(client)]
    runner = runner_of(cashier, server, event_store)

    asked = calls.run(runner, 1, "Pago")
    seen = server.conversation(CUSTOMER).current_intent
    done = calls.resume(runner, APPROVED)

    assert (asked.state.intent, asked.state.context, seen) == ("payment", {"total": 25}, "payment")
    assert (done.state.intent, done.state.step, done.state.context) == (None, "paid", {})
    assert (server.conversation(CUSTOMER).current_step, syncs(server)) == ("paid", 2)


@pytest.mark.parametrize("question", [{"total": 25}, [1], True])
def test_whatever_is_no_text_waits_for_a_human(
    server: ReferenceServer, event_store: EventStore, calls: Calls, question: Any
) -> None:
    """Of a shape that no one knows, any value is an answer, and the customer's words a refusal."""
    settings: dict[str, Any] = {"client": server.client(), "store": event_store}
    runner = TurnRunner(asking(question, question), interrupt_timeout=0.3, **settings)

    asked = calls.run(runner, 1, "Q1")
    again = calls.resume(runner, 7)
    turn = calls.run(runner, 2, "¿Y?")

    assert [each.value for each in asked.interrupts] == [question]
    assert (asked.reply, again.status, turn.reply) == (None, "interrupted", "Dijiste 7 y ¿Y?")


@pytest.mark.parametrize("value", [None, {}, False, ["sí"], {"total": 25}])
def test_any_json_value_is_an_answer(
    server: ReferenceServer, event_store: EventStore, calls: Calls, value: Any
) -> None:
    """It is what ``interrupt()`` returns, also where it says nothing."""
    runner = TurnRunner(
        asking({"total": 25}), client=server.client(), store=event_store, interrupt_timeout=None
    )
    calls.run(runner, 1, "Q1")

    assert calls.resume(runner, value).reply == f"Dijiste {value}"


@pytest.mark.parametrize("by", ["code", "resume"])
def test_a_command_stands_for_what_it_resumes_with(
    server: ReferenceServer, event_store: EventStore, calls: Calls, by: str
) -> None:
    """As LangGraph's own pages show it."""
    settings: dict[str, Any] = {"client": server.client(), "store": event_store}
    if by == "resume":
        settings["resume"] = lambda _interrupts, _events: Command(resume="sí")
    runner = TurnRunner(asking({"total": 25}), interrupt_timeout=None, **settings)
    calls.run(runner, 1, "Q1")

    if by == "code":
        turn = calls.resume(runner, Command(resume="sí"))
    else:
        turn = calls.run(runner, 2, "¿Y?")

    assert turn.reply == "Dijiste sí"


def test_several_that_wait_at_once_are_answered_together(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """By one value for all, or by one for each of them."""
    agent = asking_at_once({"a": 1}, {"b": 2})
    settings: dict[str, Any] = {"client": server.client(), "store": event_store}
    runner = TurnRunner(agent, interrupt_timeout=None, **settings)

    asked = calls.run(runner, 1, "Q1")
    first, second = sorted(asked.interrupts, key=lambda each: each.value == {"b": 2})
    some = calls.resume(runner, {first.id: "uno"})
    done = calls.resume(runner, "dos")

    assert [each.value for each in some.interrupts] == [second.value]
    assert (done.status, done.reply) == ("answered", "Dijiste dos")


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), 1e12, "30", True, []])
def test_a_timeout_is_a_time(server: ReferenceServer, seconds: Any) -> None:
    """It is refused where it is given."""
    with pytest.raises(ConfigurationError, match="interrupt_timeout"):
        TurnRunner(asking("?"), client=server.client(), interrupt_timeout=seconds)


def test_what_is_no_store_is_refused(server: ReferenceServer) -> None:
    """It is refused where it is given, not with the first event."""
    no_store: Any = object()
    with pytest.raises(ConfigurationError, match="must be an EventStore"):
        TurnRunner(asking("?"), client=server.client(), store=no_store)
    with pytest.raises(ConfigurationError, match="must be an EventStore"), once(no_store, "evt_1"):
        pass


@pytest.mark.parametrize("answer", ["yes", True, {"decisions": [{"type": "approve"}]}])
def test_an_answer_in_place_of_a_function_is_refused(server: ReferenceServer, answer: Any) -> None:
    """It is refused where it is given, with the method that takes answers."""
    with pytest.raises(ConfigurationError, match=r"^resume must be .* resume_interrupt\("):
        TurnRunner(asking("?"), client=server.client(), resume=answer)


def test_a_human_who_answers_while_a_function_decides_is_heard(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """Of two answers the first one that is recorded counts, and the run knows no other."""
    conversation_key = run(operators.conversation_key_of(event_store, CUSTOMER))

    def resume(_interrupts: Any, _events: Any) -> Any:
        run(operators.answer(event_store, conversation_key, lambda _: APPROVED))
        return {"decisions": [{"type": "reject"}]}

    cashier = Cashier()
    runner = runner_of(cashier, server, event_store, resume=resume)
    calls.run(runner, 1, "Pago")

    calls.run(runner, 2, "¿Ya?")

    assert cashier.paid == [1]
    assert said(server) == ["Pago", "Hecho", "¿Ya?", "Sí"]
