"""What a runner does with an event, sync or async, and the workers of its block."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

from langchain_convsync import telemetry, waha
from langchain_convsync._flow import Flow, Io, Polling, monotonic, off_the_loop
from langchain_convsync._platform import now
from langchain_convsync.client import Api
from langchain_convsync.errors import ClosedError, ConfigurationError, StoreError
from langchain_convsync.models import InboundEvent
from langchain_convsync.outbox.arrival import ArrivalState, OnUndelivered, Undelivered
from langchain_convsync.outbox.journal import Journal, is_journal
from langchain_convsync.stores.base import (
    Accepted,
    Acquired,
    EventStore,
    NewEvent,
    QueueName,
    new_token,
)
from langchain_convsync.stores.changed import with_new_names
from langchain_convsync.stores.served import require_served
from langchain_convsync.surfaces.context import current_turn
from langchain_convsync.surfaces.usage import tokens
from langchain_convsync.turns.bounds import head_of
from langchain_convsync.turns.deliveries import Deliveries
from langchain_convsync.turns.inbox import Inbox
from langchain_convsync.turns.lookout import Lookout
from langchain_convsync.turns.naming import OwnMessage
from langchain_convsync.turns.operators import answer, conversation_key_of, exposition, gauges, link
from langchain_convsync.turns.process import Processor
from langchain_convsync.turns.saying import Wanted
from langchain_convsync.turns.turn import Batch, Outcome, Status, Turn
from langchain_convsync.turns.worker import WorkerPool

logger = logging.getLogger(__name__)
#: What happened to conversations, at INFO.
turns = logging.getLogger("langchain_convsync.turns")

T = TypeVar("T")
OnReply: TypeAlias = Callable[[Turn], Awaitable[None] | None]


@dataclass(slots=True)
class Engine:
    """The flows behind :class:`TurnRunner`, which documents them.

    Args:
        sends: Whether the replies are sent here, so that workers may answer events too.
        workers: How many conversations a block works on at once.
        log_errors: Whether the log holds the texts of errors.
        record_only: Whether all is left to other processes.
    """

    api: Api
    store: EventStore
    _: KW_ONLY
    inbox: Inbox
    processor: Processor
    deliveries: Deliveries
    on_reply: OnReply | None
    sends: bool
    workers: int
    log_errors: bool
    record_only: bool = False
    on_undelivered: OnUndelivered | None = None
    pool: WorkerPool | None = field(default=None, init=False)
    lookout: Lookout = field(init=False)
    closed: bool = field(default=False, init=False)
    _warned: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.lookout = Lookout(self.store)

    def run(self, event: InboundEvent, wait: float | None) -> Flow[Turn]:
        """Answer an event, or tell what became of it."""
        return (yield from self._finish(lambda: self.inbox.named(event), wait))

    def resume_interrupt(self, customer: str, value: object, account: str) -> Flow[Turn]:
        """Answer what the agent waits for, and let it go on."""

        def answered() -> Flow[NewEvent]:
            conversation_key = yield from conversation_key_of(self.store, customer, account)
            return (yield from answer(self.store, conversation_key, lambda _: value))

        return (yield from self._finish(answered, None))

    def say(self, customer: str, account: str, wanted: Wanted) -> Flow[Turn]:
        """Say something of the bot's own accord, now or later."""

        def named() -> Flow[NewEvent]:
            return (yield from self.inbox.saying(customer, account, wanted))

        is_later = wanted.at is not None and wanted.at > now()
        if is_later or self.record_only or current_turn.get() is not None:
            return (yield from self._record(named))
        return (yield from self._finish(named, 0.0))

    def _finish(self, named: Callable[[], Flow[NewEvent]], wait: float | None) -> Flow[Turn]:
        if self.record_only:
            message = (
                "this runner only records: call accept() or aaccept(), and have it answered by a "
                "process whose runner is made without record_only=True"
            )
            raise ConfigurationError(message)
        until = None if wait is None else monotonic() + wait
        before: list[Turn] = []

        def settled() -> Flow[tuple[Turn, str]]:
            return (yield from self._settle((yield from named()), until, before))

        turn, conversation_key = yield from self._ready(settled)
        turn = self._together(before, turn)
        yield from self._tell(turn, conversation_key)
        if turn.handoff is not None and (self.pool is None or not self.sends):
            yield from self._tell_human(conversation_key)
        if self.pool is None:
            yield from self.deliveries.drain(conversation_key)
        else:
            self.pool.dispatch(conversation_key, "replies", "outbox")
        return turn

    def _tell_human(self, conversation_key: str) -> Flow[None]:
        """Tell a human of a hand-over at once; what fails waits for the next call, or a worker."""
        acquired = yield from self.store.acquire(
            "inbox",
            new_token(),
            conversation_key=conversation_key,
            lease=self.inbox.rules.lease,
        )
        if acquired is None:
            return
        if (batch := _head_of(acquired)).handoff is None:
            yield from self.store.release(acquired.lease)
        else:
            yield from self.processor.process(acquired, batch)

    def accept(self, event: InboundEvent) -> Flow[Turn]:
        """Record an event for the workers."""
        return (yield from self._record(lambda: self.inbox.named(event)))

    def _record(self, named: Callable[[], Flow[NewEvent]]) -> Flow[Turn]:
        def offered() -> Flow[Accepted]:
            new = yield from named()
            return (yield from self.inbox.offer(new, acquire=False))

        try:
            accepted = yield from self._ready(offered)
        except StoreError as error:
            if self.pool is not None:
                self.pool.noticed(error)
            raise
        self._notify_pool("inbox")
        if accepted.status == "busy":
            return Turn(status="busy")
        if accepted.state != "queued":
            return _repeated(accepted)
        self._warn_of_silence()
        return Turn(status="queued")

    def _warn_of_silence(self) -> None:
        """Tell once that the block's workers answer nothing: only calls of run() would."""
        if self.pool is None or self.sends or self.record_only or self._warned:
            return
        self._warned = True
        logger.warning(
            "This runner answers nothing that accept() records: give it reply=WAHAReply(…) or "
            "on_reply=…, or record_only=True where other processes answer"
        )

    def pause(self, customer: str, account: str, seconds: float) -> Flow[None]:
        """Give a conversation to a human for a while, or back."""

        def paused() -> Flow[None]:
            conversation_key = yield from conversation_key_of(self.store, customer, account)
            yield from self.store.pause(conversation_key, seconds=seconds)
            about = {"conversation": conversation_key, "seconds": seconds}
            if seconds > 0:
                turns.info(
                    "Conversation %s is paused for %g s", conversation_key, seconds, extra=about
                )
            else:
                turns.info("Conversation %s is resumed", conversation_key, extra=about)

        yield from with_new_names(paused)

    def link(self, customer: str, alias: str, account: str) -> Flow[bool]:
        """Let another id of a customer lead to their conversation."""

        def linked() -> Flow[bool]:
            conversation_key = yield from conversation_key_of(self.store, customer, account)
            return (yield from link(self.store, conversation_key, alias))

        return (yield from with_new_names(linked))

    def take_over(self, message: waha.OperatorMessage, seconds: float) -> Flow[bool]:
        """Give a conversation to the human who wrote in it; False where it was not a human."""
        taken_over = yield from self._ready(lambda: self.inbox.take_over(message, seconds))
        self._notify_pool("inbox", "replies")
        return taken_over

    def record_echo(self, own: OwnMessage, seconds: float | None) -> Flow[bool]:
        """Note a message of the business; whether a reply waited for such a sign."""
        of_whom = yield from self._ready(lambda: self.inbox.record_echo(own, seconds=seconds))
        if of_whom is not None:
            self._notify_pool("replies" if of_whom == "reply" else "inbox")
        return of_whom == "reply"

    def record_ack(self, told: waha.Ignored) -> Flow[ArrivalState | None]:
        """Keep how far a reply got; None where that is no news."""
        if told.reason != "ack" or told.from_me is False:
            return None
        return (yield from self._ready(lambda: self.inbox.record_ack(told, self.tell_undelivered)))

    def tell_undelivered(self, reply: Undelivered) -> Flow[None]:
        """Tell the user's function of a reply that did not arrive; it cannot undo that."""
        if self.on_undelivered is None:
            return
        try:
            yield from _notify(self.on_undelivered, reply, "on_undelivered=")
        except Exception as error:  # noqa: BLE001 - whatever the user's function raises
            telemetry.count("on_undelivered_failures")
            told, key = "on_undelivered= failed with %s", reply.conversation_key
            telemetry.log(logger, logging.ERROR, key, told, error, with_text=self.log_errors)

    def record_status(self, told: waha.Ignored) -> Flow[bool]:
        """Note whether an account may send; whether it may not."""
        if told.reason != "session status":
            return False
        restricted = yield from self._ready(lambda: self.inbox.restrict(told))
        self._notify_pool("replies")
        return restricted

    def amend(self, change: waha.Ignored) -> Flow[bool]:
        """Apply an edit or a revocation while the message waits."""
        if change.reason not in {"edited", "revoked"}:
            return False
        waited = yield from self._ready(lambda: self.inbox.amend(change))
        outcome = "applied" if waited else "too late"
        telemetry.count("amendments", what=change.reason, outcome=outcome)
        return waited

    def metrics(self) -> Flow[str]:
        """What this process counted, and what the store has to do."""
        return exposition(self.store, takes_nothing=bool(self._shortage))

    def _tell(self, turn: Turn, conversation_key: str) -> Flow[None]:
        self.lookout.notify(conversation_key)
        telemetry.count("turns", status=turn.status)
        if turn.is_committed and turn.reply and self.on_reply is not None:
            with telemetry.timed("turn_phase", phase="reply") as timing:
                try:
                    yield from _notify(self.on_reply, turn, "on_reply=")
                except Exception as error:  # noqa: BLE001 - whatever the user's function raises
                    telemetry.count("on_reply_failures")
                    telemetry.log(
                        logger,
                        logging.ERROR,
                        conversation_key,
                        "on_reply= failed with %s, the reply of turn %s",
                        error,
                        turn.turn_id,
                        with_text=self.log_errors,
                    )
            turn = replace(turn, phases={**turn.phases, "reply": timing.seconds})
        if turn.conversation_key is not None:
            _log(turn)

    def _settle(
        self, new: NewEvent, until: float | None, before: list[Turn]
    ) -> Flow[tuple[Turn, str]]:
        """Offer the event until it is done: by this call's own turn, or by another's.

        The turns that this call commits on the way to it go into ``before``.
        """
        first: Accepted | None = None
        polling = Polling()
        while True:
            accepted = yield from self.inbox.offer(new)
            first = first or accepted
            if accepted.acquired is not None:
                batch = _head_of(accepted.acquired)
                turn = yield from self.processor.process(accepted.acquired, batch)
                if turn is not None and accepted.event_key in batch.event_keys:
                    return turn, accepted.conversation_key
                # More waited than one turn takes.
                if turn is not None and (turn.events or turn.reply):
                    yield from self._tell(turn, accepted.conversation_key)
                    before.append(turn)
                continue  # fenced, or to be tried again: see what became of it
            if accepted.status == "busy":
                return Turn(status="busy"), accepted.conversation_key
            if accepted.state != "queued":
                status: Status = "merged" if first.status == "new" else "duplicate"
                return _repeated(accepted, status), accepted.conversation_key
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                return Turn(status="queued"), accepted.conversation_key
            limits = (accepted.due_in or math.inf, math.inf if left is None else left)
            yield from self.lookout.wait(accepted.conversation_key, polling.pause(min(limits)))

    def _together(self, before: list[Turn], turn: Turn) -> Turn:
        """A turn with the replies of those that this call committed on the way to it.

        Where they are sent here, they are on their way; a caller who sends has one turn to do so.
        """
        if self.sends or not any(each.reply for each in before):
            return turn
        committed = [*before, turn] if turn.is_committed else before
        replies = [each.reply for each in committed if each.reply]
        last = turn if turn.is_committed else [each for each in before if each.reply][-1]
        events = tuple(event for each in committed for event in each.events)
        said = tuple(reply for each in committed for reply in each.said)
        return replace(last, reply="\n\n".join(replies), said=said, events=events)

    def run_plain_functions_on_threads(self) -> None:
        """Those that the user gave, where nothing else of the user's is on the event loop."""
        if self.on_reply is not None:
            self.on_reply = off_the_loop(self.on_reply)
        if self.on_undelivered is not None:
            self.on_undelivered = off_the_loop(self.on_undelivered)
        self.processor.run_plain_functions_on_threads()

    def new_pool(self) -> WorkerPool:
        """The workers of the block that begins, be it after another one."""
        if self.pool is not None and not self.closed:
            message = "a TurnRunner serves one block at a time: leave it before the next begins"
            raise ClosedError(message)
        self.closed = False
        telemetry.connect()
        work = {} if self.record_only else dict(self.deliveries.work)
        if self.sends:
            work["inbox"] = self._work_turn
        self.pool = WorkerPool(
            self.store,
            work,
            ready=partial(require_served, self.store, self.api.address),
            workers=self.workers,
            lease=self.inbox.rules.lease,
            account_concurrency=self.inbox.rules.account_concurrency,
            look=self._look,
            lookout=self.lookout,
        )
        return self.pool

    def _look(self) -> Flow[None]:
        told = yield from gauges(self.store, takes_nothing=bool(self._shortage))
        telemetry.look_up(told)

    @property
    def _shortage(self) -> str:
        return "" if self.pool is None else self.pool.shortage

    def _notify_pool(self, *queues: QueueName) -> None:
        """The workers need not wait until they look for work the next time: here it is."""
        if self.pool is not None:
            self.pool.notify(*queues)

    def finish(self) -> Flow[None]:
        """Deliver what is due at the end of a block, where the store still serves its server."""
        if self.record_only:
            return
        with suppress(ConfigurationError):
            yield from self.require_served()
            yield from self.deliveries.finish()

    def require_served(self) -> Flow[None]:
        """Refuse to begin where the store serves another API server.

        A store that does not answer refuses nothing: whatever is done first asks it again.

        Raises:
            ConfigurationError: It does.
        """
        with suppress(StoreError):
            yield from require_served(self.store, self.api.address)

    def _ready(self, work: Callable[[], Flow[T]]) -> Flow[T]:
        """Do some work in a store that serves this API server; again, where it is begun anew."""
        if self.closed:
            message = "this TurnRunner is closed: enter its block again, or make a new one"
            raise ClosedError(message)

        def in_its_store() -> Flow[T]:
            yield from require_served(self.store, self.api.address)
            return (yield from work())

        return (yield from with_new_names(in_its_store))

    def _work_turn(self, acquired: Acquired) -> Flow[None]:
        if is_journal(acquired):  # what a surface wrote by itself: there is nothing to answer
            yield from Journal(self.api, self.store).commit(acquired)
            return
        turn = yield from self.processor.process(acquired, _head_of(acquired))
        if turn is not None:
            yield from self._tell(turn, acquired.lease.conversation_key)
            if self.pool is not None:
                self.pool.dispatch(acquired.lease.conversation_key, "replies", "outbox")
                if turn.handoff is not None:
                    self.pool.notify("inbox")


def _log(turn: Turn) -> None:
    """One line for each turn that was committed here: no word, no number of a customer's."""
    if not turns.isEnabledFor(logging.INFO):
        return
    ms = {phase: round(seconds * 1000) for phase, seconds in turn.phases.items()}
    given, said = tokens(turn.usage)
    turns.info(
        "Conversation %s: turn %s %s, events: %d, %s%s",
        turn.conversation_key,
        turn.turn_id,
        turn.status,
        len(turn.events),
        ", ".join(f"{phase} {took} ms" for phase, took in ms.items()),
        f", tokens {given} in, {said} out" if turn.usage else "",
        extra={
            "turn": turn.turn_id,
            "conversation": turn.conversation_key,
            "status": turn.status,
            "events": len(turn.events),
            "phases": ms,
            "tokens": {name: {**usage} for name, usage in turn.usage.items()},
        },
    )


def _head_of(acquired: Acquired) -> Batch:
    """As much of the inbox as one turn answers."""
    return Batch.of(head_of(acquired).events, now=acquired.now)


def _repeated(accepted: Accepted, status: Status = "duplicate") -> Turn:
    """What a turn made of an event before."""
    if accepted.outcome is None:
        return Turn(status=status)
    try:
        return Outcome.read(accepted.outcome).turn(status)
    except ValueError:
        telemetry.count("unreadable", what="outcome")
        return Turn(status=status)


def _notify(
    function: Callable[[Any], Awaitable[object] | object], told: object, argument: str
) -> Flow[None]:
    """Tell the user's function; what it is told has happened, so its failure cannot undo it."""

    def block() -> None:
        result = function(told)
        if isinstance(result, Awaitable):
            if isinstance(result, Coroutine):
                result.close()  # never awaited, and that is said better below
            message = f"{argument} is async: use arun(), or pass a plain function"
            raise ConfigurationError(message)

    async def wait() -> None:
        result = function(told)
        if isinstance(result, Awaitable):
            await result

    yield from Io(block, wait)
