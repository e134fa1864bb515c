"""One exchange with a customer, however many agents it takes: one message each way, one sync."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from langchain_convsync.client import AsyncConvSyncClient
from langchain_convsync.errors import APIError
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.models import InboundEvent
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.turns import TurnRunner
from tests import served, surfaces
from tests.graphs import CONSULTED, SHAPES, Shape, remembering
from tests.served import THREAD, Client, read_by, requests, state, words
from tests.surfaces import PHONE, TENANT, calls, invoke, sync_and_async

pytestmark = pytest.mark.usefixtures("no_run_left")

no_run_left = surfaces.no_run_left
reference, server, client = served.reference, served.server, served.client

BEGIN = ["Hola", "¡Hola! Bienvenido"]


def notes(_: Any = None) -> AIMessage:
    return calls("sync_state", intent="payment", step="asked")


in_every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
in_all_shapes = pytest.mark.parametrize(
    "shape", [*SHAPES.values(), *CONSULTED.values()], ids=[*SHAPES, *CONSULTED]
)
memories = pytest.mark.parametrize("memory", ["stateless", "checkpointed"])
FORMS: dict[str, Any] = {
    "tuple": lambda text: ("user", text),
    "dict": lambda text: {"role": "user", "content": text},
    "message": HumanMessage,
}


def saver(memory: str) -> Any:
    return InMemorySaver() if memory == "checkpointed" else None


def said(*texts: str, form: str = "tuple") -> dict[str, Any]:
    return {"messages": [FORMS[form](text) for text in texts]}


def a_colleague_says(server: ReferenceServer, text: str) -> None:
    with server.client() as their:
        their.add_message(server.conversation(PHONE).session_id, "bot", text)


def told(model: ScriptedChatModel) -> list[str]:
    """What the conversation's customer and bots said, as the model was told it last."""
    return [text for text in read_by(model) if text not in {"Un momento", "Hay stock"}]


@memories
@pytest.mark.parametrize(
    ("shape", "form"),
    [*((shape, "tuple") for shape in SHAPES), ("alone", "dict"), ("node", "message")],
)
@sync_and_async
async def test_each_message_is_recorded_once_and_a_colleagues_words_are_heard_in_their_place(
    server: ReferenceServer, client: Client, mode: str, shape: str, form: str, memory: str
) -> None:
    """The same words again are another message, in one input, too."""
    model = ScriptedChatModel(["uno", notes, "dos", "tres"])
    graph = SHAPES[shape](client, model, saver(memory))

    with in_conversation(PHONE):
        await invoke(mode, graph, said("sí", form=form), THREAD)
        a_colleague_says(server, "Soy Ana")
        await invoke(mode, graph, said("sí", "sí", form=form), THREAD)
        await invoke(mode, graph, said("sí", form=form), THREAD)

    whole = ["sí", "uno", "Soy Ana", "sí", "sí", "dos", "sí", "tres"]
    assert [text for _, text in words(server)] == whole
    assert told(model) == [*BEGIN, *whole[:-1]]
    assert state(server) == ("payment", "asked")
    assert requests(server).count("PUT") == 1


@memories
@pytest.mark.parametrize("shape", CONSULTED.values(), ids=CONSULTED)
@sync_and_async
async def test_an_agent_that_is_asked_by_another_knows_the_history_and_records_nothing(
    server: ReferenceServer, client: Client, mode: str, shape: Shape, memory: str
) -> None:
    """What it was asked is no word of the customer's, what it answered none of the bot's."""
    clerk = ScriptedChatModel([lambda m: notes() if m[-1].type == "human" else "Anotado"] * 8)
    graph = shape(client, clerk, saver(memory))

    with in_conversation(PHONE):
        await invoke(mode, graph, said("Una pizza"), THREAD)
        a_colleague_says(server, "Soy Ana")
        await invoke(mode, graph, said("Gracias"), THREAD)

    assert [text for _, text in words(server)] == [
        "Una pizza",
        "Anotado",
        "Soy Ana",
        "Gracias",
        "Anotado",
    ]
    assert state(server) == ("payment", "asked")
    assert requests(server).count("PUT") == 2
    *before, asked = read_by(clerk)[: len(BEGIN) + 4]
    assert before == [*BEGIN, "Una pizza", "Anotado", "Soy Ana"]
    assert asked.startswith("clerk")


@memories
@in_all_shapes
@sync_and_async
async def test_a_turn_is_one_exchange_as_well(
    server: ReferenceServer, client: Client, mode: str, shape: Shape, memory: str
) -> None:
    """It writes by itself; the agents hear the same."""
    clerk = [lambda m: notes() if m[-1].type == "human" else "dos"] * 12
    model = ScriptedChatModel(
        clerk if shape in CONSULTED.values() else ["uno", notes, "dos", "tres"]
    )
    graph = shape(client, model, saver(memory))
    runner = TurnRunner(graph, client=client, store=SQLiteEventStore(":memory:"))

    async def answered(number: int, text: str) -> None:
        event = InboundEvent(event_id=f"evt-{number}", phone_number=PHONE, text=text)
        turn = runner.run(event) if mode == "sync" else await runner.arun(event)
        assert turn.status == "answered"

    await answered(1, "sí")
    a_colleague_says(server, "Soy Ana")
    await answered(2, "sí")
    await answered(3, "sí")
    await runner.store.aclose()

    assert [role for role, _ in words(server)] == [
        "user",
        "bot",
        "bot",
        "user",
        "bot",
        "user",
        "bot",
    ]
    assert state(server) == ("payment", "asked")
    if shape in SHAPES.values():
        assert told(model) == [*BEGIN, "sí", "uno", "Soy Ana", "sí", "dos", "sí"]


@in_every_shape
@sync_and_async
async def test_the_failure_of_a_write_can_fail_the_run(
    server: ReferenceServer, client: Client, mode: str, shape: Shape
) -> None:
    """Also where it is recorded at the end of a graph that is none of ours."""

    def answer(_: Any) -> str:
        server.expire(server.conversation(PHONE).session_id)
        return "uno"

    failures: list[Exception] = []

    class Raising(ConvSyncMiddleware):
        """Hands every failure on."""

        def __init__(self, client: Any) -> None:
            super().__init__(client, on_error=self._raise)

        def _raise(self, error: Exception) -> None:
            failures.append(error)
            raise error

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tests.graphs.ConvSyncMiddleware", Raising)
        graph = shape(client, ScriptedChatModel([answer]), None)
    with in_conversation(PHONE), pytest.raises(APIError):
        await invoke(mode, graph, said("Una pizza"))

    assert len(failures) == 1


@sync_and_async
async def test_customers_that_one_run_serves_are_kept_apart(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """A graph that goes through a list of them; each gets what its own agent heard and said."""
    other = "+51988888887"
    server.create_conversation(phone_number=other, subdomain=TENANT, bot_id="bot-of-another")
    agent = remembering(client, ScriptedChatModel([notes, "uno", "dos"]))

    def remind(state: Any) -> Any:
        for customer in (PHONE, other):
            with in_conversation(customer):
                agent.invoke(said(f"remind {customer[-1]}"))
        return {"messages": [AIMessage("done")]}

    built = StateGraph(MessagesState)
    built.add_node("remind", remind).add_edge(START, "remind")
    await invoke(mode, built.compile(), said("Remind everybody"))

    assert words(server) == [("user", "remind 9"), ("bot", "uno")]
    theirs = server.conversation(other)
    assert [each.content for each in theirs.messages] == ["remind 7", "dos"]
    assert (state(server)[0], theirs.current_intent) == ("payment", "idle")


@in_every_shape
@sync_and_async
async def test_what_a_server_records_itself_is_not_told_twice_in_any_shape(
    server: ReferenceServer, mode: str, shape: Shape
) -> None:
    """Its webhook was there before the agents."""
    profile = ServerProfile(records_inbound=True)
    model = ScriptedChatModel(["uno", "dos"])

    async with AsyncConvSyncClient(server.base_url, profile=profile) as client:
        graph = shape(client, model, None)
        with in_conversation(PHONE):
            for text in ("sí", "sí"):
                with server.client() as their:
                    their.add_message(server.conversation(PHONE).session_id, "user", text)
                await invoke(mode, graph, said(text))

    assert [text for _, text in words(server)] == ["sí", "uno", "sí", "dos"]
    assert told(model) == [*BEGIN, "sí", "uno", "sí"]


@memories
@in_all_shapes
@sync_and_async
async def test_no_stream_holds_anything_of_ours_but_the_history(
    server: ReferenceServer, client: Client, mode: str, shape: Shape, memory: str
) -> None:
    """Tokens are the model's alone: yesterday's words are not streamed as if the bot said them."""
    model = ScriptedChatModel([lambda m: notes() if m[-1].type == "human" else "Listo"] * 40)
    graph = shape(client, model, saver(memory))

    async def streamed(number: int, modes: Any, **options: Any) -> list[Any]:
        config: Any = {"configurable": {"thread_id": f"{number}"}}
        options |= {"stream_mode": modes}
        if mode == "sync":
            return list(graph.stream(said("Una pizza"), config, **options))
        return [each async for each in graph.astream(said("Una pizza"), config, **options)]

    modes = ["values", "updates", "debug", "tasks", "checkpoints"]
    with in_conversation(PHONE):
        for number, subgraphs in enumerate((False, True)):
            everything = await streamed(number, modes, subgraphs=subgraphs)
            tokens = await streamed(number + 2, "messages", subgraphs=subgraphs)
            kept = repr(everything)
            assert not any(name in kept for name in ("watermark", "pending", "conversation_state"))
            assert not any(text in repr(tokens) for text in BEGIN)


@sync_and_async
async def test_a_graph_of_the_users_own_kind_of_input_is_recorded_by_what_its_agent_heard(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """There are no messages in it."""

    class Question(MessagesState):
        question: str

    agent = remembering(client, ScriptedChatModel(["uno"]))
    built = StateGraph(Question)
    built.add_node("ask", lambda state: {"messages": [HumanMessage(state["question"])]})
    built.add_node("agent", agent).add_edge(START, "ask").add_edge("ask", "agent")
    graph: Runnable[Any, Any] = built.compile()

    with in_conversation(PHONE):
        await invoke(mode, graph, {"question": "Una pizza"})

    assert words(server) == [("user", "Una pizza"), ("bot", "uno")]
