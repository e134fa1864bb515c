"""Tools that act once in a turn: whatever fails, is run again or runs at the same time."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ToolRetryMiddleware
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, ToolRuntime, tools_condition
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from langchain_convsync import telemetry
from langchain_convsync._flow import Io, run
from langchain_convsync.errors import (
    ConfigurationError,
    EventInProgressError,
    StoreUnavailableError,
    UnknownOutcomeError,
)
from langchain_convsync.middleware import OnceToolsMiddleware
from langchain_convsync.middleware._once_results import LARGEST_RESULT
from langchain_convsync.models import StateUpdate
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.stores.base import EventStore
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.tools import ConvSyncToolkit
from langchain_convsync.turns import TurnRunner
from tests.promises import CUSTOMER, Answer, history, said, served, sync_and_async
from tests.store_cases import Clock

NO = RuntimeError("the model is overloaded")


@pytest.fixture(scope="module")
def running() -> Iterator[ReferenceServer]:
    server = served()
    yield server
    server.stop()


@pytest.fixture
def server(running: ReferenceServer, monkeypatch: pytest.MonkeyPatch) -> ReferenceServer:
    """With a new conversation; a run that failed is begun again at once."""
    monkeypatch.setattr("langchain_convsync.turns.process.FIRST_BACKOFF", 0.0)
    running.expire(running.conversation(CUSTOMER).session_id)
    running.create_conversation(phone_number=CUSTOMER, subdomain="restaurant-abc", bot_id="bot123")
    return running


def calls(*wanted: tuple[str, dict[str, Any]]) -> Callable[[Any], AIMessage]:
    """The model calls these tools at once, under ids that are new each time."""

    def call(_: Any) -> AIMessage:
        return AIMessage("", tool_calls=[_call(name, args) for name, args in wanted])

    return call


def _call(name: str, args: dict[str, Any]) -> Any:
    _call.number += 1  # type: ignore[attr-defined]
    return {"name": name, "args": args, "id": f"call-{_call.number}"}  # type: ignore[attr-defined]


_call.number = 0  # type: ignore[attr-defined]
CHARGE = calls(("charge", {"amount": 25}))


@dataclass
class Shop:
    """What acts: every charge is one too many after the first."""

    charges: list[int] = field(default_factory=list)
    fails: list[BaseException] = field(default_factory=list)
    returns: Callable[[str | None], Any] = lambda _: "Paid."

    def charge(self, amount: int, tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
        """Charge the customer's card."""
        self.charges.append(amount)
        if self.fails:
            raise self.fails.pop(0)
        return self.returns(tool_call_id)

    async def acharge(self, amount: int, tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
        """Charge the customer's card."""
        return self.charge(amount, tool_call_id)

    def tool(self, **options: Any) -> BaseTool:
        return StructuredTool.from_function(self.charge, self.acharge, name="charge", **options)


@dataclass
class World:
    """A shop, its agent and its runner."""

    server: ReferenceServer
    shop: Shop
    model: ScriptedChatModel
    runner: TurnRunner

    @property
    def told(self) -> list[ToolMessage]:
        """What tools told the model in its last call."""
        return [m for m in self.model.calls[-1] if isinstance(m, ToolMessage)]


def world(
    server: ReferenceServer,
    script: Sequence[Any],
    *,
    store: EventStore | None = None,
    shop: Shop | None = None,
    once: OnceToolsMiddleware | None = None,
    middleware: Sequence[Any] | None = None,
    tools: Sequence[Any] = (),
    options: dict[str, Any] | None = None,
    checkpointer: Any = None,
    **settings: Any,
) -> World:
    shop, model = shop or Shop(), ScriptedChatModel(script)
    guards = [once or OnceToolsMiddleware()] if middleware is None else middleware
    agent: Any = create_agent(
        model,
        [shop.tool(**(options or {})), *tools],
        middleware=guards,
        checkpointer=checkpointer,
    )
    settings = {"client": server.client(), "lease": 1.0, "fallback_reply": "Ya vuelvo", **settings}
    store = store or SQLiteEventStore(":memory:")
    return World(server, shop, model, TurnRunner(agent, store=store, **settings))


# Once


@sync_and_async
def test_a_card_is_charged_once_although_the_model_fails_twice_afterwards(
    answer: Answer, server: ReferenceServer, event_store: EventStore
) -> None:
    """The third run's call is answered with what the first one's came to."""
    script = [CHARGE, NO, CHARGE, NO, CHARGE, "Listo"]
    made = world(server, script, store=event_store)

    turn = answer(made.runner, said("Pago"))

    assert (turn.status, turn.reply) == ("answered", "Listo")
    assert made.shop.charges == [25]
    assert [message.content for message in made.told] == ["Paid."]
    assert history(server) == [("user", "Pago"), ("bot", "Listo")]


@sync_and_async
def test_calls_at_the_same_time_act_once_each(answer: Answer, server: ReferenceServer) -> None:
    """Two equal ones in one message are two: the customer buys two pizzas."""
    wanted = calls(*[("charge", {"amount": amount}) for amount in (25, 25, 9)])
    made = world(server, [wanted, NO, wanted, NO, wanted, "Listo"])

    assert answer(made.runner, said("Dos pizzas y un agua")).reply == "Listo"

    assert Counter(made.shop.charges) == {25: 2, 9: 1}
    asked = made.model.calls[-1][-4]
    assert isinstance(asked, AIMessage)
    assert [m.tool_call_id for m in made.told] == [call["id"] for call in asked.tool_calls]


@sync_and_async
def test_the_same_call_later_in_a_run_is_another_call(
    answer: Answer, server: ReferenceServer
) -> None:
    """Whatever ids the model gives its calls."""
    same_id = AIMessage("", tool_calls=[{"name": "charge", "args": {"amount": 25}, "id": "1"}])
    other = AIMessage("", tool_calls=[{"name": "charge", "args": {"amount": 25.0}, "id": "1"}])
    made = world(server, [same_id, same_id, NO, other, other, "Listo"])

    assert answer(made.runner, said("Dos pizzas")).reply == "Listo"

    assert made.shop.charges == [25, 25]


@sync_and_async
def test_the_next_turn_charges_again(answer: Answer, server: ReferenceServer) -> None:
    """The customer asked for it again."""
    made = world(server, [CHARGE, "Listo", CHARGE, "Listo"])

    answer(made.runner, said("Pago"))
    answer(made.runner, said("Otra vez"))

    assert made.shop.charges == [25, 25]


@sync_and_async
def test_a_thread_with_a_memory_of_its_own_charges_once(
    answer: Answer, server: ReferenceServer
) -> None:
    """What a run that failed left in the thread is no reason to count anew."""
    script = [CHARGE, NO, CHARGE, NO, CHARGE, "Listo"]
    made = world(server, script, checkpointer=InMemorySaver())

    assert answer(made.runner, said("Pago")).reply == "Listo"

    assert made.shop.charges == [25]


@sync_and_async
def test_a_turn_that_begins_anew_for_a_newer_message_charges_once(
    answer: Answer, server: ReferenceServer
) -> None:
    """It keeps its head event, hence what its tools did."""
    newer: list[Any] = []

    def interrupted(_: Any) -> str:
        newer.append(made.runner.accept(said("Y un agua")))
        return "Listo"

    script = [CHARGE, interrupted, CHARGE, "Listo los dos"]
    made = world(server, script, on_newer_message="rerun")

    turn = answer(made.runner, said("Pago"))

    assert (turn.reply, len(newer)) == ("Listo los dos", 1)
    assert made.shop.charges == [25]


@sync_and_async
def test_a_subagents_tools_act_once_where_its_own_middleware_guards_them(
    answer: Answer, server: ReferenceServer
) -> None:
    """The cashier is an agent of its own, called by a tool that is not guarded."""
    shop = Shop()
    cashier: Any = create_agent(
        ScriptedChatModel([CHARGE, "Paid.", CHARGE, "Paid."]),
        [shop.tool()],
        middleware=[OnceToolsMiddleware()],
    )

    @tool
    def ask_cashier(question: str) -> str:
        """Ask the cashier."""
        return str(cashier.invoke({"messages": [("user", question)]})["messages"][-1].content)

    ask = calls(("ask_cashier", {"question": "pay"}))
    once = OnceToolsMiddleware(tools=["charge"])
    made = world(server, [ask, NO, ask, "Listo"], tools=[ask_cashier], once=once)

    assert answer(made.runner, said("Pago")).reply == "Listo"

    assert shop.charges == [25]


# What tools return


class Receipt(BaseModel):
    number: int


def _parent(tool_call_id: str | None) -> Any:
    message = ToolMessage("To the kitchen.", tool_call_id=str(tool_call_id))
    return Command(graph=Command.PARENT, goto="kitchen", update={"messages": [message]})


@pytest.mark.parametrize(
    ("returned", "options", "artifact"),
    [
        (("Paid.", {"receipt": 17}), "content_and_artifact", {"receipt": 17}),
        (("Paid.", [Document("Receipt")]), "content_and_artifact", [Document("Receipt")]),
        (("Paid.", Receipt(number=17)), "content_and_artifact", Receipt(number=17)),
        (("Paid.", object()), "content_and_artifact", None),
        ([{"type": "text", "text": "Paid."}], "content", None),
        ("", "content", None),
    ],
    ids=["artifact", "document", "model", "object", "blocks", "nothing"],
)
@sync_and_async
def test_a_result_comes_back_as_it_was(
    answer: Answer, server: ReferenceServer, returned: Any, options: str, artifact: Any
) -> None:
    """An artifact of no kind that is stored is left out: the model reads the same."""
    shop, script = Shop(returns=lambda _: returned), [CHARGE, NO, CHARGE, "Listo"]
    made = world(server, script, shop=shop, options={"response_format": options})

    assert answer(made.runner, said("Pago")).reply == "Listo"

    first, (again,) = made.model.calls[1][-1], made.told
    assert isinstance(first, ToolMessage)
    assert made.shop.charges == [25]
    assert (again.content, again.artifact) == (first.content, artifact)
    assert again.tool_call_id != first.tool_call_id


@sync_and_async
def test_a_message_that_tells_an_error_is_a_result(answer: Answer, server: ReferenceServer) -> None:
    """The card was refused: it is not asked again."""
    shop = Shop(fails=[ToolException("Refused.")])
    script = [CHARGE, NO, CHARGE, "Lo siento"]
    made = world(server, script, shop=shop, options={"handle_tool_error": True})

    assert answer(made.runner, said("Pago")).reply == "Lo siento"

    assert made.shop.charges == [25]
    assert [(m.content, m.status) for m in made.told] == [("Refused.", "error")]


@sync_and_async
def test_a_command_changes_the_state_of_each_run_and_acts_once(
    answer: Answer, server: ReferenceServer
) -> None:
    """What it updates is synced, although the tool was not called again."""

    def returned(tool_call_id: str | None) -> Any:
        message = ToolMessage("Paid.", tool_call_id=str(tool_call_id))
        return Command(update={"messages": [message], "step": "paid"})

    class Noted(MessagesState):
        step: str

    shop = Shop(returns=returned)
    model = ScriptedChatModel([CHARGE, NO, CHARGE, "Listo"])
    agent: Any = create_agent(
        model,
        [shop.tool()],
        middleware=[OnceToolsMiddleware()],
        state_schema=Noted,  # type: ignore[arg-type]
    )
    store = SQLiteEventStore(":memory:")
    runner = TurnRunner(agent, client=server.client(), store=store)

    turn = answer(runner, said("Pago"))

    assert (turn.reply, turn.state.step, shop.charges) == ("Listo", "paid", [25])
    assert isinstance(model.calls[-1][-1], ToolMessage)


@sync_and_async
def test_a_hand_over_to_another_agent_happens_again_and_its_tool_does_not(
    answer: Answer, server: ReferenceServer
) -> None:
    """``Command(graph=PARENT)``: the second run goes the same way."""
    shop = Shop(returns=_parent)
    waiter: Any = create_agent(
        ScriptedChatModel([CHARGE, CHARGE]), [shop.tool()], middleware=[OnceToolsMiddleware()]
    )
    cook = ScriptedChatModel([NO, "En camino"])
    graph = StateGraph(MessagesState)
    graph.add_node("waiter", waiter)
    graph.add_node("kitchen", lambda state: {"messages": [cook.invoke(state["messages"])]})
    graph.add_edge(START, "waiter")
    graph.add_edge("kitchen", END)
    store = SQLiteEventStore(":memory:")
    runner = TurnRunner(graph.compile(), client=server.client(), store=store)

    turn = answer(runner, said("Pago"))

    assert (turn.reply, shop.charges) == ("En camino", [25])
    assert cook.calls[-1][-1].content == "To the kitchen."


@tool
def to_the_kitchen(runtime: ToolRuntime) -> Command[Any]:
    """Hand over with the call that asked for it."""
    asked = runtime.state["messages"][-1]
    done = ToolMessage("To the kitchen.", tool_call_id=runtime.tool_call_id)
    return Command(goto="kitchen", graph=Command.PARENT, update={"messages": [asked, done]})


@sync_and_async
def test_a_thread_that_holds_what_an_earlier_run_left_gets_no_second_answer_to_its_call(
    answer: Answer, server: ReferenceServer
) -> None:
    """A model's provider refuses a thread in which a call has two."""
    waiter: Any = create_agent(
        ScriptedChatModel([calls(("to_the_kitchen", {}))] * 2),
        [to_the_kitchen],
        middleware=[OnceToolsMiddleware()],
    )
    cook = ScriptedChatModel([NO, "En camino"])
    graph = StateGraph(MessagesState).add_node("waiter", waiter)
    graph.add_node("kitchen", lambda state: {"messages": [cook.invoke(state["messages"])]})
    graph.add_edge(START, "waiter").add_edge("kitchen", END)
    agent = graph.compile(checkpointer=InMemorySaver())
    runner = TurnRunner(agent, client=server.client(), store=SQLiteEventStore(":memory:"))

    assert answer(runner, said("Pago")).reply == "En camino"

    asked = [call["id"] for m in cook.calls[-1] for call in getattr(m, "tool_calls", ())]
    answered = [m.tool_call_id for m in cook.calls[-1] if isinstance(m, ToolMessage)]
    assert answered == asked


@sync_and_async
def test_a_result_that_is_too_large_is_told_as_done_and_not_fetched_again(
    answer: Answer, server: ReferenceServer, caplog: pytest.LogCaptureFixture
) -> None:
    """With a word in the log when it could not be kept."""
    shop = Shop(returns=lambda _: "x" * LARGEST_RESULT)
    made = world(server, [CHARGE, NO, CHARGE, "Listo"], shop=shop)

    assert answer(made.runner, said("Pago")).reply == "Listo"

    assert made.shop.charges == [25]
    assert made.told[0].status == "error"
    assert "was carried out before" in str(made.told[0].content)
    assert "the result of tool charge cannot be kept: more than 256 KiB" in caplog.text


# Unknown outcomes


@pytest.mark.parametrize(
    ("unknown", "charges", "status"),
    [("ask", [25], "answered"), ("retry", [25, 25], "answered"), ("hold", [25], "failed")],
)
@sync_and_async
def test_the_policy_decides_what_follows_on_a_tool_that_raised(
    answer: Answer,
    server: ReferenceServer,
    event_store: EventStore,
    unknown: Any,
    charges: list[int],
    status: str,
) -> None:
    """Nobody can tell whether a payment that timed out was made."""
    shop, once = Shop(fails=[TimeoutError()]), OnceToolsMiddleware(unknown=unknown)
    made = world(server, [CHARGE, CHARGE, "Listo"], store=event_store, shop=shop, once=once)

    turn = answer(made.runner, said("Pago"))

    assert (turn.status, made.shop.charges) == (status, charges)
    if unknown == "ask":
        assert [m.status for m in made.told] == ["error"]
        assert "it may have taken effect" in str(made.told[0].content)
    if unknown == "hold":
        reason = "a call of tool charge was begun in an earlier run of the turn, "
        [letter] = run(event_store.dead_letters())
        assert turn.reply == "Ya vuelvo"
        assert letter.reason == f"{reason}and its outcome is unknown"
        assert isinstance(turn.error, UnknownOutcomeError)


def test_a_tool_that_the_deadline_cuts_off_is_of_unknown_outcome(server: ReferenceServer) -> None:
    """An agent that is awaited is cancelled; its tool may have acted by then."""
    begun: list[int] = []

    @tool
    async def transfer(amount: int) -> str:
        """Transfer money."""
        begun.append(amount)
        await asyncio.Event().wait()
        return "never"

    wanted = calls(("transfer", {"amount": 25}))
    made = world(server, [wanted, wanted, "Listo"], tools=[transfer], agent_timeout=2.0)

    assert asyncio.run(made.runner.arun(said("Pago"))).reply == "Listo"

    assert begun == [25]
    assert "it may have taken effect" in str(made.told[0].content)


@sync_and_async
def test_a_model_that_was_asked_may_decide_to_call_again(
    answer: Answer, server: ReferenceServer
) -> None:
    """And the further call acts once, too."""
    shop = Shop(fails=[TimeoutError()])
    script = [CHARGE, CHARGE, CHARGE, NO, CHARGE, CHARGE, "Listo"]
    made = world(server, script, shop=shop)

    assert answer(made.runner, said("Pago")).reply == "Listo"

    assert made.shop.charges == [25, 25]
    assert [m.status for m in made.told] == ["error", "success"]


@pytest.mark.parametrize("order", ["outside", "inside"])
@sync_and_async
def test_a_retry_middleware_runs_a_tool_as_often_as_ever_and_its_end_is_kept(
    answer: Answer, server: ReferenceServer, order: str
) -> None:
    """Whichever of the two is the outer one."""
    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0.0)
    once = OnceToolsMiddleware()
    shop = Shop(fails=[TimeoutError(), TimeoutError()])
    middleware = [retry, once] if order == "outside" else [once, retry]
    made = world(server, [CHARGE, NO, CHARGE, "Listo"], shop=shop, middleware=middleware)

    assert answer(made.runner, said("Pago")).reply == "Listo"

    assert made.shop.charges == [25, 25, 25]
    assert [m.content for m in made.told] == ["Paid."]


class AskingAgain(AgentMiddleware[Any, Any, Any]):
    """Repeats a call as long as its result is an error."""

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        while getattr(result := handler(request), "status", "") == "error":
            pass
        return result

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        while getattr(result := await handler(request), "status", "") == "error":
            pass
        return result


@sync_and_async
def test_a_middleware_that_repeats_errors_repeats_them_and_gets_the_same_in_a_later_run(
    answer: Answer, server: ReferenceServer
) -> None:
    """Each of its attempts is a call of its own."""
    shop = Shop(fails=[ToolException("Busy."), ToolException("Busy.")])
    options, middleware = {"handle_tool_error": True}, [AskingAgain(), OnceToolsMiddleware()]
    script = [CHARGE, NO, CHARGE, "Listo"]
    made = world(server, script, shop=shop, middleware=middleware, options=options)

    assert answer(made.runner, said("Pago")).reply == "Listo"

    assert made.shop.charges == [25, 25, 25]
    assert [m.content for m in made.told] == ["Paid."]


@sync_and_async
def test_a_tool_is_held_whatever_makes_an_answer_of_its_error(
    answer: Answer, server: ReferenceServer
) -> None:
    """The agent goes on and says something; the turn ends as a dead letter."""
    retry = ToolRetryMiddleware(max_retries=0, on_failure="continue")
    once, shop = OnceToolsMiddleware(unknown="hold"), Shop(fails=[TimeoutError()])
    script = [CHARGE, NO, CHARGE, "Pagado, creo"]
    made = world(server, script, shop=shop, middleware=[retry, once])

    turn = answer(made.runner, said("Pago"))

    assert (turn.status, turn.reply, made.shop.charges) == ("failed", "Ya vuelvo", [25])


@sync_and_async
def test_an_operators_retry_repeats_what_was_held_and_nothing_else(
    answer: Answer, server: ReferenceServer, event_store: EventStore
) -> None:
    """What is known to be done is not done again; the operator has looked after the rest."""
    booked: list[str] = []

    @tool
    def book(table: str) -> str:
        """Book a table."""
        booked.append(table)
        return "Booked."

    wanted = [calls(("book", {"table": "7"})), CHARGE]
    once, shop = OnceToolsMiddleware(unknown="hold"), Shop(fails=[TimeoutError()])
    script = [*wanted, *wanted, *wanted, "Listo"]
    made = world(server, script, store=event_store, once=once, shop=shop, tools=[book])

    held = answer(made.runner, said("Pago"))
    [letter] = run(event_store.dead_letters())
    run(event_store.requeue(letter, token="retry"))
    answer(made.runner, said("¿Y?"))

    assert held.status == "failed"
    assert booked == ["7"]
    assert made.shop.charges == [25, 25]


@sync_and_async
def test_a_tool_that_waits_for_a_human_is_neither_done_nor_unknown(
    answer: Answer, server: ReferenceServer
) -> None:
    """It goes on in the next turn, once."""
    asked: list[str] = []

    @tool
    def approve(question: str) -> str:
        """Ask a human."""
        asked.append(question)
        return str(interrupt(question))

    ask = calls(("approve", {"question": "¿Seguro?"}))
    script = [ask, CHARGE, NO, CHARGE, "Listo"]
    made = world(server, script, tools=[approve], checkpointer=InMemorySaver())

    waits, goes_on = answer(made.runner, said("Pago")), answer(made.runner, said("Sí"))

    assert (waits.status, goes_on.reply) == ("interrupted", "Listo")
    assert made.shop.charges == [25]
    assert made.told[0].content == "Sí"


@sync_and_async
def test_that_a_tool_was_begun_is_taken_back_when_it_waits_for_a_human(
    answer: Answer, server: ReferenceServer
) -> None:
    """However its turn ends, nobody is asked about it."""

    @tool
    def approve(question: str) -> str:
        """Ask a human."""
        return str(interrupt(question))

    store, ask = CountedStore(), calls(("approve", {"question": "¿Seguro?"}))
    made = world(server, [ask, "Listo"], tools=[approve], checkpointer=InMemorySaver(), store=store)

    assert answer(made.runner, said("Pago")).status == "interrupted"

    calls_of_it = [name for name in store.performed if name.endswith("_call")]
    assert calls_of_it == ["begin_call", "end_call"]


@sync_and_async
def test_a_tool_that_waits_for_a_human_goes_on_although_the_turn_was_not_committed(
    answer: Answer, server: ReferenceServer
) -> None:
    """The turn begins anew; that the tool was begun is taken back when it begins to wait."""

    @tool
    def approve(question: str) -> str:
        """Ask a human."""
        return str(interrupt(question))

    store = CountedStore()
    store.fails = {"commit_turn": 1}
    ask = calls(("approve", {"question": "¿Seguro?"}))
    script, memory = [ask, ask, "Listo"], InMemorySaver()
    made = world(server, script, tools=[approve], checkpointer=memory, store=store)
    with pytest.raises(StoreUnavailableError):
        answer(made.runner, said("Pago"))

    waits, goes_on = answer(made.runner, said("Pago")), answer(made.runner, said("Sí"))

    assert (waits.status, goes_on.reply) == ("interrupted", "Listo")
    assert [m.status for m in made.told] == ["success"]


# The turn's lease, and the store


@sync_and_async
def test_a_worker_that_lost_its_turn_calls_no_tool(answer: Answer, server: ReferenceServer) -> None:
    """The agent that was too slow is refused by the store, before it acts."""
    clock = Clock()
    store = SQLiteEventStore(":memory:", clock=clock)

    def overtaken(_: Any) -> AIMessage:
        """Another process takes the turn over, which gives it back."""
        clock.advance(31.0)
        other = run(store.acquire("inbox", "other"))
        assert other is not None
        run(store.release(other.lease))
        return CHARGE(None)

    made = world(server, [overtaken, CHARGE, "Listo"], store=store, lease=30.0)
    before = telemetry.counted("turns_fenced")

    assert answer(made.runner, said("Pago")).reply == "Listo"

    assert made.shop.charges == [25]
    assert telemetry.counted("turns_fenced") == before + 1


class CountedStore(SQLiteEventStore):
    """Counts its operations, and fails those that a test names."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.performed: list[str] = []
        self.fails: dict[str, int] = {}

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in {"accept", "acquire", "begin_call", "end_call", "commit_turn", "release"}:
            self.performed.append(name)
            if self.fails.get(name, 0):
                self.fails[name] -= 1
                return lambda *_, **__: Io(_unavailable, _unavailable)
        return found


def _unavailable() -> Any:
    message = "away"
    raise StoreUnavailableError(message)


@sync_and_async
def test_a_turn_costs_the_store_two_calls_for_each_tool_that_acts_and_no_other(
    answer: Answer, server: ReferenceServer
) -> None:
    """Nothing where no such tool runs."""
    store = CountedStore()
    made = world(server, ["Hola", CHARGE, "Listo"], store=store)

    answer(made.runner, said("Hola"))
    without = Counter(store.performed)
    store.performed.clear()
    answer(made.runner, said("Pago"))

    assert Counter(store.performed) - without == {"begin_call": 1, "end_call": 1}
    assert "begin_call" not in without


@sync_and_async
def test_a_tool_is_not_run_while_the_store_cannot_tell(
    answer: Answer, server: ReferenceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often: the agent did not fail, and the first run that can charges."""
    monkeypatch.setattr("langchain_convsync.turns.process.LONGEST_WANT", 0.05)
    store, blamed = CountedStore(), telemetry.counted("agent_failures")
    store.fails = {"begin_call": 4}
    made = world(server, [*[CHARGE] * 5, "Listo"], store=store)

    assert answer(made.runner, said("Pago")).reply == "Listo"

    assert made.shop.charges == [25]
    assert telemetry.counted("agent_failures") == blamed


@sync_and_async
def test_a_turn_goes_on_although_a_result_was_not_kept(
    answer: Answer, server: ReferenceServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Only a run that begins anew does not know what came of the call."""
    store = CountedStore()
    store.fails = {"end_call": 1}
    made = world(server, [CHARGE, NO, CHARGE, "Listo"], store=store)

    assert answer(made.runner, said("Pago")).reply == "Listo"

    assert made.shop.charges == [25]
    assert "it may have taken effect" in str(made.told[0].content)
    assert "the result of tool charge was not kept" in caplog.text


# Which tools


@sync_and_async
def test_what_our_own_tools_note_is_noted_in_every_run(
    answer: Answer, server: ReferenceServer
) -> None:
    """They act on nothing but the turn, which begins anew: the state is synced."""
    note = calls(
        ("sync_state", {"intent": "payment", "step": "paid"}),
        ("add_message", {"content": "Promo del día"}),
    )
    client = server.client()
    tools = ConvSyncToolkit(client).get_tools()
    made = world(server, [note, NO, note, "Listo"], tools=tools, client=client)

    turn = answer(made.runner, said("Pago"))

    assert turn.state == StateUpdate(intent="payment", step="paid")
    assert server.conversation(CUSTOMER).current_step == "paid"
    assert history(server) == [("user", "Pago"), ("bot", "Promo del día"), ("bot", "Listo")]


@pytest.mark.parametrize(
    ("tools", "charges"),
    [
        (["charge"], [25]),
        ([Shop().tool()], [25]),
        ({"charge": "ask"}, [25]),
        (["refund"], [25, 25]),
        ([], [25, 25]),
        (None, [25]),
    ],
    ids=["name", "tool", "mapping", "another", "none", "all"],
)
@sync_and_async
def test_only_the_tools_that_are_named_are_guarded(
    answer: Answer, server: ReferenceServer, tools: Any, charges: list[int]
) -> None:
    """The others are run as often as the agent calls them."""
    once = OnceToolsMiddleware(tools=tools)
    made = world(server, [CHARGE, NO, CHARGE, "Listo"], once=once)

    assert answer(made.runner, said("Pago")).reply == "Listo"
    assert made.shop.charges == charges


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tools": "charge"}, "a list of texts or BaseTools .* not a text"),
        ({"tools": Shop().tool()}, "a list of texts or BaseTools .*StructuredTool"),
        ({"tools": 5}, "a list of texts or BaseTools .*not an object of int"),
        ({"tools": [5]}, "a list of texts or BaseTools .*not a list of int"),
        ({"tools": {5: "hold"}}, "a list of texts or BaseTools .*not a mapping"),
        ({"tools": {"charge": "maybe"}}, 'to "ask" or "retry" or "hold"'),
        ({"unknown": "maybe"}, 'unknown must be "ask" or "retry" or "hold", not .maybe.'),
        ({"store": 5}, "store must be an EventStore .* make one, SQLiteEventStore"),
    ],
)
def test_what_guards_nothing_is_refused(settings: dict[str, Any], told: str) -> None:
    """It is refused where it is given, in one line that says what is taken."""
    with pytest.raises(ConfigurationError, match=told):
        OnceToolsMiddleware(**settings)


@sync_and_async
def test_each_tool_may_have_a_policy_of_its_own(answer: Answer, server: ReferenceServer) -> None:
    """A tool that may be repeated is, although the others are asked about."""
    once = OnceToolsMiddleware(tools={"charge": "retry"}, unknown="hold")
    made = world(server, [CHARGE, CHARGE, "Listo"], once=once, shop=Shop(fails=[TimeoutError()]))

    assert answer(made.runner, said("Pago")).reply == "Listo"
    assert made.shop.charges == [25, 25]


@sync_and_async
def test_a_graph_of_ones_own_guards_its_tools_in_the_same_way(
    answer: Answer, server: ReferenceServer
) -> None:
    """The two methods are what LangGraph's ``ToolNode`` takes."""
    shop, once = Shop(), OnceToolsMiddleware()
    model = ScriptedChatModel([CHARGE, NO, CHARGE, "Listo"])
    node = ToolNode(
        [shop.tool()], wrap_tool_call=once.wrap_tool_call, awrap_tool_call=once.awrap_tool_call
    )
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", node)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    store = SQLiteEventStore(":memory:")
    runner = TurnRunner(graph.compile(), client=server.client(), store=store)

    assert answer(runner, said("Pago")).reply == "Listo"
    assert shop.charges == [25]


# Outside of turns


class Killed(BaseException):
    """The process died: nothing is noted any more."""


def delivered(agent: Any, mode: str, event_id: str = "evt_1") -> Any:
    """One delivery of an event to a webhook without a runner."""
    given = {"messages": [HumanMessage("Pago")]}
    with in_conversation(CUSTOMER, event_id=event_id):
        return agent.invoke(given) if mode == "sync" else asyncio.run(agent.ainvoke(given))


def alone(
    script: Sequence[Any], shop: Shop, *middleware: Any, **options: Any
) -> tuple[ScriptedChatModel, Any]:
    model = ScriptedChatModel(script)
    return model, create_agent(model, [shop.tool(**options)], middleware=middleware)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_outside_a_turn_the_runs_that_answer_an_event_charge_once(
    mode: str, event_store: EventStore
) -> None:
    """Each call of the event, and those of the next event again."""
    shop, once = Shop(), OnceToolsMiddleware(event_store)
    model, agent = alone([CHARGE, CHARGE, NO, CHARGE, CHARGE, "Listo", CHARGE, "Listo"], shop, once)
    with pytest.raises(RuntimeError, match="overloaded"):
        delivered(agent, mode)

    assert delivered(agent, mode)["messages"][-1].content == "Listo"
    assert shop.charges == [25, 25]
    assert [m.content for m in model.calls[-1] if isinstance(m, ToolMessage)] == ["Paid."] * 2
    delivered(agent, mode, "evt_2")
    assert shop.charges == [25, 25, 25]


@pytest.mark.parametrize("order", ["outside", "inside"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_outside_a_turn_a_retry_middleware_repeats_a_tool_as_ever(mode: str, order: str) -> None:
    """And a later delivery is answered with the end of its tries."""
    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0.0)
    store, shop = SQLiteEventStore(":memory:"), Shop(fails=[TimeoutError(), TimeoutError()])
    once = OnceToolsMiddleware(store)
    middleware = [retry, once] if order == "outside" else [once, retry]
    _, agent = alone([CHARGE, NO, CHARGE, "Listo"], shop, *middleware)
    with pytest.raises(RuntimeError, match="overloaded"):
        delivered(agent, mode)

    assert delivered(agent, mode)["messages"][-2].content == "Paid."
    assert shop.charges == [25, 25, 25]
    store.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_outside_a_turn_errors_that_are_repeated_are_calls_of_their_own(mode: str) -> None:
    """The next call of the kind is not one of them."""
    store, shop = SQLiteEventStore(":memory:"), Shop(fails=[ToolException("Busy.")])
    options, script = {"handle_tool_error": True}, [CHARGE, CHARGE, NO, CHARGE, CHARGE, "Listo"]
    _, agent = alone(script, shop, AskingAgain(), OnceToolsMiddleware(store), **options)
    with pytest.raises(RuntimeError, match="overloaded"):
        delivered(agent, mode)

    delivered(agent, mode)
    assert shop.charges == [25, 25, 25]
    store.close()


@pytest.mark.parametrize(
    ("unknown", "charges"), [("ask", [25]), ("retry", [25, 25]), ("hold", [25])]
)
@pytest.mark.parametrize("failure", [TimeoutError, Killed])
def test_outside_a_turn_the_policy_decides_about_unknown_outcomes(
    failure: type[BaseException], unknown: Any, charges: list[int]
) -> None:
    """Of a tool that raised at once; of a process that died, when its lease has ended."""
    clock = Clock()
    store = SQLiteEventStore(":memory:", clock=clock)
    shop = Shop(fails=[failure()])
    model, agent = alone(
        [CHARGE, CHARGE, "Listo"], shop, OnceToolsMiddleware(store, unknown=unknown)
    )
    with pytest.raises(failure):
        delivered(agent, "sync")
    clock.advance(31.0 if failure is Killed else 0.0)

    if unknown == "hold":
        with pytest.raises(UnknownOutcomeError, match="tool charge"):
            delivered(agent, "sync")
    else:
        delivered(agent, "sync")
        told = str(model.calls[-1][-1].content)
        assert ("it may have taken effect" in told) == (unknown == "ask")
    assert shop.charges == charges
    store.close()


def test_outside_a_turn_a_call_under_way_is_not_begun_by_another_process() -> None:
    """The event is to be delivered again."""
    store = SQLiteEventStore(":memory:")
    shop = Shop(fails=[Killed()])
    _, agent = alone([CHARGE, CHARGE], shop, OnceToolsMiddleware(store))
    with pytest.raises(Killed):
        delivered(agent, "sync")

    with pytest.raises(EventInProgressError, match="deliver the event again"):
        delivered(agent, "sync")
    assert shop.charges == [25]
    store.close()


def test_without_turn_and_event_tools_are_run_as_they_are_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the log and in a counter."""
    shop, before = Shop(), telemetry.counted("once_calls", outcome="unguarded")
    model = ScriptedChatModel([CHARGE, CHARGE, "Listo"])
    agent: Any = create_agent(model, [shop.tool()], middleware=[OnceToolsMiddleware()])

    with caplog.at_level(logging.WARNING):
        agent.invoke({"messages": [HumanMessage("Pago")]})

    assert shop.charges == [25, 25]
    told = [record.message for record in caplog.records if "OnceTools" in record.message]
    assert len(told) == 1
    assert "all others are run as they are" in told[0]
    assert telemetry.counted("once_calls", outcome="unguarded") == before + 2
