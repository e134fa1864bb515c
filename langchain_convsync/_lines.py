r"""Text from outside that becomes a line of something: it stays one line, and shows all it says.

Unicode has more line ends than ``\n``, marks that turn the direction of what follows, and
characters that are not visible and that a model reads all the same: tag characters spell ASCII.
"""

from __future__ import annotations

import re
import unicodedata

#: Characters of no category below that are invisible nevertheless; U+FE0F, emoji's, is not here.
_INVISIBLE = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0e\U000e0000-\U000e0fff"
)
#: Beyond ASCII, what may be one; a look at its category decides.
_SUSPECT = re.compile(
    f"[\x00-\x1f\x7f-\xad\u0600-\u06ff\u070f\u0890-\u08e2{_INVISIBLE}\u180e"
    "\u200b-\u206f\ud800-\uf8ff\ufdd0-\ufdef\ufeff\ufff0-\uffff"
    "\U000110bd-\U0010ffff]"
)
_HALVES = re.compile("[\ud800-\udfff]")
_ALWAYS = re.compile(f"[{_INVISIBLE}]")
#: Line ends and tabs that people write.
_SPACES = str.maketrans("\n\r\t", "   ")
_ESCAPED = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})


def whole(text: str) -> str:
    """The text, with a mark for each half of a character: no JSON, no database takes one."""
    if text.isascii() or _HALVES.search(text) is None:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shown(text: str) -> str:
    """The text with its line ends, controls and unseen characters escaped, as JSON does it."""
    return text if text.isascii() and text.isprintable() else _SUSPECT.sub(_escape, text)


def one_line(text: str) -> str:
    """The same; plain line ends and tabs become spaces first."""
    return shown(text.translate(_SPACES))


def cut(text: str, most: int) -> str:
    """The beginning of a text, and how much of it is left out; the text itself where it fits."""
    if len(text) <= most:
        return text
    for kept in range(most, -1, -1):  # the marker's own length depends on it
        marker = f"… [{len(text) - kept} more characters are left out]"
        if kept + len(marker) <= most or kept == 0:
            return text[:kept] + marker
    raise AssertionError  # pragma: no cover - at 0 the loop returns


def is_name(key: str) -> bool:
    """Whether it is a name as a program gives them, and no number of a customer's."""
    return key.isidentifier() and sum(map(str.isdigit, key)) < 6


def count_of(number: int, one: str, many: str = "") -> str:
    """How many of something: ``1 turn``, ``2 turns``; ``many`` where that is no ``s`` more."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def often(number: int) -> str:
    """How many times: ``once``, ``2 times``."""
    return "once" if number == 1 else f"{number} times"


def span(seconds: float) -> str:
    """So many seconds in the unit that a person would take: ``0.8 s``, ``12 s``, ``3 min``."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{max(0.0, seconds):.1f} s"


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if unicodedata.category(character) not in _ESCAPED and not _ALWAYS.match(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
