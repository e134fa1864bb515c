"""Messages on the reference server: kept in order, and applied once per idempotency key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy
from pydantic import ValidationError

from langchain_convsync.server.answers import KeyReusedError
from langchain_convsync.server.store import Applied, UnknownSessionError
from langchain_convsync.server.wire import NewMessage, StateSync
from tests.clocked_store import PHONE, XYZ, ClockedStore


@pytest.fixture
def store() -> Iterator[ClockedStore]:
    """An empty store in memory."""
    with closing(ClockedStore()) as store:
        yield store


def test_a_message_joins_the_history(store: ClockedStore) -> None:
    """The answer holds the whole history and what the customer said last."""
    session_id = store.begin()
    store.say(session_id, "Hola")

    answer = store.say(session_id, "¡Hola! Bienvenido", role="bot")

    assert answer == {
        "previousMessages": [
            {"role": "user", "content": "Hola", "timestamp": "2025-12-29T10:00:00.123Z"},
            {
                "role": "bot",
                "content": "¡Hola! Bienvenido",
                "timestamp": "2025-12-29T10:00:00.124Z",
            },
        ],
        "lastUserMessage": "Hola",
    }
    assert store.seen()["context"] == answer


def test_the_whole_history_is_kept(store: ClockedStore) -> None:
    """In order, and with times that only grow, whatever the clock does."""
    session_id = store.begin()

    for number in range(60):
        store.say(session_id, str(number))

    history = store.seen()["context"]["previousMessages"]
    times = [entry["timestamp"] for entry in history]
    assert [entry["content"] for entry in history] == [str(number) for number in range(60)]
    assert times == sorted(set(times))


def test_times_grow_when_the_clock_steps_back(store: ClockedStore) -> None:
    """Order by timestamp stays order of arrival."""
    session_id = store.begin()
    store.say(session_id, "a")
    store.clock.advance(minutes=-5)

    history = store.say(session_id, "b")["previousMessages"]

    assert history[0]["timestamp"] < history[1]["timestamp"]


@pytest.mark.parametrize(
    "body",
    [
        {"role": "assistant", "content": "x"},
        {"role": "User", "content": "x"},
        {"role": None, "content": "x"},
        {"role": "user", "content": ""},
        {"role": "user", "content": 5},
        {"role": "user"},
        {"content": "x"},
        {"role": "user", "content": "x", "timestamp": "2025-12-29T10:00:00Z"},
    ],
)
def test_a_malformed_message_is_refused(body: dict[str, Any]) -> None:
    """Roles are `user` and `bot`, content is text, times are the server's."""
    with pytest.raises(ValidationError):
        NewMessage.model_validate(body)


def test_a_repeated_key_is_applied_once_and_answered_alike(store: ClockedStore) -> None:
    """Even after more was said, and after the conversation expired."""
    session_id, hola = store.begin(), NewMessage(role="user", content="Hola")
    first = store.add_message(session_id, hola, key="k1")
    store.say(session_id, "otra")
    store.clock.advance(hours=23)
    store.expire(session_id)

    again = store.add_message(session_id, hola, key="k1")

    assert (first.replayed, again.replayed) == (False, True)
    assert again.data == first.data
    state = store.find(PHONE, closed=True)
    assert state is not None
    assert len(state["context"]["previousMessages"]) == 2


@pytest.mark.parametrize("other", [{"step": "b"}, {"step": "a", "isActive": True}])
def test_a_key_is_not_for_another_request(store: ClockedStore, other: dict[str, Any]) -> None:
    """A client that reuses a key learns of its mistake, and nothing is written."""
    session_id = store.begin()
    store.sync(session_id, StateSync.model_validate({"step": "a"}), key="k1")

    with pytest.raises(KeyReusedError):
        store.sync(session_id, StateSync.model_validate(other), key="k1")

    assert store.seen()["currentStep"] == "a"


def test_a_key_belongs_to_its_conversation(store: ClockedStore) -> None:
    """Another tenant that happens to use the same key gets its own answer."""
    mine, theirs = store.begin(), store.begin(tenant=XYZ)
    hola = NewMessage(role="user", content="Hola")
    store.add_message(mine, hola, key="1")

    answer = store.add_message(theirs, hola, key="1")

    assert not answer.replayed
    assert answer.data["sessionId"] == theirs


def test_a_key_stays_spent_after_its_answer_is_forgotten(store: ClockedStore) -> None:
    """A day later the request is still not applied again; it is told how things stand."""
    session_id, hola = store.begin(), NewMessage(role="user", content="Hola")
    store.add_message(session_id, hola, key="k1")
    store.clock.advance(hours=23)
    store.say(session_id, "otra")
    store.clock.advance(hours=23)
    store.sync(session_id, StateSync(), key="k2")  # forgets old answers

    again = store.add_message(session_id, hola, key="k1")

    assert again.replayed
    assert [each["content"] for each in again.data["context"]["previousMessages"]] == [
        "Hola",
        "otra",
    ]
    assert store.seen()["context"] == again.data["context"]
    with pytest.raises(KeyReusedError):
        store.sync(session_id, StateSync(), key="k1")


def said_with_a_key(store: ClockedStore, session_id: str, number: int) -> Applied:
    message = NewMessage(role="bot", content=f"{number} \n\u2028 ñ")
    return store.add_message(session_id, message, key=f"k{number}")


@pytest.mark.parametrize("replaced", [0, 1, 2])
def test_a_long_history_is_told_again_as_it_was(store: ClockedStore, replaced: int) -> None:
    """Whatever was said since, and however often a sync replaced it: short and long ones."""
    session_id = store.begin()
    first = [said_with_a_key(store, session_id, number) for number in range(45)]
    whole = store.sync(session_id, StateSync.model_validate({"context": {"a": 1}}), key="s")
    for _ in range(replaced):
        store.merge(session_id, context={"previousMessages": [{"role": "user", "content": "x"}]})
        store.merge(session_id, context={"previousMessages": []})
        store.say(session_id, "y")

    again = [said_with_a_key(store, session_id, number) for number in range(45)]
    whole_again = store.sync(session_id, StateSync.model_validate({"context": {"a": 1}}), key="s")

    assert [each.data for each in again] == [each.data for each in first]
    assert whole_again.data == whole.data
    assert list(whole_again.data["context"]) == list(whole.data["context"])


def test_a_history_that_was_replaced_under_a_key_is_told_again(store: ClockedStore) -> None:
    """Before and after the write that replaced it, each repetition gets its own."""
    session_id = store.begin()
    first = [said_with_a_key(store, session_id, number) for number in range(30)]
    messages = [{"role": "user", "content": f"new {number}"} for number in range(25)]
    update = StateSync.model_validate({"context": {"previousMessages": messages}})
    replaced = store.sync(session_id, update, key="replaces")
    store.say(session_id, "later")

    assert store.sync(session_id, update, key="replaces").data == replaced.data
    again = [said_with_a_key(store, session_id, number) for number in range(30)]
    assert [each.data for each in again] == [each.data for each in first]


def test_a_message_costs_what_the_first_one_did(store: ClockedStore) -> None:
    """As many statements, and as many bytes to keep, however long the conversation is."""
    session_id = store.begin()
    statements: Counter[int] = Counter()
    number = 0

    @sqlalchemy.event.listens_for(store._database.engine, "before_cursor_execute")
    def _(*_: object) -> None:
        statements[number] += 1

    for number in range(400):
        said_with_a_key(store, session_id, number)
    with store._transaction() as db:
        kept = db.execute(sqlalchemy.text("SELECT length(answer) FROM keyed_answers")).scalars()
        sizes = list(kept)

    assert len({statements[each] for each in range(30, 399)}) == 1
    assert max(sizes[-100:]) < 300


def test_a_refused_request_uses_up_no_key(store: ClockedStore) -> None:
    """What was not applied may be tried again."""
    hola = NewMessage(role="user", content="Hola")
    with pytest.raises(UnknownSessionError):
        store.add_message("nope", hola, key="k1")
    session_id = store.begin()

    assert not store.add_message(session_id, hola, key="k1").replayed
