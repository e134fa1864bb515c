"""Whose conversation an agent and its tools serve: factories, ``context=``, tools of one's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from langchain.agents import AgentState, create_agent
from langchain.tools import ToolRuntime, tool
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph

from langchain_convsync import (
    ConfigurationError,
    ConversationMismatchError,
    ConversationRef,
    ConvSyncCallbackHandler,
    ConvSyncToolkit,
    InboundEvent,
    InvalidPhoneNumberError,
    SQLiteEventStore,
    Tenant,
    Turn,
    TurnRunner,
    current_conversation,
    in_conversation,
)
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.turns.agents import Agents
from tests.surfaces import calls, invoke, sync_and_async

pytestmark = pytest.mark.usefixtures("no_pause")

ANA, BEA = "+51999999999", "+51999999998"
#: Another tenant's customer.
CARLA = "+51999999997"


@pytest.fixture(scope="module")
def server() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        for phone in (ANA, BEA):
            running.create_conversation(phone_number=phone, subdomain="abc", bot_id="bot1")
        running.create_conversation(phone_number=CARLA, subdomain="xyz", bot_id="bot2")
        yield running


def runner(server: ReferenceServer, agent: Any, **settings: Any) -> TurnRunner:
    settings = {"fallback_reply": "FALLBACK", "max_errors": 1, **settings}
    return TurnRunner(agent, client=server.client(), store=SQLiteEventStore(":memory:"), **settings)


async def turn(mode: str, turns: TurnRunner, phone: str, event_id: str = "1") -> Turn:
    event = InboundEvent(event_id=f"{phone}/{event_id}", phone_number=phone, text="¿Y mi pedido?")
    return turns.run(event) if mode == "sync" else await turns.arun(event)


async def replies(mode: str, turns: TurnRunner, *phones: str) -> list[str | None]:
    """What each customer gets."""
    return [(await turn(mode, turns, phone, str(n))).reply for n, phone in enumerate(phones)]


@dataclass
class Shop:
    """A context schema of the user's own."""

    customer: str


@tool
def orders(runtime: ToolRuntime[Shop]) -> str:
    """The customer's orders."""
    return f"orders of {runtime.context.customer}"


@tool
def own_orders(runtime: ToolRuntime[ConversationRef]) -> str:
    """The customer's orders."""
    return f"orders of {runtime.context.phone_number}"


@tool
def whose() -> str:
    """Whose conversation it is."""
    found = current_conversation()
    return f"{found.phone_number} of {found.subdomain}, {found.bot_id}"


def asking(name: str, tool: Any, **settings: Any) -> Any:
    """An agent that calls the tool, and says what it answered."""

    def says(messages: list[BaseMessage]) -> AIMessage:
        return calls(name) if messages[-1].type == "human" else AIMessage(messages[-1].content)

    return create_agent(ScriptedChatModel([says] * 99), [tool], **settings)


@sync_and_async
async def test_a_factory_makes_one_agent_for_each_tenant(
    server: ReferenceServer, mode: str
) -> None:
    """It gets the tenant, and its agent serves all customers of it."""
    made: list[Tenant] = []

    def factory(tenant: Tenant) -> Runnable[Any, Any]:
        made.append(tenant)
        return RunnableLambda(lambda _: f"Somos {tenant.subdomain}, {tenant.bot_id}")

    said = await replies(mode, runner(server, factory), ANA, BEA, CARLA, ANA)

    assert said == ["Somos abc, bot1", "Somos abc, bot1", "Somos xyz, bot2", "Somos abc, bot1"]
    assert made == [Tenant("abc", "bot1"), Tenant("xyz", "bot2")]
    assert all(type(each) is Tenant for each in made)


@sync_and_async
async def test_a_factory_may_look_whether_it_got_a_customer(
    server: ReferenceServer, mode: str
) -> None:
    """What it asks and goes on without leaves it a factory of tenants."""
    made: list[object] = []

    def factory(tenant: Tenant) -> Runnable[Any, Any]:
        made.append((hasattr(tenant, "phone_number"), getattr(tenant, "turn_id", None)))
        return RunnableLambda(lambda _: "Hola")

    assert await replies(mode, runner(server, factory), ANA, BEA) == ["Hola", "Hola"]
    assert made == [(False, None)]


def in_factory(ref: Any) -> Any:
    """Reads the customer while it makes the agent."""
    return asking("orders", orders, context_schema=Shop).bind(context=Shop(ref.phone_number))


def in_agent(ref: Any) -> Any:
    """Reads the customer when the agent runs."""
    return RunnableLambda(lambda _: f"orders of {ref.phone_number}")


def as_context(ref: Any) -> Any:
    """Gives what it got to its tools, which read the customer."""
    return asking("own_orders", own_orders, context_schema=ConversationRef).bind(context=ref)


def as_key(ref: Any) -> Any:
    """Makes a key of the turn."""
    assert ref.tool_key("a")
    return RunnableLambda(lambda _: f"orders of {ref.phone_number}")


every_reader = pytest.mark.parametrize("factory", [in_factory, in_agent, as_context, as_key])


@sync_and_async
@every_reader
async def test_a_factory_that_reads_the_customer_is_called_for_each_turn(
    server: ReferenceServer, mode: str, factory: Any
) -> None:
    """No customer is served as another one: what it makes is used for one turn."""
    said = await replies(mode, runner(server, factory), ANA, BEA, CARLA, ANA)

    assert said == [f"orders of {phone}" for phone in (ANA, BEA, CARLA, ANA)]


@every_reader
async def test_at_the_same_time_each_customer_is_served_as_themselves(
    server: ReferenceServer, factory: Any
) -> None:
    """Also while the first turns find out what kind of factory it is."""
    turns, phones = runner(server, factory), [ANA, BEA, CARLA] * 3

    done = await asyncio.gather(
        *(turn("async", turns, phone, str(number)) for number, phone in enumerate(phones))
    )

    told = {
        phone: {each.reply for each, p in zip(done, phones, strict=True) if p == phone}
        for phone in phones
    }
    assert told == {phone: {f"orders of {phone}"} for phone in phones}


@sync_and_async
@pytest.mark.parametrize(
    "make",
    [
        lambda api, ref: create_agent(
            ScriptedChatModel(["Hola"]), middleware=[ConvSyncMiddleware(api, conversation=ref)]
        ),
        lambda api, ref: create_agent(
            ScriptedChatModel(["Hola"]), ConvSyncToolkit(api, conversation=ref).get_tools()
        ),
        lambda api, ref: RunnableLambda(lambda _: "Hola").with_config(
            callbacks=[ConvSyncCallbackHandler(api, conversation=ref)]
        ),
    ],
    ids=["middleware", "toolkit", "handler"],
)
async def test_a_factory_may_give_what_it_got_to_a_surface(
    server: ReferenceServer, mode: str, make: Any
) -> None:
    """A surface of one conversation serves that conversation, and is made for each turn."""
    with server.client() as api:
        turns = runner(server, lambda ref: make(api, ref))

        assert await replies(mode, turns, ANA, BEA, CARLA) == ["Hola", "Hola", "Hola"]


@sync_and_async
async def test_a_handler_of_one_conversation_syncs_that(server: ReferenceServer, mode: str) -> None:
    """A factory that gives it what it got makes a handler for each turn."""
    with server.client() as api:
        settings: dict[str, Any] = {"extractor": lambda _: {"step": mode}}

        def factory(ref: Any) -> Any:
            handler = ConvSyncCallbackHandler(api, conversation=ref, **settings)
            return RunnableLambda(lambda _: "Hola").with_config(callbacks=[handler])

        assert await replies(mode, runner(server, factory), ANA, CARLA) == ["Hola", "Hola"]
    assert {server.conversation(phone).current_step for phone in (ANA, CARLA)} == {mode}


@pytest.mark.parametrize("surface", [ConvSyncMiddleware, ConvSyncToolkit, ConvSyncCallbackHandler])
def test_a_surface_of_nobody_is_refused_at_once(server: ReferenceServer, surface: Any) -> None:
    """A number that is none is told where it is given."""
    with server.client() as api, pytest.raises(InvalidPhoneNumberError):
        surface(api, conversation="nobody")


def test_an_agent_of_one_conversation_is_not_kept() -> None:
    """The next turn gets its own, and a process does not keep one for each turn."""
    agents, ref = Agents(in_factory), ConversationRef(ANA, turn_id="1")

    assert agents.of(ref) is not agents.of(ref)


def no_agent(given: object) -> Any:
    return lambda _: given


async def awaited(_: object) -> Any:
    return RunnableLambda(str)


class Awaited:
    async def __call__(self, _: object) -> Any:
        return RunnableLambda(str)


@sync_and_async
@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (no_agent(None), "returned is None: pass a Runnable"),
        (no_agent("Hola"), r"is a str.*RunnableLambda"),
        (no_agent(StateGraph(AgentState)), "is a StateGraph that is not compiled"),
        (Awaited(), "is async"),
    ],
)
async def test_a_factory_that_makes_no_agent_is_told_so(
    server: ReferenceServer, mode: str, factory: Any, told: str
) -> None:
    """The error names what it returned; the customer gets the fallback."""
    done = await turn(mode, runner(server, factory), ANA)

    assert (done.status, done.reply) == ("failed", "FALLBACK")
    with pytest.raises(ConfigurationError, match=told):
        raise done.error or AssertionError


def test_what_cannot_be_an_agent_is_refused_at_once(server: ReferenceServer) -> None:
    """Before any customer waits for it."""
    with pytest.raises(ConfigurationError, match="async"):
        runner(server, awaited)
    with pytest.raises(ConfigurationError, match="StateGraph"):
        runner(server, StateGraph(AgentState))


def shop_of(ref: ConversationRef) -> Shop:
    return Shop(f"{ref.phone_number} of {ref.subdomain}")


@sync_and_async
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda agent: agent,
        lambda agent: agent.with_config(tags=["shop"]),
        lambda agent: agent.bind(context=Shop("nobody")),
        lambda agent: agent.with_retry(),
        lambda agent: agent.with_fallbacks([agent]),
        lambda agent: lambda tenant: agent,
    ],
    ids=["graph", "configured", "bound", "retried", "with fallbacks", "factory"],
)
async def test_each_run_gets_a_context_of_its_conversation(
    server: ReferenceServer, mode: str, wrapped: Any
) -> None:
    """``context=`` makes the agent's own ``runtime.context`` of whose turn it is."""
    agent = wrapped(asking("orders", orders, context_schema=Shop))

    said = await replies(mode, runner(server, agent, context=shop_of), ANA, BEA, CARLA)

    assert said == [
        f"orders of {ANA} of abc",
        f"orders of {BEA} of abc",
        f"orders of {CARLA} of xyz",
    ]


@sync_and_async
async def test_an_agent_with_memory_gets_its_context_in_every_turn(
    server: ReferenceServer, mode: str
) -> None:
    """A checkpointer keeps none."""
    agent = asking("orders", orders, context_schema=Shop, checkpointer=InMemorySaver())

    said = await replies(mode, runner(server, agent, context=shop_of), ANA, BEA, ANA)

    assert said == [f"orders of {phone} of abc" for phone in (ANA, BEA, ANA)]


@sync_and_async
async def test_the_first_step_of_a_sequence_gets_the_context(
    server: ReferenceServer, mode: str
) -> None:
    """LangChain gives it what the sequence's call gets."""
    agent = asking("orders", orders, context_schema=Shop) | (lambda state: state["messages"][-1])
    turns = runner(
        server, agent, context=shop_of, prepare=lambda *_: {"messages": [("user", "Hola")]}
    )

    assert await replies(mode, turns, ANA) == [f"orders of {ANA} of abc"]


@pytest.mark.parametrize(
    "agent",
    [
        RunnableLambda(str),
        ChatPromptTemplate.from_template("{x}") | asking("orders", orders),
        RunnableParallel(a=RunnableLambda(str)),
    ],
)
def test_an_agent_that_takes_no_context_is_refused_at_once(
    server: ReferenceServer, agent: Any
) -> None:
    """It would be lost silently, or be an unknown argument of a function."""
    with pytest.raises(ConfigurationError, match=r"takes none.*current_conversation"):
        runner(server, agent, context=shop_of)


@sync_and_async
async def test_a_factorys_agent_that_takes_no_context_is_told_so(
    server: ReferenceServer, mode: str
) -> None:
    """As soon as it is known."""
    done = await turn(mode, runner(server, lambda _: RunnableLambda(str), context=shop_of), ANA)

    with pytest.raises(ConfigurationError, match="takes none"):
        raise done.error or AssertionError


async def shop_of_later(ref: ConversationRef) -> Shop:
    return shop_of(ref)


def shop_of_soon(ref: ConversationRef) -> object:
    return shop_of_later(ref)


@sync_and_async
async def test_a_context_is_made_by_a_plain_function(server: ReferenceServer, mode: str) -> None:
    """An async one is refused, whether it looks async or only returns something to await."""
    agent = asking("orders", orders, context_schema=Shop)
    for wrong in (shop_of_later, Shop(ANA)):
        with pytest.raises(ConfigurationError, match=r"plain function|be a function"):
            runner(server, agent, context=wrong)

    done = await turn(mode, runner(server, agent, context=shop_of_soon), ANA)

    with pytest.raises(ConfigurationError, match="plain function"):
        raise done.error or AssertionError


@sync_and_async
async def test_a_tool_of_ones_own_places_each_customers_order_once(
    server: ReferenceServer, mode: str
) -> None:
    """The model fails after the order, and the run is repeated: the key is the same."""
    placed: dict[str, tuple[str, str]] = {}
    keys: list[str] = []

    @tool
    def order(product: str) -> str:
        """Order a product for the customer."""
        customer = current_conversation()
        keys.append(key := customer.tool_key("order"))
        placed.setdefault(key, (customer.phone_number, product))
        return "Pedido."

    def fails(_: object) -> AIMessage:
        raise ConnectionError

    script: list[Any] = [calls("order", product="pizza"), fails]
    script += [calls("order", product="pizza"), "¡Listo!"] * 3
    agent = create_agent(ScriptedChatModel(script), [order])
    turns = runner(server, agent, max_errors=3)

    assert await replies(mode, turns, ANA, BEA) == ["¡Listo!", "¡Listo!"]
    assert [*placed.values()] == [(ANA, "pizza"), (BEA, "pizza")]
    assert (len(keys), len({*keys})) == (3, 2)  # hers was called again
    assert (await turn(mode, turns, ANA, "another")).reply == "¡Listo!"
    assert len({*keys}) == 3


FORMS: dict[str, Any] = {
    "tool": asking("whose", whose),
    "several tools at once": create_agent(
        ScriptedChatModel(
            [
                AIMessage("", tool_calls=[{"name": "whose", "args": {}, "id": n} for n in "abc"]),
                lambda messages: AIMessage(messages[-1].content),
            ]
            * 9
        ),
        [whose],
    ),
    "function": RunnableLambda(lambda _: whose.invoke({})),
    "branches": RunnableParallel(
        a=RunnableLambda(lambda _: whose.invoke({})), b=RunnableLambda(str)
    )
    | (lambda found: found["a"]),
    "another chain": RunnableLambda(lambda _: RunnableLambda(lambda _: whose.invoke({})).invoke(1)),
}


@sync_and_async
@pytest.mark.parametrize("form", FORMS)
async def test_whatever_an_agent_calls_knows_the_turns_conversation(
    server: ReferenceServer, mode: str, form: str
) -> None:
    """Tools, nodes and branches, on the threads and in the tasks that LangChain starts."""
    said = await replies(mode, runner(server, FORMS[form]), ANA, CARLA)

    assert said == [f"{ANA} of abc, bot1", f"{CARLA} of xyz, bot2"]


NAMED: dict[str, dict[str, Any]] = {
    "context": {"context": ConversationRef(ANA, bot_id="bot1", subdomain="abc")},
    "config": {
        "config": {
            "configurable": {"conversation": ConversationRef(ANA, bot_id="bot1", subdomain="abc")}
        }
    },
}


@sync_and_async
@pytest.mark.parametrize("source", NAMED)
async def test_without_a_runner_a_run_names_the_conversation(mode: str, source: str) -> None:
    """By ``runtime.context``, or by its configuration."""
    agent = asking("whose", whose, context_schema=ConversationRef)
    given: dict[str, Any] = {"messages": [("user", "Hola")]}

    output = (
        agent.invoke(given, **NAMED[source])
        if mode == "sync"
        else await agent.ainvoke(given, **NAMED[source])
    )

    assert output["messages"][-1].content == f"{ANA} of abc, bot1"


@sync_and_async
async def test_a_run_that_is_named_twice_differently_is_refused(mode: str) -> None:
    """Neither wins."""
    chain = RunnableLambda(lambda _: whose.invoke({}))

    with pytest.raises(ConversationMismatchError), in_conversation(ANA):
        await invoke(mode, chain, 1, {"configurable": {"phone_number": BEA}})


@sync_and_async
async def test_a_block_of_the_turns_own_customer_is_of_its_turn(
    server: ReferenceServer, mode: str
) -> None:
    """Who names the customer inside the turn, by number alone, loses nothing that is known."""

    def agent(_: object) -> str:
        with in_conversation(ANA) as named:
            inside = current_conversation()
            assert named.tool_key("a") == inside.tool_key("a")
            assert (named.subdomain, named.bot_id) == ("abc", "bot1")
        assert current_conversation().tool_key("a") == inside.tool_key("a")
        with in_conversation("51999999999@c.us", event_id="evt") as other:
            assert other.tool_key("a") == inside.tool_key("a")
        return "Listo"

    done = await turn(mode, runner(server, RunnableLambda(agent)), ANA)

    assert (done.reply, done.error) == ("Listo", None)


def test_a_thread_of_ones_own_says_how_to_know_it(server: ReferenceServer) -> None:
    """It has no context but the one that it is given."""
    told: list[object] = []

    def ask() -> None:
        try:
            told.append(current_conversation().phone_number)
        except LookupError as error:
            told.append(str(error))

    def agent(_: object) -> str:
        for target in (ask, partial(copy_context().run, ask)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(copy_context().run, ask).result()
        return "Listo"

    runner(server, RunnableLambda(agent)).run(
        InboundEvent(event_id="1", phone_number=ANA, text="Hola")
    )

    assert "copy_context" in str(told[0])
    assert told[1:] == [ANA, ANA]
