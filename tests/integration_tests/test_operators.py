"""What an operator gives back is delivered by the next worker, as far as it was not confirmed."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync._flow import run
from langchain_convsync.models import Conversation, ConversationMessage
from langchain_convsync.outbox import WAHAReply, Write, as_operations
from langchain_convsync.stores import (
    Acquired,
    Backlog,
    Commit,
    EventStore,
    NewEvent,
    Operation,
    open_store,
)
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner, operators
from tests import promises
from tests.faulty_server import answers
from tests.promises import CUSTOMER, echo, history, said, spoken
from tests.waha_chats import WahaChats, waha_server

server = promises.server


def cid_of(store: EventStore) -> str:
    return run(operators.conversation_key_of(store, CUSTOMER, "default"))


def runner_of(server: ReferenceServer, store: EventStore, **options: Any) -> TurnRunner:
    return TurnRunner(echo(), client=server.client(), store=store, **options)


def queued(store: EventStore, server: ReferenceServer, *texts: str) -> Acquired:
    """A turn's messages in the outbox, and the lease of whoever delivers them."""
    keys, conversation = run(store.keys()), server.conversation(CUSTOMER)
    event_key = keys.event("default", "", "message", texts[0])
    new = NewEvent(event_key=event_key, conversation_key=cid_of(store))
    turn = run(store.accept(new, token="turn")).acquired
    assert turn is not None
    write = _append(conversation, event_key, turn.now, *texts)
    run(
        store.commit_turn(
            turn.lease,
            Commit(event_keys=[event_key], outcomes={}, operations=as_operations([write])),
        )
    )
    acquired: Acquired | None = run(store.acquire("outbox", "first worker"))
    assert acquired is not None
    return acquired


def _append(conversation: Conversation, turn: str, now: float, *texts: str) -> Write:
    return Write(
        kind="append",
        phone_number=CUSTOMER,
        session_id=conversation.session_id,
        bot_id=conversation.bot_id,
        subdomain=conversation.subdomain,
        turn=turn,
        number=1,
        decided_at=now,
        messages=tuple(ConversationMessage(role="user", content=text) for text in texts),
    )


def test_what_was_confirmed_before_it_became_a_dead_letter_is_not_sent_again(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """Two of three messages stood in the history; the third one follows, behind a later turn's."""
    acquired = queued(event_store, server, "uno", "dos", "tres")
    operation, session = acquired.operations[0], server.conversation(CUSTOMER).session_id
    for pos, text in enumerate(("uno", "dos")):
        server.client().add_message(session, "user", text)
        run(event_store.confirm(acquired.lease, operation.id, pos, last=False))
    run(event_store.set_dead(acquired.lease, operation.id, reason="it is unknown"))
    run(event_store.release(acquired.lease))
    runner_of(server, event_store).run(said("Hola"))

    assert run(operators.retry(event_store, cid_of(event_store))) == 1
    with runner_of(server, event_store):
        pass  # leaving the block delivers

    before = [("user", "uno"), ("user", "dos")]
    assert history(server) == [*before, *spoken(["Hola"]), ("user", "tres")]
    assert run(event_store.backlog()).dead_letters == 0


def test_a_turn_of_dead_letters_comes_back_in_its_own_order(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """Its session ended before the messages were written; the customer has a new one by now."""
    old = server.conversation(CUSTOMER)

    def expiring(_messages: list[BaseMessage]) -> AIMessage:
        server.expire(old.session_id)
        return AIMessage("re: Hola")

    TurnRunner(RunnableLambda(expiring), client=server.client(), store=event_store).run(
        said("Hola")
    )
    assert run(event_store.backlog()).dead_letters == 1
    server.create_conversation(phone_number=CUSTOMER, subdomain="restaurant-abc", bot_id="bot123")

    assert run(operators.retry(event_store, cid_of(event_store))) == 1
    assert run(operators.retry(event_store, cid_of(event_store))) == 0
    with runner_of(server, event_store):
        pass

    assert history(server) == spoken(["Hola"])


def test_a_dead_letter_is_answered_once_by_the_next_worker(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """Its agent works again; the message that is repeated meanwhile stays a duplicate."""

    def broken(_messages: list[BaseMessage]) -> AIMessage:
        raise RuntimeError

    failing = TurnRunner(
        RunnableLambda(broken),
        client=server.client(),
        store=event_store,
        fallback_reply="Un momento",
        max_errors=1,
    )
    assert failing.run(said("Hola")).status == "failed"
    replies: SimpleQueue[str | None] = SimpleQueue()

    assert run(operators.retry(event_store, cid_of(event_store))) == 1
    with runner_of(server, event_store, on_reply=lambda turn: replies.put(turn.reply)) as runner:
        assert replies.get(timeout=20) == "re: Hola"
        assert runner.run(said("Hola")).status == "duplicate"

    assert replies.empty()
    assert history(server) == [("user", "Hola"), ("bot", "Un momento"), *spoken(["Hola"])]
    assert run(event_store.backlog()).dead_letters == 0


def test_a_reply_given_back_is_sent_by_the_next_worker(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """WAHA refused it for good; the key is right now."""
    chats = WahaChats()
    chats.fates = [answers({"error": "no"}, status=401)]
    with waha_server(chats) as url:
        runner = runner_of(server, event_store, reply=WAHAReply(url))
        runner.run(said("Hola"))
        runner.run(said("¿Sigues ahí?"))
        assert run(operators.retry(event_store, cid_of(event_store))) == 1
        with runner_of(server, event_store, reply=WAHAReply(url)):
            pass

    assert chats.texts == ["re: ¿Sigues ahí?", "re: Hola"]
    assert run(event_store.backlog()).dead_letters == 0


def test_of_operators_who_retry_at_the_same_time_one_does(durable_store_url: str) -> None:
    """Each with a connection of their own, as from processes of their own."""
    stores = [open_store(durable_store_url) for _ in range(4)]
    conversation_key = cid_of(stores[0])
    for number in range(5):
        _dead_letter(stores[0], conversation_key, str(number))

    with ThreadPoolExecutor(len(stores)) as pool:
        done = list(pool.map(lambda store: run(operators.retry(store, conversation_key)), stores))
    left = run(stores[0].backlog())
    for store in stores:
        store.close()

    assert sum(done) == 5
    assert (left.writes, left.dead_letters) == (5, 0)


def _dead_letter(store: EventStore, conversation_key: str, source: str) -> None:
    """A turn's only write, as a dead letter."""
    event_key = run(store.keys()).event("default", "", "message", source)
    turn = run(
        store.accept(NewEvent(event_key=event_key, conversation_key=conversation_key), token=source)
    ).acquired
    assert turn is not None
    known = Conversation(session_id="s", user_id=CUSTOMER, bot_id="b", subdomain="r")
    operations = as_operations([_append(known, event_key, turn.now, source)])
    run(
        store.commit_turn(
            turn.lease, Commit(event_keys=[event_key], outcomes={}, operations=operations)
        )
    )
    acquired = run(store.acquire("outbox", f"worker {source}"))
    assert acquired is not None
    run(store.set_dead(acquired.lease, acquired.operations[0].id, reason="test"))
    run(store.release(acquired.lease))


def test_a_conversation_that_is_forgotten_while_its_agent_runs_gets_no_answer(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """The worker is fenced: nothing is said, nothing is written."""
    told: list[str | None] = []
    forgotten = threading.Event()

    def interrupted(_messages: list[BaseMessage]) -> AIMessage:
        run(operators.forget(event_store, cid_of(event_store)))
        forgotten.set()
        return AIMessage("too late")

    with TurnRunner(
        RunnableLambda(interrupted),
        client=server.client(),
        store=event_store,
        on_reply=lambda turn: told.append(turn.reply),
    ) as runner:
        runner.accept(said("Hola"))
        assert forgotten.wait(timeout=20)

    assert (told, history(server)) == ([], [])
    assert run(event_store.backlog()) == Backlog()


def test_every_change_is_written_into_the_audit_log(
    event_store: EventStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What, to which key, how much, by whom; no customer's number, no customer's words."""
    monkeypatch.setattr("getpass.getuser", lambda: "eva")
    conversation_key = cid_of(event_store)
    event_key = run(event_store.keys()).event("default", "", "message", "1")
    new = NewEvent(
        event_key=event_key, conversation_key=conversation_key, payload='{"text": "secreto"}'
    )
    turn = run(event_store.accept(new, token="t")).acquired
    assert turn is not None
    commit = Commit(
        event_keys=[event_key],
        outcomes={},
        dead=True,
        replies=[Operation(id=f"{event_key}/0", body="{}")],
    )
    run(event_store.commit_turn(turn.lease, commit))

    with caplog.at_level(logging.INFO, "langchain_convsync.audit"):
        run(operators.discard(event_store, conversation_key))
        run(operators.pause(event_store, conversation_key, 60.0))
        run(operators.pause(event_store, conversation_key, 0.0))
        run(operators.forget(event_store, conversation_key))

    assert [record.getMessage() for record in caplog.records] == [
        f"{what} {conversation_key}: 1, by eva" for what in ("discard", "pause", "resume", "forget")
    ]
