"""What leaving a runner's block does with what is under way: the end of a process, as planned."""

from __future__ import annotations

import asyncio
import threading

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync._flow import run
from langchain_convsync.stores import ConversationView, EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner
from tests import promises
from tests.promises import CUSTOMER, echo, reply_to, said

server = promises.server


def viewed(store: EventStore) -> ConversationView:
    keys = run(store.keys())
    return run(store.view(keys.conversation("default", CUSTOMER)))


async def test_a_turn_that_outlasts_the_drain_is_given_back_at_once(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """The next process need not wait for its lease to end, and nothing counts as a crash."""
    client, sent, begun = server.client(), list[Turn](), asyncio.Event()

    async def hang(_messages: list[BaseMessage]) -> AIMessage:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    hanging = RunnableLambda(reply_to, afunc=hang)
    runner = TurnRunner(
        hanging,
        client=client,
        store=event_store,
        on_reply=sent.append,
        shutdown_timeout=0.01,
        lease=600,
    )
    async with runner:
        await runner.aaccept(said("Hola"))
        await begun.wait()
    assert sent == []

    after = TurnRunner(echo(), client=client, store=event_store, on_reply=sent.append)
    turn = await after.arun(said("Hola"), wait=20)  # long before the lease would have ended
    assert (turn.status, turn.reply) == ("answered", "re: Hola")


async def test_a_turn_that_ends_within_the_drain_is_answered(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """What takes no longer is finished, with its reply and its writes."""
    sent, begun, leaving = list[Turn](), asyncio.Event(), asyncio.Event()

    async def answer(messages: list[BaseMessage]) -> AIMessage:
        begun.set()
        await leaving.wait()
        return reply_to(messages)

    agent = RunnableLambda(reply_to, afunc=answer)
    runner = TurnRunner(agent, client=server.client(), store=event_store, on_reply=sent.append)
    async with runner:
        await runner.aaccept(said("Hola"))
        await begun.wait()
        asyncio.get_running_loop().call_soon(leaving.set)

    assert [turn.reply for turn in sent] == ["re: Hola"]
    assert len(server.conversation(CUSTOMER).messages) == 2


def test_a_blocking_turn_that_outlasts_the_drain_keeps_its_lease(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """A thread cannot be cancelled: the next process takes over when the lease ends."""
    begun, end = threading.Event(), threading.Event()

    def hang(messages: list[BaseMessage]) -> AIMessage:
        begun.set()
        end.wait()
        return reply_to(messages)

    runner = TurnRunner(
        RunnableLambda(hang),
        client=server.client(),
        store=event_store,
        on_reply=lambda _: None,
        shutdown_timeout=0.01,
    )
    with runner:
        runner.accept(said("Hola"))
        assert begun.wait(20)
    view = viewed(event_store)
    end.set()
    for thread in threading.enumerate():
        if thread.name == "convsync-turn":
            thread.join()

    assert view.inbox.held_until is not None
    assert [event.starts for event in view.events] == [1]
