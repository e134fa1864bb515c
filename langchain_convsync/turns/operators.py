"""What an operator does about a conversation: see why it waits, decide about its dead letters.

Each change is one step of the store and is written into the log ``langchain_convsync.audit``: what
was done, to which conversation key, how much of it, and by whom. Never a phone number or a text.
"""

from __future__ import annotations

import getpass
import heapq
import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from langchain_convsync import phone, telemetry
from langchain_convsync._flow import Flow, Io
from langchain_convsync._lines import count_of, often
from langchain_convsync.errors import (
    ClosedError,
    ConfigurationError,
    NoInterruptError,
    StoreError,
)
from langchain_convsync.outbox import PendingReply, Write
from langchain_convsync.stores.base import (
    DIGITS,
    AccountKey,
    ConversationView,
    DeadLetter,
    DeadLetterPage,
    EventStore,
    NewEvent,
    QueuedEvent,
    new_token,
)
from langchain_convsync.stores.changed import check_names_of
from langchain_convsync.telemetry import Gauge
from langchain_convsync.turns.interrupts import Answer, WaitingRun, resume_value
from langchain_convsync.turns.naming import UNNAMED
from langchain_convsync.turns.reasons import reasons, waiting_in
from langchain_convsync.turns.turn import retried
from langchain_convsync.waha.limits import LIMIT_KINDS

audit = logging.getLogger("langchain_convsync.audit")
_ACCOUNT_KEY = re.compile(r"[0-9]{2}\.[0-9a-f]{12}")
_CONVERSATION_KEY = re.compile(rf"{_ACCOUNT_KEY.pattern}\.[0-9a-f]{{{DIGITS}}}")
#: As many dead letters as are read at a time.
_PAGE = 1000


def conversation_key_of(store: EventStore, customer: str, account: str = UNNAMED) -> Flow[str]:
    """A key under which the store knows a conversation; an alias is one, too.

    Args:
        store: The store.
        customer: The customer's phone number, chat id, BSUID or other id; or the key itself.
        account: The receiving side: its subdomain, bot id, number or WAHA session, the name that it
            is configured under, or its key, as :meth:`EventStore.loads` tells it; ``"default"``
            stands for whichever side the customer has written to.

    Raises:
        ConfigurationError: The customer has written to several.
        InvalidPhoneNumberError: ``customer`` is not a customer id.
    """
    if _CONVERSATION_KEY.fullmatch(customer.strip()):
        return customer.strip()
    identity, keys = phone.normalize(customer), (yield from store.keys())
    if _ACCOUNT_KEY.fullmatch(account):
        return keys.conversation(AccountKey(account), identity)
    own, named = keys.account(account), (yield from _known_accounts(store, account))
    candidates = dict.fromkeys(keys.conversation(key, identity) for key in (own, *named))
    found: dict[str, str] = {}  # by where the name leads to
    for conversation_key in candidates:
        inspected = yield from inspect_conversation(store, conversation_key)
        if inspected.known:
            found.setdefault(inspected.view.conversation_key, conversation_key)
    check_names_of(keys, (yield from store.keys()))
    if len(found) > 1:
        choices = ", ".join(conversation_key[:15] for conversation_key in found)
        message = (
            "the customer has written to several accounts: name one by its subdomain, bot id, "
            f"number or WAHA session, or as one of {choices}"
        )
        raise ConfigurationError(message)
    if found:
        return next(iter(found.values()))
    # Nothing is known of the customer yet.
    return keys.conversation(named[0] if len(named) == 1 else own, identity)


def _known_accounts(store: EventStore, account: str) -> Flow[list[AccountKey]]:
    """Those that a source has named and that this may stand for; ``"default"`` stands for all."""
    keys, named = (yield from store.keys()), (yield from store.accounts())
    if account != UNNAMED:
        spelled = {account, phone.canonical(phone.identity_of(account) or account)}
        facts = {keys.facts({kind: each}) for kind in "abdns" for each in spelled}
        named = {key: known for key, known in named.items() if facts & {*known.split()}}
    return sorted(named, key=str)


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
        return waiting_in(self.view)

    def reasons(self) -> list[str]:
        """In words, why what waits does wait; empty where nothing does."""
        found = list(reasons(self.view))
        if self.dead_letters:
            several = "dead letter: retry or discard it", "dead letters: retry or discard them"
            found.append(count_of(len(self.dead_letters), *several))
        return found


def inspect_conversation(store: EventStore, conversation_key: str) -> Flow[OperatorView]:
    """See one conversation, and acquire nothing of it."""
    view = yield from store.view(conversation_key)
    return OperatorView(view, (yield from store.dead_letters(conversation_key, most=1000)))


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Dead letters of a store.

    Args:
        letters: Those that wait longest, oldest first.
        total: How many there are.
        now: Store time.
    """

    letters: tuple[DeadLetter, ...]
    total: int
    now: float


def list_dead_letters(
    store: EventStore, *, account: str = UNNAMED, most: int = 50
) -> Flow[DeadLetters]:
    """The dead letters of a store, or of an account, at most so many."""
    if account == UNNAMED:
        letters = yield from store.dead_letters(most=most)
        total = (yield from store.backlog()).dead_letters
    else:
        found: list[DeadLetter] = []
        total = 0
        accounts = [AccountKey(account)]
        if not _ACCOUNT_KEY.fullmatch(account):
            own = (yield from store.keys()).account(account)
            accounts = [own, *(yield from _known_accounts(store, account))]
        for key in dict.fromkeys(accounts):
            page: str | None = ""
            while page is not None:
                told = yield from store.dead_letter_page(page, account_key=key, most=_PAGE)
                page, total = told.next, total + len(told.letters)
                found = heapq.nsmallest(most, [*found, *told.letters], key=_age)
        letters = tuple(found)
    now = (yield from _now(store, letters[0].conversation_key)) if letters else 0.0
    return DeadLetters(letters, max(total, len(letters)), now)


def _age(one: DeadLetter) -> tuple[float, str, str]:
    return one.since, one.conversation_key, one.queue


def reason_of(letter: DeadLetter) -> str:
    """Why it is a dead letter, in words."""
    return letter.reason or f"its agent was started {often(letter.tries)} and never answered"


def retry(store: EventStore, conversation_key: str | None, *, reason: str = "") -> Flow[int]:
    """Give dead letters back to the workers; how many there were.

    What was confirmed of a write before is not sent again. What comes back arrives
    behind what came later, and an event's message stands in the history a second time, before its
    late answer.

    Args:
        store: The store.
        conversation_key: Of this conversation; None for all of the store.
        reason: Only those whose :func:`reason_of` contains it, in upper or lower case.
    """

    def step(one: DeadLetter) -> Io[str | None]:
        return store.requeue(one, token=new_token(), body=rest_of(one))

    return (yield from _decide(store, conversation_key, "retry", step, reason))


def discard(store: EventStore, conversation_key: str | None, *, reason: str = "") -> Flow[int]:
    """Give up dead letters, as :func:`retry` gives them back; how many there were."""

    def step(one: DeadLetter) -> Io[bool]:
        return store.discard(one, token=new_token())

    return (yield from _decide(store, conversation_key, "discard", step, reason))


def count_dead_letters(store: EventStore, *, reason: str = "") -> Flow[int]:
    """How many dead letters of a store have a reason that contains this."""
    if not reason:
        return (yield from store.backlog()).dead_letters
    found, page = 0, ""
    while True:
        told = yield from store.dead_letter_page(page, most=_PAGE)
        found += sum(is_for(one, reason) for one in told.letters)
        if told.next is None:
            return found
        page = told.next


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
        if (found := waiting_in(view)) is None:
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


def pause(store: EventStore, conversation_key: str, seconds: float) -> Flow[None]:
    """Give a conversation to a human for so many seconds; 0.0 gives it back."""
    yield from store.pause(conversation_key, seconds=seconds)
    _audited("pause" if seconds else "resume", conversation_key, 1)


def link(store: EventStore, conversation_key: str, alias: str) -> Flow[bool]:
    """Let another id of a customer lead to their conversation, and what waits under it with it.

    Args:
        store: The store.
        conversation_key: The conversation, see :func:`conversation_key_of`.
        alias: The other id of the customer, of the same account.

    Returns:
        Whether they are one conversation now: not while both have a turn or something to deliver,
        nor where they are of two tenants.

    Raises:
        InvalidPhoneNumberError: ``alias`` is not a customer id.
    """
    keys, account = (yield from store.keys()), AccountKey(conversation_key[:15])
    name = keys.conversation(account, phone.normalize(alias))
    linked = (yield from store.alias(name, conversation_key)) is not None
    if linked:
        telemetry.count("operator", what="link")
    _audited("link", conversation_key, 1 if linked else "both have something under way")
    return linked


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
    if letter.queue == "inbox":
        waiting = WaitingRun.read(letter.body)
        return retried(letter.body) if waiting is None else waiting.given_back().stored
    if letter.queue == "replies":
        return _anew(letter.body)
    try:
        write = Write.model_validate_json(letter.body)
    except ValueError:  # as it was: its delivery says what is wrong with it
        return None
    rest = write.model_copy(update={"messages": write.messages[letter.pos :], "base": None})
    return rest.model_dump_json(exclude_defaults=True)


def _anew(body: str) -> str | None:
    """A reply that an operator sends after all: it expires no more, and is not overtaken."""
    try:
        reply = PendingReply.model_validate_json(body)
    except ValueError:
        return None
    after_all = reply.model_copy(update={"decided_at": None, "unless_newer": None})
    return after_all.model_dump_json(exclude_defaults=True)


def _decide(
    store: EventStore,
    conversation_key: str | None,
    what: str,
    step: Callable[[DeadLetter], Io[str | None] | Io[bool]],
    reason: str,
) -> Flow[int]:
    """Decide about the dead letters of now; new ones are left alone.

    Of a conversation the oldest come first. What was done is in the log, however it ends.
    """
    now: float | None = None
    total, page = 0, ""
    while True:
        if conversation_key is None:
            told = yield from store.dead_letter_page(page, most=_PAGE)
        else:
            letters = yield from store.dead_letters(conversation_key, most=_PAGE)
            told = DeadLetterPage(letters=letters, next="" if len(letters) == _PAGE else None)
        if now is None and told.letters:
            now = yield from _now(store, told.letters[0].conversation_key)
        done: Counter[str] = Counter()
        try:
            for one in told.letters:
                if is_for(one, reason) and one.since <= (now or 0) and (yield from step(one)):
                    done[conversation_key or one.conversation_key] += 1
        finally:
            for key, amount in done.items():
                telemetry.count("operator", amount, what=what)
                _audited(what, key, amount)
        total += done.total()
        if told.next is None or (conversation_key is not None and not done):
            return total
        page = told.next


def is_for(one: DeadLetter, reason: str) -> bool:
    """Whether the dead letter's reason contains this."""
    return reason.casefold() in reason_of(one).casefold()


def _now(store: EventStore, conversation_key: str) -> Flow[float]:
    """Store time."""
    return (yield from store.view(conversation_key, most=1)).now


def _audited(what: str, conversation_key: str, amount: int | str) -> None:
    audit.info("%s %s: %s, by %s", what, conversation_key, amount, _operator())


def _operator() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"


def exposition(store: EventStore, *, takes_nothing: bool = False) -> Flow[str]:
    """All metrics of this process, and those of a store; a store that is away is one, too."""
    return telemetry.exposition((yield from gauges(store, takes_nothing=takes_nothing)))


def gauges(store: EventStore, *, takes_nothing: bool = False) -> Flow[list[Gauge]]:
    """What a store has to do now; that it is away, or was full a moment ago, is one of them."""
    try:
        return [Gauge("store_up", int(not takes_nothing)), *(yield from _work_of(store))]
    except (StoreError, ClosedError):
        return [Gauge("store_up", 0)]


def _work_of(store: EventStore) -> Flow[list[Gauge]]:
    left = yield from store.backlog()
    loads = yield from store.loads()
    oldest = {"inbox": 0.0, "outbox": 0.0, "replies": 0.0}
    for load in loads:
        oldest[load.queue] = max(oldest[load.queue], -load.due_in)
    kinds = Counter(each.kind for each in (yield from store.restrictions()))
    unsent = max((load.queued_for or 0.0 for load in loads), default=0.0)
    return [
        *(Gauge("backlog", number, {"what": what}) for what, number in asdict(left).items()),
        *(Gauge("oldest_due_seconds", age, {"queue": queue}) for queue, age in oldest.items()),
        Gauge("oldest_unsent_seconds", unsent),
        *(Gauge("account_restricted", kinds[kind], {"kind": kind}) for kind in LIMIT_KINDS),
    ]
