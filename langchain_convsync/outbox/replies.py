"""Delivering replies through WAHA: each once, in order, as far as WAHA can tell."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from langchain_convsync import _machine, phone, telemetry
from langchain_convsync._flow import Flow, monotonic, sleep
from langchain_convsync.errors import ConvSyncError, FencedError, WAHAError
from langchain_convsync.outbox.account import PACED, Account
from langchain_convsync.outbox.arrival import Undelivered
from langchain_convsync.outbox.plan import Send, Verify, Wait
from langchain_convsync.outbox.queue import SLACK, OperationQueue, Undeliverable, backoff, passing
from langchain_convsync.outbox.refused import REPLY_TIMEOUT
from langchain_convsync.outbox.reply import (
    FILE_TIME,
    LONGEST_PAUSE,
    LOOK_BACK,
    SEND_TIME,
    PendingReply,
    ReplyJob,
    echo_of,
    plan_reply,
    standing_in,
    typing_time,
)
from langchain_convsync.outbox.sender import WAHAReply
from langchain_convsync.reply import Reply
from langchain_convsync.stores.base import (
    Acquired,
    ConversationView,
    Cursor,
    EventStore,
    Operation,
)
from langchain_convsync.waha.limits import LIMIT_KINDS

logger = logging.getLogger(__name__)

#: Seconds that a sign of life may take: it is not worth waiting for.
SIGN_TIME = 2.0
#: Seconds for which a chat that cannot be read is asked again, before the policy decides.
READ_PATIENCE = 300.0

#: Why a reply waits that is to be looked for.
UNCLEAR = "it may have arrived, and is looked for before it is sent again"
#: Why a reply goes nowhere: its customer is known by a BSUID or an API server's own id alone.
NO_CHAT = (
    "WAHA reaches phone numbers, LIDs and groups, and the customer is known by another id alone: "
    "have the source tell the phone_number or lid, or send replies another way (on_reply=…)"
)


def _is_newer(view: ConversationView, number: int) -> bool:
    return view.turns != number or bool(view.events)


class Replies(OperationQueue[ReplyJob]):
    """Delivers the reply queues of a store.

    Args:
        sender: How replies are sent.
        store: The store.
        lease: Seconds for which a queue is leased while it is worked on.
        timeout: Seconds for which WAHA may fail at a reply, before it is a dead letter.
        is_newer: Whether the customer has written again since the turn of this number: then the
            rest of its answer may be dropped.
        clock: Seconds that only ever grow.
    """

    name = "replies"

    def __init__(
        self,
        sender: WAHAReply,
        store: EventStore,
        *,
        lease: float = 30.0,
        timeout: float = REPLY_TIMEOUT,
        is_newer: Callable[[ConversationView, int], bool] = _is_newer,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(store, lease=lease, clock=clock)
        self._sender = sender
        self._timeout = timeout
        self._is_newer = is_newer
        #: Told of each reply that becomes a dead letter.
        self.tell_undelivered: Callable[[Undelivered], Flow[None]] | None = None
        self._account = Account(
            store, sender.waha, pace=sender.pace, first_contacts=sender.first_contacts
        )

    @property
    def as_sent(self) -> Callable[[Iterable[Reply]], list[Reply]]:
        """Makes of what an agent says what is sent."""
        return self._sender.as_sent

    def _open(
        self, acquired: Acquired, operation: Operation, cursor: Cursor, anchor: str | None
    ) -> ReplyJob:
        reply = PendingReply.model_validate_json(operation.body)
        return ReplyJob(
            acquired=acquired, operation=operation, cursor=cursor, anchor=anchor, reply=reply
        )

    def _step(self, head: ReplyJob, now: float) -> Flow[float]:
        echoed = echo_of(head.reply, head.cursor.echoes, head.known)
        step = plan_reply(
            head.cursor,
            now=now,
            settle=self._sender.settle,
            echoed=echoed is not None,
            send_time=head.send_time,
        )
        match step:
            case Wait(seconds):
                head.why = UNCLEAR
                return seconds
            case Send(_, attempt):
                return (yield from self._send(head, attempt, now))
            case Verify():
                if echoed is not None:
                    return self._confirm(head, echoed, by="echo")
                return (yield from self._verify(head, now))

    def _send(self, head: ReplyJob, attempt: int, now: float) -> Flow[float]:
        reply, chat_id = head.reply, head.refusals.chat_of(head.reply)
        if not phone.is_chat(chat_id):
            raise Undeliverable(NO_CHAT)
        if (end := head.refusals.end_of(reply, now=now, timeout=self._timeout)) is not None:
            raise Undeliverable(end)
        if wait := (yield from self._account.wait(head, attempt)):
            head.why = PACED
            return wait
        if attempt == 1 and not (yield from self._typed(head)):
            return (yield from self._drop(head))
        seconds = SEND_TIME if reply.file is None else FILE_TIME
        yield from self._store_begin(head, attempt=attempt, need=seconds)
        try:
            message_id = yield from self._request(reply, chat_id, seconds)
        except WAHAError as error:
            telemetry.count("replies_refused", kind=error.kind)
            if error.kind in {"chat", "message"}:
                return (yield from self._refused(head, error))
            if error.kind in LIMIT_KINDS:
                note = head.refusals.after_failure(reply, error, now).note
                yield from self._store_retry(head, delay=0.0, sent_at=None, note=note)
                raise (yield from self._account.held(head, error.kind, str(error))) from error
            return (yield from self._failed(head, error, now))
        except ConvSyncError as error:
            raise Undeliverable(str(error)) from error
        yield from self._account.sent(head)
        return self._confirm(head, message_id, by="answer")

    def _typed(self, head: ReplyJob) -> Flow[bool]:
        """Show that it is coming; whether it is still to be sent then."""
        if (yield from self._is_overtaken(head)):
            return False
        yield from self._show_signs(head)
        return not (yield from self._is_overtaken(head))

    def _is_overtaken(self, head: ReplyJob) -> Flow[bool]:
        """Whether it is not to be sent any more, since a later turn has begun, or is to."""
        number = head.reply.unless_newer
        if number is None:
            return False
        view = yield from self._store.view(head.lease.conversation_key)
        return self._is_newer(view, number)

    def _drop(self, head: ReplyJob) -> Flow[float]:
        """It is not sent: the customer wrote on meanwhile."""
        yield from self._store_confirmed(head)  # what was sent, or dropped, before it
        self._remember_confirmed(head, end=1, last=True, anchor=head.anchor_without)
        telemetry.count("replies_withheld")
        head.sent = True
        return 0.0

    def _request(self, reply: PendingReply, chat_id: str, seconds: float) -> Flow[str | None]:
        to, quote = (reply.waha_session, chat_id), reply.reply_to
        waha, file = self._sender.waha, reply.file
        if file is None:
            return (yield from waha.send_text(*to, reply.text, reply_to=quote, timeout=seconds))
        return (
            yield from waha.send_file(
                *(*to, file.wire),
                caption=reply.text,
                voice=file.voice,
                reply_to=quote,
                timeout=seconds,
            )
        )

    def _show_signs(self, head: ReplyJob) -> Flow[None]:
        """Show that the message was read and an answer is typed; nothing depends on it."""
        sender, reply, first = self._sender, head.reply, head.is_first
        pause = typing_time(reply.text, sender.typing or (0.0 if first else LONGEST_PAUSE))
        shows_typing = pause > 0 and sender.typing > 0
        shows_seen = sender.seen and first and not shows_typing  # else it was, at the turn's begin
        if not (shows_seen or pause):
            return
        yield from self._store_confirmed(head)  # what was sent before it; the pause may be long
        needed = pause + 3 * SIGN_TIME + SLACK
        if (yield from self._store.renew(head.lease, seconds=needed)) is None:
            raise FencedError
        chat = (reply.waha_session, reply.chat_id)
        if shows_seen:
            yield from self._sign(sender.waha.seen(*chat, timeout=SIGN_TIME))
        if shows_typing:
            shows_typing = yield from self.show_typing(*chat)
        if shows_typing or not first:
            yield from sleep(pause)
        if shows_typing:
            yield from self.show_typing(*chat, on=False)

    def show_work(self, waha_session: str, chat_id: str) -> Flow[bool]:
        """Show that a message was read and is being answered, where both is wanted."""
        sender = self._sender
        if not (sender.typing and phone.is_chat(chat_id)):
            return False
        seen = sender.waha.seen(waha_session, chat_id, timeout=SIGN_TIME)
        if sender.seen and not (yield from self._sign(seen)):
            return False
        return (yield from self.show_typing(waha_session, chat_id))

    def show_typing(self, waha_session: str, chat_id: str, *, on: bool = True) -> Flow[bool]:
        """Show that an answer is being written, or no longer is; whether that is shown."""
        shown = self._sender.waha.typing(waha_session, chat_id, on=on, timeout=SIGN_TIME)
        return (yield from self._sign(shown))

    def _sign(self, shown: Flow[None]) -> Flow[bool]:
        """Give a sign of life; whether it was given."""
        try:
            yield from shown
        except ConvSyncError as error:
            telemetry.count("signs_failed", error=type(error).__name__)
            return False
        return True

    def _refused(self, head: ReplyJob, error: WAHAError) -> Flow[float]:
        """It surely was not sent: it goes to the customer's next name, or nowhere."""
        refusals = head.refusals.after_refusal(head.reply, error)
        if error.kind == "chat" and refusals.chat_id is None:
            name = refusals.to_look_up(head.reply)
            found = None if name is None else (yield from self._counterpart(head, name))
            refusals = refusals.model_copy(update={"found": found or ""}).by(found)
        yield from self._store_retry(head, delay=0.0, sent_at=None, note=refusals.note)
        if error.kind == "message" or refusals.chat_id is None:
            raise Undeliverable(str(error)) from error
        key, told = head.lease.conversation_key, "its reply is sent by another id: %s"
        telemetry.log(logger, logging.WARNING, key, told, error, repeats=True)
        return 0.0

    def _counterpart(self, head: ReplyJob, name: str) -> Flow[str | None]:
        """The LID of a number, or the number of a LID, where WAHA knows it."""
        waha, session = self._sender.waha, head.reply.waha_session
        try:
            if (number := phone.phone_of(name)) is not None:
                return (yield from waha.lid_of(session, number, timeout=SIGN_TIME))
            found = yield from waha.lid(session, name, timeout=SIGN_TIME)
        except ConvSyncError:
            return None
        return None if found is None else phone.chat_id(found)

    def _failed(self, head: ReplyJob, error: WAHAError, now: float) -> Flow[float]:
        """Keep the reply for later: to be looked for first where it may have been sent."""
        telemetry.count("reply_retries")
        key, told = head.lease.conversation_key, "its reply waits for WAHA: %s"
        telemetry.log(logger, logging.WARNING, key, told, error, repeats=True)
        delay = max(backoff(head.cursor.tries), error.retry_after or 0.0)
        if error.ambiguous:
            delay = max(delay, self._sender.settle)  # it ended just now, whenever it began
        sent_at = head.cursor.sent_at if error.ambiguous else None
        head.why = f"{UNCLEAR}: {error}" if error.ambiguous else _why_refused(error)
        note = head.refusals.after_failure(head.reply, error, now).note
        yield from self._store_retry(head, delay=delay, sent_at=sent_at, note=note)
        return delay

    def _confirm(self, head: ReplyJob, message_id: str | None, *, by: str) -> float:
        anchor = head.anchor_with(message_id)
        self._remember_confirmed(head, end=1, last=True, anchor=anchor)
        telemetry.count("replies_sent", by=by)
        if head.reply.decided_at is not None:
            took = self._clock() + head.offset - head.reply.decided_at
            telemetry.observe("turn_phase", max(0.0, took), phase="reply")
        head.sent = True
        return 0.0

    def _verify(self, head: ReplyJob, now: float) -> Flow[float]:
        telemetry.count("reply_verifications")
        yield from self._store_confirmed(head)
        reply, sent_at = head.reply, head.cursor.sent_at or now
        since, found = datetime.fromtimestamp(sent_at, UTC), None
        try:
            for chat_id in head.refusals.chats_of(reply):
                chat = yield from self._sender.waha.chat(
                    *(reply.waha_session, chat_id),
                    most=LOOK_BACK,
                    own_only=True,
                    timeout=SEND_TIME,
                )
                found = found or standing_in(reply, chat, since=since, known=head.known)
        except WAHAError as error:
            # A key that WAHA does not accept (401) tells nothing of the chat.
            away = error.kind in LIMIT_KINDS or _machine.lacking(error)
            may_pass = error.foreign or passing(error.status_code) or error.status_code == 401
            refusals = head.refusals.after_unread(now)
            if away or (may_pass and refusals.unread and refusals.unread[0] < READ_PATIENCE):
                head.unread += 1
                head.why = f"the chat cannot be read to see whether it arrived: {error}"
                delay = max(backoff(head.unread), error.retry_after or 0.0)
                note = refusals.note
                yield from self._store_retry(head, delay=delay, sent_at=sent_at, note=note)
                return delay
            return (yield from self._unsure(head, error))
        except LookupError as error:
            return (yield from self._unsure(head, error))
        if found is not None:
            return self._confirm(head, found.id, by="reading")
        telemetry.count("replies_resent")
        yield from self._store_retry(head, delay=0.0, sent_at=None)
        return 0.0

    def _unsure(self, head: ReplyJob, error: Exception) -> Flow[float]:
        """It is unknown whether it was sent: the policy decides."""
        policy = self._sender.on_unverifiable
        telemetry.count("replies_unverified", policy=policy)
        telemetry.log(
            logger,
            logging.WARNING,
            head.lease.conversation_key,
            "it is unknown whether the reply of turn %s was sent (%s); on_unverifiable=%r",
            head.reply.turn,
            error,
            policy,
        )
        if policy == "resend":
            yield from self._store_retry(head, delay=0.0, sent_at=None)
            return 0.0
        return self._confirm(head, None, by="policy")

    def _tell_dead(self, head: ReplyJob, reason: str) -> Flow[None]:
        if self.tell_undelivered is None:
            return
        reply = head.reply
        yield from self.tell_undelivered(
            Undelivered(
                conversation_key=head.lease.conversation_key,
                reason=reason,
                turn_id=reply.turn,
                chat_id=reply.chat_id,
                text=reply.text,
            )
        )

    def _report_dead(self, head: ReplyJob, reason: str) -> None:
        telemetry.count("dead_letters", operation="reply")
        key, told = head.lease.conversation_key, "the reply of turn %s is a dead letter: %s"
        telemetry.log(logger, logging.ERROR, key, told, head.reply.turn, reason)


def _why_refused(error: WAHAError) -> str:
    told = {
        422: "WAHA's session does not work: start it, or scan its QR code",
        429: "WAHA asks to slow down",
    }
    known = None if error.status_code is None else told.get(error.status_code)
    return str(error) if known is None else f"{known} (status {error.status_code})"
