"""What an operator does about a conversation: see why it waits, decide about its dead letters.

Each change is one step of the store and is written into the log ``langchain_convsync.audit``: what
was done, to which conversation key, how much of it, and by whom. Never a phone number or a text.
"""

from __future__ import annotations

import getpass
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from langchain_convsync import phone, telemetry
from langchain_convsync._flow import Flow, Io
from langchain_convsync.errors import (
    ClosedError,
    ConfigurationError,
    NoInterruptError,
    StoreError,
)
from langchain_convsync.outbox import Write
from langchain_convsync.stores.base import (
    AccountKey,
    ConversationView,
    DeadLetter,
    EventStore,
    NewEvent,
    QueuedEvent,
    QueueView,
    new_token,
)
from langchain_convsync.stores.changed import check_names_of
from langchain_convsync.telemetry import Gauge
from langchain_convsync.turns.interrupts import NEVER, Answer, WaitingRun, resume_value
from langchain_convsync.turns.naming import UNNAMED

audit = logging.getLogger("langchain_convsync.audit")
_ACCOUNT_KEY = re.compile(r"[0-9]{2}\.[0-9a-f]{12}")
#: As many things as are decided in one step of a loop.
_BATCH = 100


def conversation_key_of(store: EventStore, customer: str, account: str = UNNAMED) -> Flow[str]:
    """The key under which the store and the logs know a conversation.

    Args:
        store: The store.
        customer: The customer's phone number, or chat id.
        account: The receiving side: its subdomain, bot id, number or WAHA session, the name that it
            is configured under, or its key, as :meth:`EventStore.loads` tells it; ``"default"``
            stands for whichever side the customer has written to.

    Raises:
        ConfigurationError: The customer has written to several.
        InvalidPhoneNumberError: ``customer`` is neither a phone number nor a chat id.
    """
    identity, keys = phone.normalize(customer), (yield from store.keys())
    if _ACCOUNT_KEY.fullmatch(account):
        return keys.conversation(AccountKey(account), identity)
    named, own = (yield from store.accounts()), keys.account(account)
    if account != UNNAMED:
        spelled = {account, phone.identity_of(account) or account}
        facts = {keys.facts({kind: each}) for kind in "abdns" for each in spelled}
        named = {key: known for key, known in named.items() if facts & {*known.split()}}
    candidates = dict.fromkeys(
        keys.conversation(key, identity) for key in (own, *sorted(named, key=str))
    )
    found: list[str] = []
    for conversation_key in candidates:
        inspected = yield from inspect_conversation(store, conversation_key)
        if inspected.known and inspected.view.conversation_key not in found:
            found.append(inspected.view.conversation_key)
    check_names_of(keys, (yield from store.keys()))
    if len(found) > 1:
        choices = ", ".join(conversation_key[:15] for conversation_key in found)
        message = (
            "the customer has written to several accounts: name one by its subdomain, bot id, "
            f"number or WAHA session, or as one of {choices}"
        )
        raise ConfigurationError(message)
    if found:
        return found[0]
    # Nothing is known of the customer yet.
    return keys.conversation(next(iter(named)) if len(named) == 1 else own, identity)


@dataclass(frozen=True, slots=True)
class OperatorView:
    """One conversation as an operator sees it.

    Args:
        view: What is in its queues.
        dead_letters: Its dead letters, oldest first.
    """

    view: ConversationView
    dead_letters: tuple[DeadLetter, ...]

    @property
    def known(self) -> bool:
        """Whether the store keeps anything of it."""
        view = self.view
        queues = view.inbox, view.outbox, view.replies
        work = sum(queue.depth for queue in queues)
        return bool(work or view.turns or self.dead_letters or view.paused_until is not None)

    @property
    def waiting(self) -> tuple[QueuedEvent, WaitingRun] | None:
        """The run of the agent that waits for an answer, and its entry in the inbox."""
        return _waiting_in(self.view)

    def reasons(self) -> list[str]:
        """In words, why what waits does wait; empty where nothing does."""
        view = self.view
        found = [
            *_why_events_wait(view),
            *_why_operations_wait(view.outbox, view.now, "writes"),
            *_why_operations_wait(view.replies, view.now, "replies"),
        ]
        if self.dead_letters:
            found.append(f"{len(self.dead_letters)} dead letters: retry or discard them")
        return found


def inspect_conversation(store: EventStore, conversation_key: str) -> Flow[OperatorView]:
    """See one conversation, and acquire nothing of it."""
    view = yield from store.view(conversation_key)
    return OperatorView(view, (yield from store.dead_letters(conversation_key, most=1000)))


def retry(store: EventStore, conversation_key: str) -> Flow[int]:
    """Give all dead letters of a conversation back to the workers; how many there were.

    What was confirmed of a write before is not sent again. What comes back arrives
    behind what came later, and an event's message stands in the history a second time, before its
    late answer.
    """

    def step(one: DeadLetter) -> Io[str | None]:
        return store.requeue(one, token=new_token(), body=rest_of(one))

    return (yield from _decide(store, conversation_key, "retry", step))


def discard(store: EventStore, conversation_key: str) -> Flow[int]:
    """Give up all dead letters of a conversation; how many there were."""

    def step(one: DeadLetter) -> Io[bool]:
        return store.discard(one, token=new_token())

    return (yield from _decide(store, conversation_key, "discard", step))


def answer(
    store: EventStore, conversation_key: str, decide: Callable[[WaitingRun], Any]
) -> Flow[NewEvent]:
    """Answer what a run of the agent waits for, so that it is due now.

    Args:
        store: The store.
        conversation_key: The conversation.
        decide: Makes the resume value, JSON; it may be asked twice.

    Returns:
        The entry of the run, as it is to be offered to find out what became of it.

    Raises:
        NoInterruptError: No run waits there, or it has another answer already.
        ConfigurationError: The value is not JSON.
    """
    while True:
        view = yield from store.view(conversation_key)
        if (found := _waiting_in(view)) is None:
            message = (
                "no run of the agent waits for an answer in this conversation: it has gone on, "
                "or none was interrupted; `convsync show` tells what waits, and where a customer "
                "writes to several, name the account"
            )
            raise NoInterruptError(message)
        entry, waiting = found
        try:
            value = resume_value(decide(waiting))
        except ValueError as error:
            message = f"an answer is a JSON value: {type(error).__name__}"
            raise ConfigurationError(message) from error
        offered = NewEvent(event_key=entry.event_key, conversation_key=view.conversation_key)
        if waiting.answer is not None:
            if waiting.answer.value != value:
                message = "the run has another answer already, with which it goes on"
                raise NoInterruptError(message)
            return replace(offered, payload=entry.payload)
        answered = waiting.answered(Answer(by="operator", value=value, at=view.now)).stored
        held = yield from store.amend(entry.event_key, entry.payload, answered, due=True)
        if held == answered:
            telemetry.count("operator", what="answer")
            _audited("answer", view.conversation_key, 1)
            return replace(offered, payload=answered)


def _waiting_in(view: ConversationView) -> tuple[QueuedEvent, WaitingRun] | None:
    for event in view.events:
        if (waiting := WaitingRun.read(event.payload)) is not None:
            return event, waiting
    return None


def pause(store: EventStore, conversation_key: str, seconds: float) -> Flow[None]:
    """Give a conversation to a human for so many seconds; 0.0 gives it back."""
    yield from store.pause(conversation_key, seconds=seconds)
    _audited("pause" if seconds else "resume", conversation_key, 1)


def forget(store: EventStore, conversation_key: str) -> Flow[bool]:
    """Erase what the store keeps of a conversation; see :meth:`EventStore.forget`.

    Returns:
        Whether it kept anything.
    """
    try:
        known = yield from store.forget(conversation_key)
    except StoreError:
        _audited("forget", conversation_key, "unfinished")
        raise
    telemetry.count("operator", what="forget")
    _audited("forget", conversation_key, 1 if known else "nothing was kept of it")
    return known


def rest_of(letter: DeadLetter) -> str | None:
    """The body of what is still to be done; None where it is the one that it has.

    The messages that are confirmed are left out, and so is the end of the history as the turn read
    it: by now it tells nothing about what was recorded since.
    """
    if letter.queue != "outbox":
        return None
    try:
        write = Write.model_validate_json(letter.body)
    except ValueError:  # as it was: its delivery says what is wrong with it
        return None
    rest = write.model_copy(update={"messages": write.messages[letter.pos :], "base": None})
    return rest.model_dump_json(exclude_defaults=True)


def _decide(
    store: EventStore,
    conversation_key: str,
    what: str,
    step: Callable[[DeadLetter], Io[str | None] | Io[bool]],
) -> Flow[int]:
    """Decide about the dead letters of now, oldest first; new ones are left alone."""
    done, now = 0, (yield from store.view(conversation_key, most=1)).now
    while True:
        found = yield from store.dead_letters(conversation_key, most=_BATCH)
        before = done
        for one in found:
            if one.since <= now and (yield from step(one)):
                done += 1
        if len(found) < _BATCH or done == before:
            break
    if done:
        telemetry.count("operator", done, what=what)
        _audited(what, conversation_key, done)
    return done


def _audited(what: str, conversation_key: str, amount: int | str) -> None:
    audit.info("%s %s: %s, by %s", what, conversation_key, amount, _operator())


def _operator() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"


def _why_events_wait(view: ConversationView) -> Sequence[str]:
    if not view.events:
        return []
    queue, head = view.inbox, view.events[0]
    if queue.held_until is not None and queue.held_until > view.now:
        return [f"events: a worker is at them, its lease ends in {_until(queue, view.now)}"]
    reasons = []
    waiting = WaitingRun.read(head.payload)
    if waiting is not None and waiting.answer is None:
        subjects = ", ".join(each.subject for each in waiting.interrupts)
        left = "" if waiting.life >= NEVER else f", {queue.due_in or 0:.0f} s more at most"
        reasons.append(f"events: the agent waits for an answer: {subjects}{left}")
    elif queue.due_in:
        tried = head.errors or head.starts
        why = f"after {head.errors} failed runs of the agent" if tried else "for more messages"
        reasons.append(f"events: due in {queue.due_in:.1f} s, {why}")
    else:
        reasons.append("events: due now, no worker has acquired them: is one running?")
    if view.paused_until is not None:
        reasons.append("events: a human has the conversation, they are recorded and not answered")
    return reasons


def _why_operations_wait(queue: QueueView, now: float, name: str) -> Sequence[str]:
    if not queue.depth:
        return []
    if queue.held_until is not None and queue.held_until > now:
        return [f"{name}: a worker is at them, its lease ends in {_until(queue, now)}"]
    if queue.due_in:
        tries = queue.cursor.tries if queue.cursor else 0
        return [f"{name}: the first one was tried {tries} times, again in {queue.due_in:.1f} s"]
    return [f"{name}: due now, no worker has acquired them: is one running?"]


def _until(queue: QueueView, now: float) -> str:
    return f"{(queue.held_until or now) - now:.1f} s"


def exposition(store: EventStore) -> Flow[str]:
    """All metrics of this process, and those of a store; a store that is away is one, too."""
    return telemetry.exposition((yield from gauges(store)))


def gauges(store: EventStore) -> Flow[list[Gauge]]:
    """What a store has to do now; that it is away is one of them."""
    try:
        return [Gauge("store_up", 1), *(yield from _work_of(store))]
    except (StoreError, ClosedError):
        return [Gauge("store_up", 0)]


def _work_of(store: EventStore) -> Flow[list[Gauge]]:
    left = yield from store.backlog()
    loads = yield from store.loads()
    oldest = {"inbox": 0.0, "outbox": 0.0, "replies": 0.0}
    for load in loads:
        oldest[load.queue] = max(oldest[load.queue], -load.due_in)
    return [
        *(Gauge("backlog", number, {"what": what}) for what, number in asdict(left).items()),
        *(Gauge("oldest_due_seconds", age, {"queue": queue}) for queue, age in oldest.items()),
    ]
