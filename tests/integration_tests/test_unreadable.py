"""What cannot be read of a store ends as a dead letter, and what stands beside it goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from langchain_convsync import waha
from langchain_convsync._flow import run
from langchain_convsync.client import ConvSyncClient, api_of
from langchain_convsync.dedup import once
from langchain_convsync.errors import InvalidPhoneNumberError
from langchain_convsync.models import InboundEvent
from langchain_convsync.outbox import Outbox, Replies, WAHAReply
from langchain_convsync.outbox.journal import Journal
from langchain_convsync.stores import (
    Commit,
    DeadLetter,
    EventStore,
    NewEvent,
    Operation,
    RedisEventStore,
)
from langchain_convsync.stores.base import Acquired, QueueName
from langchain_convsync.stores.served import adopted
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from langchain_convsync.turns.naming import Naming
from tests import promises
from tests.promises import CUSTOMER, Answer, echo, history, said, sync_and_async
from tests.redis_server import RedisServer
from tests.surfaces import unreachable

server = promises.server

BAD_PAYLOADS = {
    "nothing": "",
    "half a document": '{"event_id": "2"',
    "a list": "[]",
    "another kind": '{"kind": "history", "messages": []}',
    "an object of something else": '{"id": 2}',
    "no customer": '{"kind": "message", "event_id": "2", "text": "two"}',
    "a number for the customer": '{"kind": "message", "event_id": "2", "phone_number": 2}',
    "a number for the tenant": json.dumps(
        {"event_id": "2", "phone_number": CUSTOMER, "subdomain": 5}
    ),
    "too deep": "[" * 5000 + "]" * 5000,
}


#: What runs a command for those who trust what they read: pickle's, YAML's, LangChain's, our own.
CODE = {
    "pickle": "cos\nsystem\n(S'exit 1'\ntR.",
    "yaml": "!!python/object/apply:os.system ['exit 1']",
    "an expression": "__import__('os').system('exit 1')",
    "a serialized object": json.dumps(
        {"lc": 1, "type": "constructor", "id": ["subprocess", "Popen"], "kwargs": {"args": "ls"}}
    ),
    "a model": json.dumps({"$type": ["model", "subprocess:Popen", {"args": "ls"}]}),
    "a dataclass": json.dumps({"$type": ["dataclass", "nturl2path:url2pathname", {}]}),
    "a text": json.dumps({"$type": ["text", "os:system", "exit 1"]}),
    "a function": json.dumps({"$type": ["exec", "exit 1"]}),
    "a message": json.dumps({"$langchain_message": {"type": "os:system", "data": {"content": ""}}}),
}
_EXECUTING = {
    *("exec", "compile", "import", "marshal.loads", "pickle.find_class"),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen"),
}
#: What was not asked of the interpreter since it was watched.
_not_asked = dict.fromkeys(_EXECUTING)


@contextmanager
def audited() -> Iterator[set[str]]:
    """What the interpreter is made to execute or import meanwhile, in any thread."""
    executed = set[str]()
    _not_asked.update(dict.fromkeys(_EXECUTING))
    yield executed
    executed |= _EXECUTING - _not_asked.keys()


@pytest.fixture
def client(server: ReferenceServer) -> Iterator[ConvSyncClient]:
    with server.client() as connected:
        yield connected


def rewritten(store: EventStore, event_id: str, payload: str) -> None:
    """An event whose stored text is another one, as a damaged store has it."""
    event_key = run(Naming(store).event(said(event_id), "")).event_key
    held = run(store.amend(event_key, "", ""))
    assert held is not None
    assert run(store.amend(event_key, held, payload)) == payload


@sync_and_async
@pytest.mark.parametrize("payload", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS)
def test_an_event_that_cannot_be_read_ends_and_those_beside_it_are_answered(
    answer: Answer,
    server: ReferenceServer,
    client: ConvSyncClient,
    event_store: EventStore,
    payload: str,
) -> None:
    """The one before it and those behind it; an operator finds it, with its reason."""
    runner = TurnRunner(echo(), client=client, store=event_store)
    for text in ("one", "two", "three"):
        runner.accept(said(text))
    rewritten(event_store, "two", payload)

    reply = answer(runner, said("four")).reply

    assert reply is not None
    assert reply.endswith("re: four")
    words = [text for role, text in history(server) if role == "user"]
    assert words == ["one", "three", "four"]
    (letter,) = run(event_store.dead_letters())
    assert letter.body == payload
    assert letter.reason.startswith("the stored event")
    assert run(event_store.backlog()).queued == 0


@sync_and_async
def test_an_event_of_which_no_turn_can_be_made_ends_after_its_errors(
    answer: Answer,
    client: ConvSyncClient,
    event_store: EventStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It reads well, and names a customer who is none."""
    monkeypatch.setattr("langchain_convsync.turns.process.RETRY_LATER", 0.0)
    runner = TurnRunner(echo(), client=client, store=event_store, max_errors=2)
    runner.accept(said("one"))
    rewritten(event_store, "one", '{"kind": "message", "event_id": "1", "phone_number": "abc"}')

    with pytest.raises(InvalidPhoneNumberError):
        answer(runner, said("one"))
    assert answer(runner, said("one")).status == "failed"

    (letter,) = run(event_store.dead_letters())
    reason = "no turn could be made of the stored event: InvalidPhoneNumberError: expected"
    assert letter.reason.startswith(reason)


@sync_and_async
def test_what_can_be_read_of_a_damaged_event_is_recorded_and_apologised_for(
    answer: Answer, server: ReferenceServer, client: ConvSyncClient, event_store: EventStore
) -> None:
    """Whose message it is and from whom is known, and so are the words."""
    runner = TurnRunner(echo(), client=client, store=event_store, fallback_reply="Disculpe")
    runner.accept(said("one"))
    payload = {"event_id": "one", "phone_number": CUSTOMER, "text": "Hola", "sent_at": "monday"}
    rewritten(event_store, "one", json.dumps({**payload, "media": "none"}))

    turn = answer(runner, said("one"))

    assert (turn.status, turn.reply) == ("failed", "Disculpe")
    assert history(server) == [("user", "Hola"), ("bot", "Disculpe")]
    (letter,) = run(event_store.dead_letters())
    assert letter.reason == "the stored event cannot be read: media, sent_at"


@pytest.mark.parametrize(
    "sent_at",
    [
        datetime.min,  # noqa: DTZ901 - a time without a zone
        datetime.max,  # noqa: DTZ901 - a time without a zone
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
    ],
    ids=str,
)
@sync_and_async
def test_no_time_at_which_a_message_was_sent_stops_its_turn(
    answer: Answer, client: ConvSyncClient, event_store: EventStore, sent_at: datetime
) -> None:
    """A time without a zone is one of UTC, in the order of all others."""
    runner = TurnRunner(echo(), client=client, store=event_store)
    runner.accept(said("one", sent_at=datetime(2026, 1, 1, tzinfo=UTC)))

    turn = answer(runner, said("two", sent_at=sent_at))

    is_old = sent_at.year == 1
    assert (turn.status, turn.reply) == (("stale", None) if is_old else ("answered", "re: two"))


def _turn(
    store: EventStore, text: str = "before", *, outcome: str | None = None, **commit: Any
) -> Acquired:
    """A turn of the customer, committed with these facts."""
    new = run(Naming(store).event(said(text), ""))
    event_key = new.event_key
    acquired = run(store.accept(new, token="before")).acquired
    assert acquired is not None
    outcomes = {} if outcome is None else {event_key: outcome}
    work = {
        queue: [Operation(id=f"{event_key}/{n}", body=body) for n, body in enumerate(bodies)]
        for queue, bodies in commit.items()
        if queue in {"operations", "replies"}
    }
    given = Commit(event_keys=[event_key], outcomes=outcomes, **{**commit, **work})
    assert run(store.commit_turn(acquired.lease, given)) == "done"
    return acquired


@sync_and_async
@pytest.mark.parametrize("snapshot", ["", "{}", "[]", '{"sessionId": 5}'])
def test_a_snapshot_that_cannot_be_read_is_none(
    answer: Answer, client: ConvSyncClient, event_store: EventStore, snapshot: str
) -> None:
    """With the API server there it is not needed; without, the event waits."""
    _turn(event_store, snapshot=snapshot, snapshot_ttl=600.0)
    away = TurnRunner(echo(), client=_away(event_store), store=event_store)
    assert answer(away, said("one"), 0.0).status == "queued"
    run(adopted(event_store, client.api.address))

    runner = TurnRunner(echo(), client=client, store=event_store)

    assert answer(runner, said("one")).reply == "re: one"


@sync_and_async
@pytest.mark.parametrize("outcome", ["", "{}", "[]", '{"status": "answered"}', "half"])
def test_an_outcome_that_cannot_be_read_is_a_duplicate_without_words(
    answer: Answer, client: ConvSyncClient, event_store: EventStore, outcome: str
) -> None:
    """The event is done, whatever became of the record of it."""
    _turn(event_store, outcome=outcome)

    turn = answer(TurnRunner(echo(), client=client, store=event_store), said("before"))

    assert (turn.status, turn.reply) == ("duplicate", None)


@pytest.mark.slow  # a pytest of its own
def test_nothing_that_was_stored_is_executed() -> None:
    """In a process of its own: who watches an interpreter cannot stop, and tracing suffers."""
    foreign = ("PYTEST_", "COV_", "COVERAGE_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    options = ["--quiet", "--no-cov", "-p", "no:cacheprovider", "-o", "python_functions=watched_*"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, __file__],
        env=own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, "4 passed" in ran.stdout) == (0, True), ran.stdout + ran.stderr


@sync_and_async
def watched_nothing_is_executed(
    answer: Answer, client: ConvSyncClient, event_store: EventStore
) -> None:
    """Not as an event, a snapshot, an outcome, a write, or a claim's result."""
    sys.addaudithook(_not_asked.pop)
    runner = TurnRunner(echo(), client=client, store=event_store)
    run(adopted(event_store, client.api.address))
    away = TurnRunner(echo(), client=_away(event_store), store=event_store)

    def read_back(stored: str, round_: str) -> None:
        commit = {"snapshot": stored, "snapshot_ttl": 600.0, "operations": [stored]}
        _turn(event_store, f"before {round_}", outcome=stored, **commit)
        _claim(event_store, f"claim {round_}", stored)
        runner.accept(said(f"one {round_}"))
        rewritten(event_store, f"one {round_}", stored)
        answer(away, said(f"one {round_}"), 0.0)
        answer(runner, said(f"two {round_}"))
        answer(runner, said(f"before {round_}"))
        with once(event_store, f"claim {round_}"):
            pass

    read_back("{}", "nothing")  # what is needed to read anything is loaded
    for kind, text in CODE.items():
        with audited() as executed:
            read_back(text, kind)
        assert (kind, executed) == (kind, set())


def _away(store: EventStore) -> ConvSyncClient:
    """The store's API server, which does not answer."""
    client = unreachable()
    run(adopted(store, client.api.address))
    return client


def _claim(store: EventStore, event_id: str, result: str) -> None:
    """An event that was processed once, with this result."""
    key = run(store.keys()).claim("once", event_id)
    acquired = run(store.accept(NewEvent(event_key=key, conversation_key=key), token="1")).acquired
    assert acquired is not None
    run(store.commit_turn(acquired.lease, Commit(event_keys=[key], outcomes={key: result})))


def test_a_claim_whose_result_cannot_be_read_is_done(event_store: EventStore) -> None:
    """It is not worked on again."""
    _claim(event_store, "1", '{"$langchain_message": 1}')

    with once(event_store, "1") as claim:
        assert (claim.acquired, claim.result) == (False, None)


BAD_BODIES = ["", "[]", '{"kind": "append"}', '{"kind": "dance", "turn": "1"}', "half"]


@sync_and_async
@pytest.mark.parametrize("body", BAD_BODIES)
def test_a_write_that_cannot_be_read_is_a_dead_letter_and_the_next_turn_is_synced(
    answer: Answer,
    server: ReferenceServer,
    client: ConvSyncClient,
    event_store: EventStore,
    body: str,
) -> None:
    """Turns read the outbox, too; and the anchor before it may be anything."""
    _turn(event_store, operations=[body, body])
    runner = TurnRunner(echo(), client=client, store=event_store)

    assert answer(runner, said("one")).reply == "re: one"

    assert history(server) == [("user", "one"), ("bot", "re: one")]
    letters = run(event_store.dead_letters())
    assert [one.reason for one in letters] == ["what is stored of it cannot be read"] * 2


@pytest.mark.parametrize("queue", ["outbox", "replies"])
@pytest.mark.parametrize("body", BAD_BODIES)
def test_an_operation_that_cannot_be_read_is_a_dead_letter(
    client: ConvSyncClient, event_store: EventStore, queue: QueueName, body: str
) -> None:
    """No request is made for it."""
    work: dict[str, Any] = {"operations" if queue == "outbox" else queue: [body]}
    _turn(event_store, **work)
    sender = WAHAReply("https://waha.example.com", api_key="key")
    delivering: Outbox | Replies = Replies(sender, event_store)
    if queue == "outbox":
        delivering = Outbox(api_of(client), event_store)
    acquired = run(event_store.acquire(queue, "worker"))
    assert acquired is not None

    run(delivering.deliver(acquired, budget=0.0))

    letter: DeadLetter
    (letter,) = run(event_store.dead_letters())
    assert (letter.queue, letter.reason) == (queue, "what is stored of it cannot be read")
    assert run(event_store.due(queue, letter.conversation_key)) is None
    sender.close()


def test_an_edit_of_what_cannot_be_read_changes_nothing(
    client: ConvSyncClient, redis_server: RedisServer
) -> None:
    """Neither of no message, nor of bytes that are no text; and it ends."""
    redis_server.empty()
    store = RedisEventStore(redis_server.url)
    runner = TurnRunner(echo(), client=client, store=store)
    edit = waha.Ignored("edited", target_id="3EB0", from_me=False, text="later")
    event_id = waha.event_id("3EB0", from_me=False)
    runner.accept(InboundEvent(event_id=event_id, phone_number=CUSTOMER, text="sooner"))
    with redis_server.client() as redis:
        (key,) = redis.keys("cs:*:ev:*")
        whole = redis.hget(key, "payload")
        told = []
        for payload in (b"", whole.replace(b"sooner", b"so\xffner"), whole):
            redis.hset(key, "payload", payload)
            told.append(runner.amend(edit))
    store.close()

    assert told == [False, False, True]


@pytest.mark.parametrize(
    "payload",
    ['{"kind": "history"}', '{"kind": "history", "phone_number": "abc", "messages": []}'],
)
def test_messages_of_a_history_that_cannot_be_read_are_a_dead_letter(
    client: ConvSyncClient, event_store: EventStore, payload: str
) -> None:
    """Those behind them are the next to be committed."""
    keys = run(event_store.keys())
    name = keys.conversation("convsync journal bot123", CUSTOMER)
    for number in range(2):
        event_key = keys.event("convsync journal bot123", CUSTOMER, "journal", str(number))
        new = NewEvent(event_key=event_key, payload=payload, conversation_key=name)
        run(event_store.accept(new))
    acquired = run(event_store.acquire("inbox", "worker"))
    assert acquired is not None

    committed = run(Journal(api_of(client), event_store).commit(acquired))

    assert committed == 1
    (letter,) = run(event_store.dead_letters())
    assert letter.id == acquired.events[0].event_key
    assert letter.reason == "the stored messages cannot be read"
