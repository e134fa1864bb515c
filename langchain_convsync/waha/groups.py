"""Which messages in groups are for the bot."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, TypeAlias

from langchain_convsync import phone
from langchain_convsync.models import InboundEvent

#: Whether messages in groups are answered: where the bot is mentioned or quoted, all, or none. True
#: stands for ``"mentions"``.
Groups: TypeAlias = Literal["mentions", "all"] | bool

#: WhatsApp writes a mention as the number, or the LID's digits; people see a name instead.
_MENTION = re.compile(r"@\+?(\d{5,20})(?!\d)")


def is_for_us(event: InboundEvent, groups: Groups, own: Iterable[str] = ()) -> bool:
    """Whether a message is for the bot: each one of a single customer, and what groups are asked.

    Args:
        event: The message.
        groups: What is answered in groups.
        own: What names the business besides its number: its LID above all.
    """
    if not event.is_group or groups == "all":
        return True
    return bool(groups) and _is_addressed(event, [*own, event.business_number or ""])


def _is_addressed(event: InboundEvent, own: Iterable[str]) -> bool:
    """Whether it mentions the business, or quotes it."""
    quoted = event.quoted
    if quoted is not None and quoted.by is not None:
        if quoted.by == "business":
            return True
        quoted = None
    digits = _MENTION.findall(event.text)
    written = [name for each in digits for name in (f"+{each}", f"{each}@lid")]
    named = [*event.mentions, *written, *([] if quoted is None else [quoted.sender])]
    return any(phone.same_subscriber(ours, name) for ours in own for name in named)
