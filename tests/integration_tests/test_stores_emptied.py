"""A Redis that comes back empty, or loses its own record, under processes that go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync import ConvSyncChatMessageHistory, telemetry
from langchain_convsync._flow import Io, run
from langchain_convsync.dedup import ACQUIRED, DONE, ClaimStatus, once
from langchain_convsync.errors import StoreChangedError
from langchain_convsync.stores import NewEvent, RedisEventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.promises import CUSTOMER, Answer, reply_to, said, served, sync_and_async
from tests.promises import history as said_to
from tests.redis_server import RedisServer
from tests.redis_topologies import RedisCluster
from tests.store_cases import Do

pytest_plugins = ("tests.store_fixtures",)

Loss: TypeAlias = Callable[[RedisServer], None]


def evict(server: RedisServer) -> None:
    """What an evicting Redis may take first: the key that is looked at least often."""
    with server.client() as client:
        assert client.delete("cs:meta") == 1


def claimed(store: RedisEventStore, event_id: str) -> ClaimStatus:
    """What a process is told that wants to do something once."""
    with once(store, event_id) as claim:
        return claim.status


every_loss = pytest.mark.parametrize("lose", [RedisServer.empty, RedisServer.restart, evict])


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with served() as running:
        yield running


@pytest.fixture
def forgetful() -> Iterator[RedisServer]:
    """A Redis that keeps nothing when it is killed."""
    with RedisServer(aof=False) as running:
        yield running


@pytest.fixture
def stores(forgetful: RedisServer) -> Iterator[list[RedisEventStore]]:
    """Those of three processes."""
    opened = [RedisEventStore(forgetful.url) for _ in range(3)]
    yield opened
    for store in opened:
        store.close()


@pytest.fixture
def ran() -> list[str]:
    """What the agents of all processes were asked."""
    return []


@pytest.fixture
def runners(
    server: ReferenceServer, stores: list[RedisEventStore], ran: list[str], no_pause: None
) -> list[TurnRunner]:
    """A runner on each of the stores."""

    def answered(messages: list[BaseMessage]) -> AIMessage:
        ran.append(str(messages[-1].content))
        return reply_to(messages)

    return [
        TurnRunner(RunnableLambda(answered), client=server.client(), store=store)
        for store in stores
    ]


@every_loss
@sync_and_async
def test_processes_old_and_new_answer_a_repeated_delivery_once(
    answer: Answer, lose: Loss, forgetful: RedisServer, runners: list[TurnRunner], ran: list[str]
) -> None:
    """Whichever of them was first: they go by the same names again at once."""
    old, other, new = runners
    for runner in (old, other):
        answer(runner, said("before"))
    lose(forgetful)

    for n in range(4):
        order = [new, old, other] if n % 2 else [old, new, other]
        turns = [answer(each, said(f"after {n}")) for each in order]
        assert [turn.status for turn in turns] == ["answered", "duplicate", "duplicate"]
        assert {turn.reply for turn in turns} == {f"re: after {n}"}
    assert ran == ["before", *(f"after {n}" for n in range(4))]


@every_loss
def test_a_new_process_that_comes_first_takes_the_others_along(
    lose: Loss, forgetful: RedisServer, runners: list[TurnRunner], ran: list[str]
) -> None:
    """It makes new names, since nothing tells it the old ones; the others find that out."""
    old, other, new = runners
    for runner in (old, other):
        runner.run(said("before"))
    lose(forgetful)

    turns = [each.run(said("after")) for each in (new, old, other)]

    assert [turn.status for turn in turns] == ["answered", "duplicate", "duplicate"]
    assert ran == ["before", "after"]


def test_what_an_eviction_left_keeps_its_names(
    forgetful: RedisServer, runners: list[TurnRunner], ran: list[str]
) -> None:
    """The record alone was lost, and who goes on writes it again: nothing is answered twice."""
    old, _, new = runners
    old.run(said("before"))
    evict(forgetful)

    turns = [each.run(said("before")) for each in (old, new)]

    assert [turn.status for turn in turns] == ["duplicate", "duplicate"]
    assert ran == ["before"]


@every_loss
@sync_and_async
def test_a_pause_by_another_process_pauses_those_that_run(
    answer: Answer, lose: Loss, forgetful: RedisServer, runners: list[TurnRunner]
) -> None:
    """An operator's command opens the store for itself, before the bot has noticed anything."""
    bot, _, command = runners
    answer(bot, said("before"))
    lose(forgetful)

    command.pause(CUSTOMER, seconds=3600.0)

    assert answer(bot, said("after")).status == "paused"


@every_loss
def test_a_pause_by_a_process_that_runs_holds_for_new_ones(
    lose: Loss, forgetful: RedisServer, runners: list[TurnRunner]
) -> None:
    """The other way round."""
    bot, _, new = runners
    bot.run(said("before"))
    lose(forgetful)

    bot.pause(CUSTOMER, seconds=3600.0)

    assert new.run(said("after")).status == "paused"


def test_it_is_told_as_an_error_and_counted(
    forgetful: RedisServer, runners: list[TurnRunner], caplog: pytest.LogCaptureFixture
) -> None:
    """Once per process that notices, with what to do about it."""
    bot = runners[0]
    bot.run(said("before"))
    before = telemetry.counted("stores_changed")
    forgetful.empty()
    with caplog.at_level(logging.ERROR):
        bot.run(said("after"))
        bot.run(said("later"))

    (told,) = [each for each in caplog.records if "emptied" in each.getMessage()]
    assert "`maxmemory-policy noeviction`" in told.getMessage()
    assert telemetry.counted("stores_changed") == before + 1


def test_work_in_hand_is_given_up_and_begun_again(
    server: ReferenceServer, forgetful: RedisServer, stores: list[RedisEventStore], no_pause: None
) -> None:
    """The lease went with the store, so the run that held it must not end the turn."""
    ran: list[str] = []

    def answered(messages: list[BaseMessage]) -> AIMessage:
        if not ran:
            forgetful.empty()
            run(stores[1].keys())  # another process was first
        ran.append(str(messages[-1].content))
        return reply_to(messages)

    runner = TurnRunner(RunnableLambda(answered), client=server.client(), store=stores[0])
    turn = runner.run(said("Hola"))

    assert (turn.status, turn.reply) == ("answered", "re: Hola")
    assert runner.run(said("Hola")).status == "duplicate"
    assert ran == ["Hola", "Hola"]


@every_loss
def test_what_is_done_once_is_done_once_by_old_and_new(
    lose: Loss, forgetful: RedisServer, stores: list[RedisEventStore]
) -> None:
    """Claims have names of the store's, too."""
    old, other, new = stores
    run(old.keys())
    run(other.keys())
    lose(forgetful)

    assert [claimed(store, "evt_1") for store in (new, old, other)] == [ACQUIRED, DONE, DONE]


@every_loss
def test_a_history_writes_on(
    server: ReferenceServer, lose: Loss, forgetful: RedisServer, stores: list[RedisEventStore]
) -> None:
    """What is added is an event of the store's, too: nothing is lost, doubled or refused."""
    history = ConvSyncChatMessageHistory(CUSTOMER, client=server.client(), store=stores[0])
    history.add_user_message("before")
    lose(forgetful)
    run(stores[1].keys())  # another process is first

    history.add_user_message("after")

    assert said_to(server) == [("user", "before"), ("user", "after")]


def test_names_made_for_another_store_are_refused(
    forgetful: RedisServer, stores: list[RedisEventStore], do: Do
) -> None:
    """A task that made them, and waited while another one opened the store anew."""
    store, other, _ = stores
    names = do(store.keys())
    forgetful.empty()
    do(other.keys())
    with pytest.raises(StoreChangedError):
        do(store.backlog())
    key = names.claim("test", "1")

    with pytest.raises(StoreChangedError, match="call again"):
        do(store.accept(NewEvent(event_key=key, conversation_key=key, names=names)))
    assert do(store.keys()) == do(other.keys()) != names
    do(Io(store.close, store.aclose))


def test_on_a_cluster_each_shard_tells_whose_names_it_holds(
    cluster: RedisCluster, no_pause: None
) -> None:
    """The record lies in one slot, which no script of another one can see."""
    old, new = RedisEventStore(cluster.url), RedisEventStore(cluster.url)
    before = [claimed(old, f"before {n}") for n in range(8)]
    cluster.empty()
    after = [claimed(each, f"after {n}") for n in range(8) for each in (new, old)]
    for store in (old, new):
        store.close()

    assert before == [ACQUIRED] * 8
    assert after == [ACQUIRED, DONE] * 8
