"""What WAHA says when it does not send, and what follows from that: pure.

Protocol: https://waha.devlike.pro/docs/how-to/send-messages/. Its engines tell why in words alone:
what WhatsApp refuses for good comes with status 500 as well as what passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from langchain_convsync.waha.wire import as_list, as_object, as_text, at, one_line

#: ``chat``: this chat id is refused, another one of the customer's may not be. A limit's kind: the
#: account sends nothing, or begins no chats, for now. ``message``: the same request is refused for
#: ever. ``unclear``: nothing is known; it may even have been sent.
RefusalKind: TypeAlias = Literal["chat", "session", "timelock", "capping", "message", "unclear"]

#: As many characters are kept of WAHA's words.
LONGEST = 200

#: No such customer under this chat id.
_CHAT = re.compile(
    r"\bno lid\b|\blid is missing\b|not (?:registered )?on whatsapp|not registered|"
    r"not a (?:valid )?whatsapp|invalid (?:wid|jid)|wid error|unknown server|"
    r"(?:chat|contact|recipient|user)\b.{0,40}\b(?:not found|does not exist|doesn'?t exist)",
    re.IGNORECASE,
)
#: WhatsApp's cap on new chats, and its lock on reaching out to anyone.
_CAPPING = re.compile(r"\bcapp(?:ing|ed)\b|(?:err\w*|status|code)\W{0,3}475\b", re.IGNORECASE)
_TIMELOCK = re.compile(
    r"(?:err\w*|status|code)\W{0,3}463\b|reach.?out|time.?lock|"
    r"(?:account|number)\b.{0,20}\b(?:restricted|banned|blocked|locked)|restrict_all",
    re.IGNORECASE,
)
#: What WAHA's free edition does not do, also with 422.
_EDITION = re.compile(r"\bplus\b", re.IGNORECASE)
#: An own chat id, number or address in the words of an engine.
_ADDRESS = re.compile(r"[^\s'\"(<]+(@(?:c\.us|s\.whatsapp\.net|g\.us|lid|hosted(?:\.lid)?))\b")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_NUMBER = re.compile(r"\+?\d(?:[ ().-]{0,2}\d){5,}")
_WORD = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why WAHA did not send.

    Attributes:
        kind: What follows.
        words: WAHA's own, in one line, without an address, a number, an id or what was sent.
        engine: Which engine said so, e.g. ``"GOWS"``; empty where WAHA does not tell.
    """

    kind: RefusalKind
    words: str = ""
    engine: str = ""


def refusal_of(status: int, told: object, *, sent: Iterable[str] = ()) -> Refusal:
    """What an answer means that is no success.

    Args:
        status: Its HTTP status.
        told: Its JSON; None where it is none.
        sent: What the request told, which the words must not repeat.
    """
    said = _said(told)
    engine = one_line(as_text(at(told, "version", "engine")), 20)
    return Refusal(_kind(status, said, told), _redacted(said, sent), engine)


def _kind(status: int, said: str, told: object) -> RefusalKind:
    if not isinstance(told, dict):  # something in front of WAHA
        return "message" if status == 413 else "unclear"
    if _TIMELOCK.search(said):
        return "timelock"
    if _CAPPING.search(said):
        return "capping"
    if _CHAT.search(said):
        return "chat"
    if status == 422 and not _EDITION.search(said):  # its session is not WORKING
        return "session"
    passes = status in {408, 425, 429} or status >= 500
    return "unclear" if passes else "message"


def _said(told: object) -> str:
    """The words of an answer, wherever an engine puts them."""
    places: tuple[Any, ...] = (
        at(told, "exception", "message"),
        at(told, "exception", "details"),
        as_object(told).get("message"),
        as_object(told).get("error"),
    )
    for place in places:
        words = as_text(place) or "; ".join(filter(None, map(as_text, as_list(place))))
        if words.strip():
            status = as_text(as_object(told).get("status"))
            return f"{words} ({status})" if status and status not in words else words
    return ""


def _redacted(said: str, sent: Iterable[str]) -> str:
    for text in sorted({each for each in sent if len(each) > 3}, key=len, reverse=True):
        said = said.replace(text, "…")
    said = _ADDRESS.sub(r"…\1", _URL.sub("…", said[: 10 * LONGEST]))
    said = _WORD.sub(lambda word: "…" if _is_id(word[0]) else word[0], _NUMBER.sub("…", said))
    return one_line(said, LONGEST)


def _is_id(word: str) -> bool:
    """Whether it names somebody rather than says something, such as ``PE.1A2b3C4d``."""
    return sum(map(str.isdigit, word)) > 3 and any(map(str.isalpha, word))
