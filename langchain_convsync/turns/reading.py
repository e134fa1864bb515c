"""The one read at the start of a turn: the conversation, of the tenant that it has always been."""

from __future__ import annotations

from dataclasses import dataclass, replace

from langchain_convsync import phone, telemetry
from langchain_convsync._flow import Flow, monotonic, sleep
from langchain_convsync.client import Api
from langchain_convsync.client._breaker import CircuitBreaker
from langchain_convsync.errors import (
    APIConnectionError,
    APIError,
    ConversationMismatchError,
    ConversationNotFoundError,
)
from langchain_convsync.models import Conversation
from langchain_convsync.outbox import overlaid, said_by
from langchain_convsync.outbox.plan import noted_target, require_tenant
from langchain_convsync.settings import CallTarget
from langchain_convsync.stores.base import EventStore
from langchain_convsync.turns.naming import is_named
from langchain_convsync.turns.result import Attempt, CurrentConversation, Snapshot

#: Seconds that the read at the start of a turn may take, retries included.
READ_TIME = 10.0
#: The same where the turn can do without: what the last one left is still valid.
SPARE_READ_TIME = 3.0
#: Seconds for which it may be missing: the first message may beat the server's own webhook.
NOT_FOUND_TIME = 3.0


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads conversations for turns.

    Args:
        api: The API server.
        breaker: Tells whether it has answered lately.
        store: Knows under which ids the bot's own messages were sent.
    """

    api: Api
    breaker: CircuitBreaker
    store: EventStore

    def read(self, attempt: Attempt) -> Flow[None]:
        """Read the conversation, or take the last turn's snapshot where the API does not answer."""
        noted = attempt.acquired.snapshot
        last = None if noted is None else Snapshot(noted)
        if last is None or not last.stands_in:
            read = yield from self._find_own(attempt, READ_TIME)
        else:
            try:
                if self.breaker.wait(last.target):
                    message = "the API server did not answer a moment ago"
                    raise APIConnectionError(message)
                finding = self._find_own(attempt, SPARE_READ_TIME)
                read = yield from self.breaker.guarded(last.target, finding)
            except ConversationNotFoundError:
                raise
            except APIError:
                if last.conversation is None:
                    raise
                telemetry.count("snapshots_used")
                attempt.work_on(CurrentConversation(last.conversation))
                return
        if attempt.batch.quotes_unknown:
            view = yield from self.store.view(attempt.acquired.lease.conversation_key, most=1)
            history, sent = overlaid(read, attempt.acquired).entries, said_by(view.replies.anchor)
            attempt.batch = attempt.batch.quoting(history, sent)
        expected = self.api.profile.records_inbound
        current = CurrentConversation.read(read, attempt.acquired, attempt.batch, expected=expected)
        attempt.work_on(current)

    def _find_own(self, attempt: Attempt, seconds: float) -> Flow[Conversation]:
        """The conversation, of the tenant that the turns before this one were of.

        Raises:
            ConversationMismatchError: The API server tells another tenant's.
        """
        note = attempt.acquired.tenant
        try:
            read = yield from self._find(attempt, seconds)
            require_tenant(note, read)
        except ConversationMismatchError:
            noted = noted_target(note)
            if noted is None or attempt.ref.bot_id or not is_named(attempt.batch.latest):
                raise
            # A customer of two tenants, whose bot is not told: the server took the newest.
            attempt.ref = replace(attempt.ref, bot_id=noted.bot_id)
            read = yield from self._find(attempt, seconds)
            require_tenant(note, read)
        return read

    def _find(self, attempt: Attempt, seconds: float) -> Flow[Conversation]:
        """The one API round trip before the agent; waits where the server's webhook is late."""
        until, delay = monotonic() + NOT_FOUND_TIME, 0.1
        while True:
            try:
                return (yield from self._get(attempt, seconds))
            except ConversationNotFoundError:
                left = until - monotonic()
                if left <= 0:
                    raise
            yield from sleep(min(delay, left))
            delay *= 2

    def _get(self, attempt: Attempt, seconds: float) -> Flow[Conversation]:
        """The conversation; a server may know its customer by another id than the surest one.

        From then on the turn calls the customer by the id that the server has for them.
        """
        ref, names = attempt.ref, _names_of(attempt)
        target = CallTarget(subdomain=ref.subdomain, bot_id=ref.bot_id)
        for place, name in enumerate(names, 1):
            try:
                found = yield from self.api.get_conversation(
                    name, ref.bot_id, target=target, timeout=seconds, known_as=names
                )
            except ConversationNotFoundError:
                if place == len(names):
                    raise
                continue
            own = phone.identity_of(found.user_id)
            attempt.ref = replace(ref, phone_number=own if own in names else name)
            return found
        raise AssertionError  # pragma: no cover - there is a name


def _names_of(attempt: Attempt) -> list[str]:
    """What the API server may call the customer, the likeliest first.

    No event may tell the id by which it found them for the last turn.
    """
    names, noted = [attempt.ref.phone_number, *attempt.others], attempt.acquired.snapshot
    last = None if noted is None else Snapshot(noted).conversation
    if last is None or (own := phone.identity_of(last.user_id)) is None or own in names:
        return names
    return [*names, own] if names[0].startswith("+") else [own, *names]
