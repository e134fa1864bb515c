"""Markdown as models write it, in WhatsApp's own formatting: pure.

WhatsApp knows ``*bold*``, ``_italics_``, ``~strikethrough~``, code between backticks, quotes and
lists (https://faq.whatsapp.com/539178204879377). Whatever is not Markdown for sure stays byte for
byte: words, prices, addresses, code, and what is in WhatsApp's formatting already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["code", "heading", "line", "rule", "table", "unended"]

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[^`\n]*")
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(\S.*?)(?:[ \t]+#+)?\s*")
_UNDERLINE = re.compile(r" {0,3}={3,}\s*")
_RULE = re.compile(r" {0,3}([*_])(?:[ \t]*\1){2,}\s*")
_TASK = re.compile(r"^(?P<item>[ \t]*(?:[-*+]|\d+[.)])[ \t]+)\[(?P<done>[ xX])\](?=[ \t])")
#: The row between a table's head and its body.
_DELIMITERS = re.compile(r"\s*\|?(?:[ \t]*:?-+:?[ \t]*\|)+(?:[ \t]*:?-+:?)?\s*")
_BORDER = re.compile(r"(?<!\\)\|")

#: Without one of these there is no Markdown.
_MARKS = re.compile(r"[*_~`#\[<|\\=]")
#: What stays as it is, whatever stands in it.
_KEPT = (
    r"(?P<code>(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`))"
    r"|(?P<url>(?:https?://|www\.)[^\s<>]+|(?<![\w.+-])[\w.+-]+@[\w-]+\.[\w.-]+)"
)
#: What only Markdown has.
_LINK = (
    r"!?\[(?P<label>(?:[^\[\]]|\[[^\[\]]*\])*)\]"
    r"\((?=<|[a-zA-Z][\w+.-]*:|/|#|[\w-]+\.[\w-])"
    r"(?P<target><[^<>]*>|(?:[^\s()]|\([^\s()]*\))+)(?:[ \t]+(?:\"[^\"]*\"|'[^']*'))?\)"
)
_SURE = (
    rf"{_KEPT}|(?P<link>{_LINK})|<(?P<auto>(?:https?://|mailto:)[^\s<>]+)>|(?P<br><br ?/?>)"
    r"|(?<!\*)\*\*\*(?=[^\s*])(?P<both>(?:(?!\*\*).)+?)(?<=[^\s*])\*\*\*(?!\*)"
    r"|(?<!\*)\*\*(?=[^\s*])(?P<bold>(?:(?!\*\*).)+?)(?<=\S)\*\*(?!\*)"
    r"|(?<![\w./])__(?=[^\s_])(?P<under>(?:(?!__).)+?)(?<=[^\s_])__(?![\w(/]|\.\w)"
    r"|(?<!~)~~(?=[^\s~])(?P<struck>(?:(?!~~).)+?)(?<=[^\s~])~~(?!~)"
)
_ONLY_SURE = re.compile(_SURE)
#: Beside that: what alone may be WhatsApp's own, or mean nothing.
_ALL = re.compile(
    rf"{_SURE}|\\(?P<escaped>[\\`*_{{}}\[\]()#+.!~|>-])"
    r"|(?<![*\w])\*(?=[^\s*])(?P<italics>[^*]+?)(?<=[^\s*])\*(?![*\w])"
)


def from_markdown(text: str) -> str:
    """The text in WhatsApp's formatting.

    Bold, italics, strikethrough, code and lists become WhatsApp's; a heading is a bold line, a link
    its label with the address behind it, a table a line for each row. A text without Markdown stays
    as it is, one that was formatted before as well: ``*word*`` alone is bold for WhatsApp, and
    becomes ``_word_`` only beside what is Markdown for sure.

    Args:
        text: As a model wrote it.
    """
    if _MARKS.search(text) is None:  # as most texts are
        return text
    blocks = list(_blocks(text.split("\n")))
    inline = _ALL if any(_is_sure(kind, lines) for kind, lines in blocks) else _ONLY_SURE
    return "\n".join(line for kind, lines in blocks for line in _formatted(kind, lines, inline))


def _blocks(lines: Sequence[str]) -> Iterator[tuple[Kind, Sequence[str]]]:
    at = 0
    while at < len(lines):
        kind, length = _block_at(lines, at)
        yield kind, lines[at : at + length]
        at += length


def _block_at(lines: Sequence[str], at: int) -> tuple[Kind, int]:
    """What begins at a line, and how many lines it has."""
    line, following = lines[at], "".join(lines[at + 1 : at + 2])
    if fence := _FENCE.fullmatch(line):
        ending = re.compile(rf"[ \t]*{fence[2][0]}{{{len(fence[2])},}}\s*")
        ends = (n for n in range(at + 1, len(lines)) if ending.fullmatch(lines[n]))
        end = next(ends, None)
        return ("unended", len(lines) - at) if end is None else ("code", end - at + 1)
    is_head = "|" in line and _DELIMITERS.fullmatch(following) is not None
    if is_head and len(_cells(line)) == len(_cells(following)):
        others = (n for n in range(at + 2, len(lines)) if "|" not in lines[n])
        return "table", next(others, len(lines)) - at
    if _HEADING.fullmatch(line):
        return "heading", 1
    if line.strip() and _UNDERLINE.fullmatch(following):
        return "heading", 2
    return ("rule" if _RULE.fullmatch(line) else "line"), 1


def _is_sure(kind: Kind, lines: Sequence[str]) -> bool:
    """Whether only Markdown has such a block."""
    if kind != "line":
        return kind in {"heading", "table"}
    return any(found.lastgroup not in {"code", "url"} for found in _ONLY_SURE.finditer(lines[0]))


def _formatted(kind: Kind, lines: Sequence[str], inline: re.Pattern[str]) -> Iterator[str]:
    match kind:
        case "code":
            yield from _code(lines)
        case "table":
            head, _, *rows = (_row(line, inline, is_head=not n) for n, line in enumerate(lines))
            yield from filter(None, (_bold(head), *rows))
        case "heading":
            heading = _HEADING.fullmatch(lines[0])
            words = lines[0] if heading is None else heading[1]
            yield _bold(" ".join(_in_line(words, inline, bold=False).split("\n")))
        case "rule":
            yield "---"
        case "line":
            yield _in_line(_TASK.sub(_task, lines[0]), inline)
        case "unended":
            yield from lines


def _code(lines: Sequence[str]) -> Iterator[str]:
    """Code as WhatsApp has it: its fences are three backticks, and name no language."""
    first, *inside, last = lines
    if any("```" in line for line in inside):  # WhatsApp's would end there
        yield from lines
        return
    yield _fence(first)
    yield from inside
    yield _fence(last)


def _fence(line: str) -> str:
    return f"{line[: len(line) - len(line.lstrip())]}```"


def _row(line: str, inline: re.Pattern[str], *, is_head: bool) -> str:
    cells = (_in_line(cell, inline, bold=not is_head) for cell in _cells(line))
    return " – ".join(" ".join(cell.split("\n")) for cell in cells if cell)


def _cells(row: str) -> list[str]:
    inside = row.strip().removeprefix("|")
    if inside.endswith("|") and not inside.endswith("\\|"):
        inside = inside[:-1]
    return [cell.strip().replace("\\|", "|") for cell in _BORDER.split(inside)]


def _bold(words: str) -> str:
    return f"*{words.strip()}*" if words.strip() else ""


def _task(found: re.Match[str]) -> str:
    return f"{found['item']}{'☐' if found['done'] == ' ' else '☑'}"


def _in_line(line: str, inline: re.Pattern[str], *, bold: bool = True) -> str:
    """What stands in a line; in what is bold already nothing is bold by itself."""
    return inline.sub(partial(_replaced, inline, bold), line)


def _replaced(inline: re.Pattern[str], bold: bool, found: re.Match[str]) -> str:
    kind = found.lastgroup or ""
    if kind in {"code", "url"}:
        return found[0]
    if kind == "link":
        return _link(_in_line(found["label"], inline, bold=bold).strip(), found["target"])
    if kind in {"auto", "escaped"}:
        return found[kind].removeprefix("mailto:")
    if kind == "br":
        return "\n"
    words = _in_line(found[kind], inline, bold=bold and kind in {"struck", "italics"})
    if _is_in_word(found):  # where WhatsApp formats nothing
        return words if found[kind].strip("0123456789") else found[0]
    marks = {"struck": "~", "italics": "_"}.get(kind, "*" if bold else "")
    words = f"_{words}_" if kind == "both" else words
    return f"{marks}{words}{marks}"


def _is_in_word(found: re.Match[str]) -> bool:
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    return before.isalnum() or after.isalnum()


def _link(label: str, target: str) -> str:
    """A link as text: what it says, and where it leads to."""
    address = re.sub(r"^(?:mailto|tel):", "", target.strip("<>"))
    if not label or label in {address, target}:
        return address
    return label if address.startswith(("/", "#")) else f"{label} ({address})"
