"""A long text as several messages, as a person would send it: pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

#: Characters that WhatsApp takes as one message.
LONGEST_MESSAGE = 65_536
#: Messages that one text becomes at most: who sends more at once is taken for a machine.
MOST_BUBBLES = 10

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_MONOSPACED = "```"


def bubbles(text: str, longest: int | None = None) -> list[str]:
    """The text as messages to be sent one after the other; none where it is blank.

    No character is lost but blank ones between two messages. Code between fences stays whole, as
    far as it is no longer than a WhatsApp message.

    Args:
        text: The text.
        longest: Characters beyond which it is split, on blank lines; a paragraph that is longer
            stays whole. None splits nothing that WhatsApp takes as one message.
    """
    spans = _paragraphs(text)
    wanted = LONGEST_MESSAGE if longest is None else max(1, longest)
    parts = _packed(text, spans, wanted)
    while len(parts) > MOST_BUBBLES and wanted < LONGEST_MESSAGE:
        wanted = min(2 * wanted, LONGEST_MESSAGE)
        parts = _packed(text, spans, wanted)
    return [piece for part in parts for piece in _cut(part)]


def _paragraphs(text: str) -> list[tuple[int, int]]:
    """Where each paragraph begins and ends: what lies between two is blank."""
    spans: list[tuple[int, int]] = []
    start, at, fence = None, 0, ""
    for line in text.splitlines(keepends=True):
        is_blank = not line.strip() and not fence
        if is_blank and start is not None:
            spans.append((start, at))
            start = None
        elif not is_blank and start is None:
            start = at
        fence = _after(line, fence)
        at += len(line)
    return spans if start is None else [*spans, (start, at)]


def _after(line: str, fence: str) -> str:
    """The fence that is open behind a line; empty where none is."""
    found = _FENCE.match(line)
    if fence == _MONOSPACED:  # WhatsApp's own, which may begin and end in the middle of a line
        return "" if line.count(_MONOSPACED) % 2 else fence
    if fence:
        rest = line.strip()
        is_end = rest and not rest.strip(fence[0]) and len(rest) >= len(fence)
        return "" if is_end else fence
    if found is None or (found[1][0] == "`" and _MONOSPACED in line[found.end() :]):
        return _MONOSPACED if line.count(_MONOSPACED) % 2 else ""
    return found[1] if found[1] != _MONOSPACED else _MONOSPACED


def _packed(text: str, spans: Sequence[tuple[int, int]], longest: int) -> list[str]:
    """As many paragraphs in each part as fit, at least one."""
    packed: list[tuple[int, int]] = []
    for start, end in spans:
        if packed and len(text[packed[-1][0] : end].strip()) <= longest:
            packed[-1] = (packed[-1][0], end)
        else:
            packed.append((start, end))
    return [text[start:end].strip() for start, end in packed]


def _cut(part: str) -> Iterator[str]:
    """Pieces that WhatsApp takes: cut at the end of a line, else of a word, else anywhere."""
    while len(part) > LONGEST_MESSAGE:
        head = part[: LONGEST_MESSAGE + 1]
        at = max(head.rfind("\n"), 0) or max(head.rfind(" "), 0) or LONGEST_MESSAGE
        if piece := part[:at].strip():
            yield piece
        part = part[at:].strip()
    if part:
        yield part
