"""Whose LID it is: asked of WAHA where an event does not tell, before its conversation is read."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

from langchain_convsync import _forks, phone, telemetry
from langchain_convsync._flow import Flow, monotonic
from langchain_convsync.client import Waha
from langchain_convsync.errors import ConvSyncError
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores.base import Lease
from langchain_convsync.turns.naming import Naming, people_of

logger = logging.getLogger(__name__)

#: Seconds that WAHA may take to answer; the customer waits.
LOOK_UP_TIME = 3.0
#: Seconds for which an answer is remembered; one without a number, or a failure, for less.
LIFETIME, SHORT_LIFETIME = 24 * 3600.0, 60.0
#: How many LIDs are remembered; the one that was asked for longest ago is forgotten first.
SIZE = 10_000


class Lids:
    """Finds phone numbers, and leads what is known by a LID to its customer's conversation.

    Args:
        naming: The keys of the store.
        waha: Which WAHA is asked; None asks none.
        clock: Seconds that only ever grow.
    """

    def __init__(
        self,
        naming: Naming,
        waha: Waha | None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._naming = naming
        self._waha = waha
        self._clock = clock
        self._lock = _forks.lock()
        self._known: OrderedDict[tuple[str, str], tuple[float, str | None]] = OrderedDict()

    def phone_number_of(self, event: InboundEvent, conversation_key: str) -> Flow[str | None]:
        """The customer's number where the event does not tell it; None if it is unknown.

        A WAHA that does not answer leaves it at the LID, for now.

        Args:
            event: The event.
            conversation_key: Its conversation, for the log.
        """
        people = people_of(event)
        lid = next((who for who in people if phone.kind_of(who) == "lid"), None)
        if self._waha is None or lid is None or people[0].startswith("+"):
            return None
        key = (event.waha_session or "default", lid)
        with self._lock:
            until, number = self._known.get(key, (0.0, None))
        if self._clock() < until:
            return number
        try:
            number = yield from self._waha.lid(*key, timeout=LOOK_UP_TIME)
        except ConvSyncError as error:
            told = "WAHA did not tell whose LID it is: %s"
            telemetry.log(logger, logging.WARNING, conversation_key, told, error, repeats=True)
            number, outcome = None, "failed"
        else:
            outcome = "unknown" if number is None else "known"
        telemetry.count("lid_lookups", outcome=outcome)
        self._remember(key, number)
        return number

    def link(self, lease: Lease, event: InboundEvent, phone_number: str) -> Flow[str | None]:
        """Let LID and number lead to one conversation, in which the events wait from now on.

        Answers its key: the turn's own, or the one that its events went along to; None while both
        have something under way, or where they are of two tenants.

        Args:
            lease: The turn that found out.
            event: One of its events, known by its LID alone.
            phone_number: The number.
        """
        conversation_key = yield from self._naming.conversation(event, phone_number)
        view = yield from self._naming.store.view(conversation_key, most=1)
        if view.conversation_key == lease.conversation_key:  # it is linked already
            return lease.conversation_key
        link = self._naming.store.alias(lease.conversation_key, conversation_key, lease=lease)
        if (place := (yield from link)) is not None:
            telemetry.count("lids_linked")
        return place

    def _remember(self, key: tuple[str, str], number: str | None) -> None:
        lifetime = SHORT_LIFETIME if number is None else LIFETIME
        with self._lock:
            self._known[key] = (self._clock() + lifetime, number)
            self._known.move_to_end(key)
            while len(self._known) > SIZE:
                self._known.popitem(last=False)
