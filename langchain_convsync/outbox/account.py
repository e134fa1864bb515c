"""The account that replies are sent from: whether it may send now, and how fast.

WhatsApp bans numbers that go on where it has told them to stop. So what one process learns of an
account is kept in the store, for all of them: :meth:`EventStore.restrict` and
:meth:`EventStore.pace`.
"""

from __future__ import annotations

import logging
from datetime import datetime

from langchain_convsync import _platform, telemetry
from langchain_convsync._flow import Flow
from langchain_convsync.client import Waha
from langchain_convsync.errors import ConvSyncError, FencedError
from langchain_convsync.outbox.queue import Held
from langchain_convsync.outbox.reply import ReplyJob
from langchain_convsync.stores.base import FIRST_CONTACTS, AccountKey, EventStore
from langchain_convsync.waha.limits import meanwhile, why_limited

logger = logging.getLogger(__name__)

#: Seconds for which an account sends nothing where nobody tells for how long: first, and at most.
#: Each time it is for as long again as it was restricted by then.
FIRST_PAUSE = {"session": 1.0, "timelock": 900.0, "capping": 300.0}
LONGEST_PAUSE = {"session": 60.0, "timelock": 4 * 3600.0, "capping": 3600.0}
#: Seconds after which a limit that WAHA tells of is looked at again, at most.
LOOK_AGAIN = 900.0
#: Seconds that WAHA may take to tell of a limit.
LOOK_TIME = 3.0
#: By so much more than the least two messages are apart, at random: people are no clocks.
JITTER = 0.25
#: Why a reply waits that may be sent now, as far as it alone goes.
PACED = "the account's messages are sent one after the other, as pace= says"


class Account:
    """Asks and tells the store what the account of a reply may do.

    Args:
        store: The store.
        waha: Where its limits are looked up.
        pace: Messages a minute, at most.
        first_contacts: Messages an hour, at most, to those who have had none before.
    """

    def __init__(
        self,
        store: EventStore,
        waha: Waha,
        *,
        pace: float | None = None,
        first_contacts: float | None = None,
    ) -> None:
        self._store = store
        self._waha = waha
        self._pace = pace
        self._first_contacts = first_contacts

    def wait(self, head: ReplyJob, attempt: int) -> Flow[float]:
        """Seconds after which the reply may be sent.

        Raises:
            FencedError: Another worker is at it.
            Held: The account may send nothing now.
        """
        tried = head.acquired.restriction
        if tried is not None and tried.kind != "session" and not head.is_free:
            try:
                limit = yield from self._waha.limit(head.reply.waha_session, timeout=LOOK_TIME)
            except ConvSyncError:  # a send would tell, but one too many
                raise (yield from self.held(head, tried.kind, tried.why)) from None
            if limit is not None and limit.kind == "timelock":  # a cap is for new chats
                why = tried.why if limit.ends is None else why_limited("timelock", limit.ends)
                raise (yield from self.held(head, "timelock", why, ends=limit.ends))
        spacing = self._spacing(head)
        if not spacing:
            return 0.0
        token = f"{head.operation.id}/{head.cursor.pos}/{attempt}"
        seconds = yield from self._store.pace(head.lease, token, spacing=spacing)
        if seconds is None:
            raise FencedError
        return seconds

    def _spacing(self, head: ReplyJob) -> dict[str, float]:
        more = 1.0 + JITTER * _platform.chance()
        found = {"any": 60.0 / self._pace * more} if self._pace else {}
        if self._first_contacts and head.anchor is None:
            found["first"] = 3600.0 / self._first_contacts * more
        return found

    def held(
        self, head: ReplyJob, kind: str, why: str, *, ends: datetime | None = None
    ) -> Flow[Held]:
        """Note that the account may send nothing now, or begin no chats; what is to be raised."""
        tried, seconds = head.acquired.restriction, FIRST_PAUSE[kind]
        if tried is not None and tried.kind == kind:
            seconds = max(seconds, head.acquired.now - tried.since)
        seconds = min(seconds, LONGEST_PAUSE[kind])
        if ends is not None:
            seconds = pause_until(ends, seconds)
        key = head.lease.conversation_key
        yield from self._store.restrict(AccountKey(key[:15]), kind=kind, seconds=seconds, why=why)
        telemetry.count("account_restrictions", kind=kind)
        told = f"its account {meanwhile(kind)} for now: %s"
        telemetry.log(logger, logging.ERROR, key, told, why, repeats=True)
        head.why = why
        if kind != FIRST_CONTACTS or head.anchor is None:
            return Held(0.0)
        # The store knows them, so the cap does not hold it: to WhatsApp they are a first contact.
        return Held(min(seconds * 2.0 ** (head.cursor.tries - 1), LONGEST_PAUSE[kind]))

    def sent(self, head: ReplyJob) -> Flow[None]:
        """Note that WhatsApp has taken a message: what restricted the account is over."""
        if head.acquired.restriction is None or head.is_free:
            return
        head.is_free = True
        key, token = head.lease.conversation_key, head.lease.token
        yield from self._store.lift(AccountKey(key[:15]), token=token)
        telemetry.log(logger, logging.WARNING, key, "its account sends again")


def pause_until(ends: datetime | None, seconds: float) -> float:
    """Seconds until a limit is looked at again, whose end is told; ``seconds`` where it is over.

    It is by one of two clocks, so it is not waited for at once.
    """
    left = 0.0 if ends is None else (ends - _platform.now()).total_seconds()
    return min(left, LOOK_AGAIN) if left > 0 else min(seconds, LOOK_AGAIN)
