"""Agents that do not end by themselves: each turn does, at its deadline, its steps or a loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware, ToolRetryMiddleware
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from langchain_convsync.errors import LoopError
from langchain_convsync.middleware import ConvSyncMiddleware, OnceToolsMiddleware
from langchain_convsync.models import InboundEvent
from langchain_convsync.surfaces.repeats import HINT
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.turns import Turn, TurnRunner
from langchain_convsync.turns.stopping import AgentTimeoutError
from tests import promises
from tests.promises import CUSTOMER

Answer = Callable[[TurnRunner], Turn]
Agent = Runnable[Any, Any]
pytestmark = pytest.mark.usefixtures("no_pause")
server = promises.server


def hola(number: int = 1) -> InboundEvent:
    return InboundEvent(event_id=f"evt_{number}", phone_number=CUSTOMER, text="Hola")


@pytest.fixture(params=["sync", "async"])
def answer(request: pytest.FixtureRequest) -> Answer:
    if request.param == "sync":
        return lambda runner: runner.run(hola())
    return lambda runner: asyncio.run(runner.arun(hola()))


@pytest.fixture
def made(server: ReferenceServer) -> Callable[..., TurnRunner]:
    """A runner of an agent, with a store of its own."""
    from langchain_convsync.stores import SQLiteEventStore

    def make(agent: Agent, **settings: Any) -> TurnRunner:
        store = SQLiteEventStore(":memory:")
        return TurnRunner(agent, client=server.client(), store=store, **settings)

    return make


def wants(**args: Any) -> AIMessage:
    call = {"name": "look", "args": args, "id": f"call-{next(_ids)}"}
    return AIMessage("", tool_calls=[call])


_ids = itertools.count()


class Looker:
    """A model that looks for ever, each time elsewhere, and the tool by which it does."""

    def __init__(self, *told: str, same: bool = False) -> None:
        self.looked = 0
        self.told = itertools.chain(told, itertools.repeat("nothing"))
        places = itertools.repeat(0) if same else itertools.count()
        self.model = ScriptedChatModel(
            itertools.repeat(lambda _messages: wants(place=next(places)))
        )

    @property
    def tool(self) -> BaseTool:
        @tool
        def look(place: int) -> str:
            """Look."""
            del place
            self.looked += 1
            return next(self.told)

        return look

    def agent(self, *middleware: Any, **more: Any) -> Agent:
        made: Agent = create_agent(self.model, [self.tool], middleware=middleware, **more)
        return made

    def hints(self) -> int:
        """How many results of tools, as the model saw them last, are hints."""
        seen = self.model.calls[-1]
        return sum(m.content == HINT for m in seen if isinstance(m, ToolMessage))


def by_hand(looker: Looker) -> Agent:
    """A graph as people wrote them before ``create_agent``, which hides errors of tools."""
    model = looker.model.bind_tools([looker.tool])

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    graph: Any = StateGraph(MessagesState).add_node("think", think)
    graph.add_node("tools", ToolNode([looker.tool], handle_tool_errors=True))
    graph.add_conditional_edges("think", tools_condition)
    made: Agent = graph.add_edge(START, "think").add_edge("tools", "think").compile()
    return made


def calm() -> Agent:
    return RunnableLambda(lambda _messages: AIMessage("calm"))


ENDLESS: dict[str, Callable[[Looker], Agent]] = {
    "plain": lambda looker: looker.agent(),
    "with a memory": lambda looker: looker.agent(checkpointer=InMemorySaver()),
    "tools retried": lambda looker: looker.agent(ToolRetryMiddleware(initial_delay=0.0)),
    "models retried": lambda looker: looker.agent(ModelRetryMiddleware(initial_delay=0.0)),
    "run retried": lambda looker: looker.agent().with_retry(wait_exponential_jitter=False),
    "fallbacks": lambda looker: looker.agent().with_fallbacks([calm()]),
    "by hand": by_hand,
    "ours": lambda looker: looker.agent(OnceToolsMiddleware()),
}


@pytest.mark.parametrize("shape", ENDLESS)
def test_the_deadline_ends_an_agent_that_calls_tools_for_ever(
    shape: str, made: Callable[..., TurnRunner], answer: Answer
) -> None:
    """Between its steps, whatever retries, falls back or hides errors around it."""
    looker = Looker()
    agent = ENDLESS[shape](looker).with_config(recursion_limit=1_000_000)
    turn = answer(made(agent, agent_timeout=0.2, max_errors=1, fallback_reply="Luego"))

    assert isinstance(turn.error, AgentTimeoutError)
    assert (turn.status, turn.reply) == ("failed", "Luego")


def test_a_chain_that_streams_for_ever_ends_within_a_message(
    made: Callable[..., TurnRunner], answer: Answer
) -> None:
    """A model that streams tells of each token, and may be ended at any."""

    def talk(messages: list[BaseMessage]) -> AIMessage:
        words = [str(chunk.content) for chunk in Talker().stream(messages)]
        return AIMessage("".join(words))

    agent: Agent = RunnableLambda(talk)
    turn = answer(made(agent, agent_timeout=0.2, max_errors=1))

    assert isinstance(turn.error, AgentTimeoutError)


class Talker(FakeListChatModel):
    """A model whose message has no end."""

    responses: list[str] = []  # noqa: RUF012 - pydantic's own field

    def _stream(self, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        while True:
            yield ChatGenerationChunk(message=AIMessageChunk(content="bla "))


class Seen(BaseCallbackHandler):
    def __init__(self) -> None:
        self.starts = 0

    def on_chain_start(self, *_: Any, **__: Any) -> None:
        self.starts += 1


@pytest.mark.parametrize("kind", [list, CallbackManager])
def test_callbacks_of_the_users_own_stay(
    kind: Any, made: Callable[..., TurnRunner], answer: Answer
) -> None:
    """What ends a run travels beside its config, not in it."""
    seen = Seen()
    agent = Looker().agent().with_config(callbacks=kind([seen]))

    turn = answer(made(agent, max_errors=1))

    assert isinstance(turn.error, LoopError)
    assert seen.starts > 0


def test_a_turn_takes_fifty_steps_at_most_unless_told_otherwise(
    made: Callable[..., TurnRunner], answer: Answer
) -> None:
    """``create_agent`` itself sets 9,999; the turn ends at once, since a loop would loop again."""
    looker = Looker()
    turn = answer(made(looker.agent(), fallback_reply="Luego"))

    assert (turn.status, turn.reply) == ("failed", "Luego")
    assert looker.looked == 24  # the fiftieth step is not run
    assert isinstance(turn.error, LoopError)
    assert "50 steps" in str(turn.error)
    assert "with_config(recursion_limit=" in str(turn.error)


@pytest.mark.parametrize(("allowed", "looked"), [(10, 4), (120, 59)])
@pytest.mark.parametrize("bound", [False, True])
def test_a_limit_of_the_users_own_wins(
    allowed: int, looked: int, *, bound: bool, made: Callable[..., TurnRunner], answer: Answer
) -> None:
    """Smaller or larger, on the graph or on what binds it."""
    looker = Looker()
    agent = looker.agent()
    if bound:
        agent = agent.with_fallbacks([calm()], exceptions_to_handle=(KeyError,))
    turn = answer(made(agent.with_config(recursion_limit=allowed)))

    assert looker.looked == looked
    assert f"{allowed} steps" in str(turn.error)


@pytest.mark.parametrize(
    "middleware",
    [None, lambda _: OnceToolsMiddleware(), lambda server: ConvSyncMiddleware(server.client())],
    ids=["none", "once", "convsync"],
)
def test_the_same_call_again_and_again_ends_the_turn(
    middleware: Any, made: Callable[..., TurnRunner], server: ReferenceServer, answer: Answer
) -> None:
    """Three times; with a middleware of ours the third is a hint instead. Nothing is repeated."""
    looker = Looker(same=True)
    ours = [] if middleware is None else [middleware(server)]
    turn = answer(made(looker.agent(*ours), fallback_reply="Luego"))

    assert (turn.status, turn.reply) == ("failed", "Luego")
    assert isinstance(turn.error, LoopError)
    assert "look" in str(turn.error)
    assert looker.looked == (2 if ours else 3)
    assert len(looker.model.calls) == 4
    assert looker.hints() == (1 if ours else 0)


def test_a_model_that_heeds_the_hint_answers(
    made: Callable[..., TurnRunner], answer: Answer
) -> None:
    """That is what it is for."""
    script: list[Any] = [*(wants(place=1) for _ in range(3)), lambda m: f"{m[-1].content == HINT}"]
    looker = Looker()
    looker.model = ScriptedChatModel(script)

    turn = answer(made(looker.agent(OnceToolsMiddleware())))

    assert (turn.status, turn.reply) == ("answered", "True")
    assert looker.looked == 2


@pytest.mark.parametrize("ours", [False, True])
def test_a_tool_that_is_polled_is_no_loop(
    made: Callable[..., TurnRunner], answer: Answer, *, ours: bool
) -> None:
    """Its result changes."""
    told = [f"{percent} %" for percent in range(0, 100, 10)]
    looker = Looker(*told)
    looker.model = ScriptedChatModel([*(wants(place=1) for _ in told), "Listo"])

    turn = answer(made(looker.agent(*([OnceToolsMiddleware()] if ours else []))))

    assert (turn.status, turn.reply) == ("answered", "Listo")
    assert looker.looked == len(told)


@pytest.mark.parametrize("ours", [False, True])
def test_the_same_call_beside_others_is_no_loop(
    made: Callable[..., TurnRunner], answer: Answer, *, ours: bool
) -> None:
    """In one message, or with another call in between."""
    looker, call = Looker(), wants(place=1).tool_calls[0]
    at_once = AIMessage("", tool_calls=[{**call, "id": f"{n}"} for n in range(4)])
    between = [wants(place=n % 2) for n in range(8)]
    looker.model = ScriptedChatModel([at_once, *between, "Listo"])

    turn = answer(made(looker.agent(*([OnceToolsMiddleware()] if ours else []))))

    assert turn.reply == "Listo"
    assert looker.looked == 12


def test_subagents_count_for_themselves(made: Callable[..., TurnRunner], answer: Answer) -> None:
    """Each of three calls of a subagent looks at the same place, as it should."""
    looker = Looker()

    @tool
    def ask(question: str) -> str:
        """Ask the other agent."""
        looker.model = ScriptedChatModel([wants(place=1), wants(place=1), "nothing there"])
        said = looker.agent().invoke({"messages": [("user", question)]})
        return f"{question}: {said['messages'][-1].content}"

    asks = [
        AIMessage("", tool_calls=[{"name": "ask", "args": {"question": q}, "id": q}])
        for q in ("a", "b", "c")
    ]
    agent: Agent = create_agent(ScriptedChatModel([*asks, "Listo"]), [ask])

    turn = answer(made(agent))

    assert (turn.reply, looker.looked) == ("Listo", 6)


def asking(looker: Looker) -> BaseTool:
    """A tool that leaves the customer's question to an agent of its own."""

    @tool
    async def ask(place: int) -> str:
        """Ask."""
        said = await looker.agent().ainvoke({"messages": [("user", f"{place}")]})
        return str(said["messages"][-1].content)

    def ask_blocking(place: int) -> str:
        said = looker.agent().invoke({"messages": [("user", f"{place}")]})
        return str(said["messages"][-1].content)

    made: Any = ask
    made.func = ask_blocking
    return ask


def ask_once() -> ScriptedChatModel:
    call = {"name": "ask", "args": {"place": 0}, "id": "1"}
    return ScriptedChatModel([AIMessage("", tool_calls=[call]), "Listo"])


def in_a_tool(looker: Looker) -> Agent:
    made: Agent = create_agent(ask_once(), [asking(looker)])
    return made


def in_a_tool_that_hides_errors(looker: Looker) -> Agent:
    retried = ToolRetryMiddleware(initial_delay=0.0, on_failure="continue")
    made: Agent = create_agent(ask_once(), [asking(looker)], middleware=[retried])
    return made


def in_a_node(looker: Looker) -> Agent:
    graph: Any = StateGraph(MessagesState).add_node("ask", looker.agent())
    made: Agent = graph.add_edge(START, "ask").compile()
    return made


def in_a_function(looker: Looker) -> Agent:
    return RunnableLambda(lambda messages: looker.agent().invoke({"messages": messages}))


def of_deepagents(looker: Looker) -> Agent:
    from deepagents import create_deep_agent

    helper: Any = {"name": "helper", "description": "Helps.", "system_prompt": "Help."}
    helper |= {"model": looker.model, "tools": [looker.tool]}
    task = {"name": "task", "args": {"description": "Look.", "subagent_type": "helper"}, "id": "1"}
    model = ScriptedChatModel([AIMessage("", tool_calls=[task]), "Listo"])
    made: Agent = create_deep_agent(model=model, subagents=[helper])
    return made


NESTED = [in_a_tool, in_a_tool_that_hides_errors, in_a_node, in_a_function, of_deepagents]


@pytest.mark.parametrize("allowed", [None, 10])
@pytest.mark.parametrize("nested", NESTED)
def test_a_subagent_that_goes_on_and_on_ends_the_turn(
    nested: Callable[[Looker], Agent],
    allowed: int | None,
    made: Callable[..., TurnRunner],
    answer: Answer,
) -> None:
    """After as many steps as the agent that the runner has, by whichever way it is called."""
    looker = Looker()
    agent = nested(looker)
    if allowed is not None:
        agent = agent.with_config(recursion_limit=allowed)

    turn = answer(made(agent, fallback_reply="Luego"))

    assert (turn.status, turn.reply) == ("failed", "Luego")
    assert isinstance(turn.error, LoopError)
    assert f"{allowed or 50} steps" in str(turn.error)
    assert len(looker.model.calls) <= (allowed or 50) / 2


def test_subagents_that_end_take_nothing_from_each_others_steps(
    made: Callable[..., TurnRunner], answer: Answer
) -> None:
    """Each graph counts for itself, and one with a memory in each turn anew."""
    looker, turns = Looker(), 4
    looker.model = ScriptedChatModel(
        itertools.cycle([*(wants(place=n) for n in range(20)), "nothing there"])
    )
    asks = [
        AIMessage("", tool_calls=[{"name": "ask", "args": {"place": n}, "id": f"{n}"}])
        for n in range(3)
    ]
    model = ScriptedChatModel(itertools.cycle([*asks, "Listo"]))
    agent: Agent = create_agent(model, [asking(looker)], checkpointer=InMemorySaver())
    runner = made(agent)

    for number in range(turns):
        event = hola(number)
        assert runner.run(event).reply == "Listo"
    assert looker.looked == 3 * 20 * turns
    assert answer(runner).reply == "Listo"


def test_an_endless_run_is_not_retried(made: Callable[..., TurnRunner], answer: Answer) -> None:
    """LangChain's own retry would take a step too many for a failure, and begin again."""
    looker = Looker()
    agent = looker.agent().with_retry(stop_after_attempt=3, wait_exponential_jitter=False)

    turn = answer(made(agent))

    assert isinstance(turn.error, LoopError)
    assert len(looker.model.calls) == 25


def test_outside_a_turn_a_loop_raises(server: ReferenceServer) -> None:
    """An agent with our middleware is guarded wherever it runs."""
    looker = Looker(same=True)
    agent = looker.agent(ConvSyncMiddleware(server.client(), conversation=CUSTOMER))

    with pytest.raises(LoopError, match="its tool look 3 times"):
        agent.invoke({"messages": [("user", "Hola")]})

    assert (looker.looked, len(looker.model.calls)) == (2, 4)
