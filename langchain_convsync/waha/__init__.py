"""WAHA's webhook: who signed a delivery, and what it reports.

The protocol is WAHA's (https://waha.devlike.pro/docs/how-to/events/), as its engines really speak
it: WEBJS, WPP, NOWEB and GOWS, envelopes of 2023 and later. Pure functions without I/O::

    if not waha.verify(raw, headers, secrets):
        ...                                     # 401
    match waha.parse_event(waha.parse_json(raw)):
        case InboundEvent() as event: ...       # a customer wrote
        case OperatorMessage() as message: ...  # a human answered from the phone
        case Ignored(reason=reason): ...        # everything else
"""

from langchain_convsync.waha.events import Ignored, OperatorMessage, Reason
from langchain_convsync.waha.groups import Groups
from langchain_convsync.waha.markdown import from_markdown
from langchain_convsync.waha.origin import event_id, stanza_id
from langchain_convsync.waha.parsing import parse_event
from langchain_convsync.waha.signature import verify
from langchain_convsync.waha.wire import parse_json

__all__ = [
    "Groups",
    "Ignored",
    "OperatorMessage",
    "Reason",
    "event_id",
    "from_markdown",
    "parse_event",
    "parse_json",
    "stanza_id",
    "verify",
]
