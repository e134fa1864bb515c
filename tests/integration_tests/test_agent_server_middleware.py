"""An agent with the middleware on LangGraph's server, and what that server tells of it."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import pytest
from cryptography.fernet import Fernet

from langchain_convsync import InboundEvent, SQLiteEventStore, TurnRunner
from langchain_convsync.testing import ReferenceServer
from tests.agent_server import graphs as served
from tests.agent_server import real
from tests.agent_server.client import Graphs
from tests.agent_server.recorded import Recorded
from tests.agent_server.traces import Traces
from tests.listening import listening

KEY = Fernet.generate_key().decode()
numbers = itertools.count(51_900_000_001)


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        yield running


@pytest.fixture
def recorded(reference: ReferenceServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("CONVSYNC_BASE_URL", reference.base_url)
    monkeypatch.setenv("HANDLE_KEY", KEY)
    served.synced.cache_clear()
    with listening(Recorded().app) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def traces() -> Iterator[Traces]:
    with Traces.collected() as collected:
        yield collected


@pytest.fixture(scope="module")
def real_server(reference: ReferenceServer, traces: Traces) -> Iterator[str]:
    if not real.IS_INSTALLED:
        pytest.skip(real.MISSING)
    ours = {"CONVSYNC_BASE_URL": reference.base_url, "HANDLE_KEY": KEY}
    with real.serving(**ours, **traces.environment) as url:
        yield url


@pytest.fixture(params=["recorded", pytest.param("real_server", marks=pytest.mark.slow)])
async def graphs(request: pytest.FixtureRequest) -> AsyncIterator[Graphs]:
    made = Graphs(request.getfixturevalue(request.param))
    yield made
    await made.close()


@pytest.fixture
def customer(reference: ReferenceServer) -> str:
    """A customer with a history, known to one test only."""
    number = f"+{next(numbers)}"
    said = [{"role": "user", "content": "Hola", "timestamp": "2025-12-29T10:00:00.000Z"}]
    reference.create_conversation(
        phone_number=number,
        subdomain="restaurant-abc",
        bot_id="bot123",
        context={"previousMessages": said},
    )
    return number


def sealed(customer: str) -> dict[str, str]:
    """The context of a run: whose it is, readable only where the key is."""
    return {"conversation": Fernet(KEY).encrypt(customer.encode()).decode()}


def thread() -> Any:
    return {"configurable": {"thread_id": str(uuid.uuid4())}}


async def test_the_agent_reads_and_writes_the_conversation_of_a_sealed_handle(
    graphs: Graphs, customer: str, reference: ReferenceServer
) -> None:
    """Its history reaches the model, its words the API server, once per run; no number is sent."""
    agent, here = graphs("synced"), thread()

    await agent.ainvoke({"messages": [("user", "Una mesa")]}, here, context=sealed(customer))
    told = await agent.ainvoke({"messages": [("user", "Para dos")]}, here, context=sealed(customer))

    assert told["messages"][-1]["content"] == "Oí: Hola, Una mesa, Para dos"
    assert [each.content for each in reference.conversation(customer).messages] == [
        "Hola",
        "Una mesa",
        "Oí: Hola, Una mesa",
        "Para dos",
        "Oí: Hola, Una mesa, Para dos",
    ]
    assert not any(customer.lstrip("+") in sent for sent in graphs.sent)


async def test_the_context_of_a_turn_reaches_the_graph(
    graphs: Graphs, customer: str, reference: ReferenceServer
) -> None:
    """So its tools know the customer; the server takes nothing configurable besides."""
    event = InboundEvent(event_id="1", phone_number=customer, text="¿Quién soy?")
    with closing(SQLiteEventStore(":memory:")) as store:
        runner = TurnRunner(
            graphs("knowing"),
            client=reference.client(),
            store=store,
            context=lambda ref: sealed(ref.phone_number),
        )

        turn = await runner.arun(event)

    assert (turn.status, turn.reply) == ("answered", f"… {customer[-4:]}")
    assert not any(customer.lstrip("+") in sent for sent in graphs.sent)


async def everything(agent: Any, of: Any) -> str:
    """All that the server tells of a thread and its runs."""
    threads, name = agent.client.threads, of["configurable"]["thread_id"]
    found = [
        await threads.get(name),
        await threads.get_state(name),
        await threads.get_history(name),
        await agent.client.runs.list(name),
    ]
    return json.dumps(found)


@pytest.mark.slow  # the fast one is above: what is not sent cannot be exported
@pytest.mark.parametrize("graphs", ["real_server"], indirect=True)
async def test_a_sealed_handle_keeps_the_number_out_of_all_that_the_server_stores_and_exports(
    graphs: Graphs, customer: str, traces: Traces
) -> None:
    agent, here, handle = graphs("synced"), thread(), sealed(customer)

    await agent.ainvoke({"messages": [("user", "Una mesa")]}, here, context=handle)

    stored, exported = await everything(agent, here), traces.once_told(handle["conversation"])
    assert handle["conversation"] in stored
    assert customer.lstrip("+") not in stored
    assert customer.lstrip("+") not in exported


@pytest.mark.slow  # what the pages warn of is so: only the real server can tell
@pytest.mark.parametrize("graphs", ["real_server"], indirect=True)
@pytest.mark.parametrize("means", ["context", "configurable"])
async def test_a_number_that_is_named_openly_is_stored_and_exported(
    graphs: Graphs, customer: str, traces: Traces, means: str
) -> None:
    agent, here = graphs("waiter"), thread()
    given: dict[str, Any] = {"context": {"whose": customer}} if means == "context" else {}
    if means == "configurable":
        here["configurable"]["whose"] = customer

    await agent.ainvoke({"messages": [("user", "Hola")]}, here, **given)

    assert customer in await everything(agent, here)
    assert customer in traces.once_told(customer)
