"""What a step of a case expects against what came of it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_convsync.workbench.cases import ExpectedState, Step, ToolCall, Words
from langchain_convsync.workbench.counting import bare


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a step.

    Attributes:
        tools: What was called, in order.
        state: The conversation then; None where there is none.
        bot: What the customer read.
    """

    tools: tuple[ToolCall, ...] = ()
    state: ExpectedState | None = None
    bot: tuple[str, ...] = ()


def differences(expected: Step, seen: Outcome, words: Words = "none") -> list[str]:
    """What is not as a step expects it, a line each; what it does not state is not compared."""
    found: list[str] = []
    if expected.tools is not None and not _are_called(expected.tools, seen.tools):
        found.append(_line("tools", _calls(expected.tools), _calls(seen.tools)))
    if expected.state is not None:
        found += _of_state(expected.state, seen.state or ExpectedState())
    if expected.bot is not None and not _is_said(expected.bot, seen.bot, words):
        name = "bot" if words == "exact" else "bot contains"
        found.append(_line(name, _quoted(expected.bot), _quoted(seen.bot)))
    return found


def _line(name: str, expected: str, seen: str) -> str:
    return f"{name}: expected {expected}, now {seen}"


def _are_called(expected: Sequence[ToolCall], seen: Sequence[ToolCall]) -> bool:
    if len(expected) != len(seen):
        return False
    for (name, args), (other, given) in zip(map(_call, expected), map(_call, seen), strict=True):
        if name != other or any(k not in given or given[k] != v for k, v in args.items()):
            return False
    return True


def _call(called: ToolCall) -> tuple[str, Mapping[str, Any]]:
    if isinstance(called, str):
        return called, {}
    [(name, args)] = called.items()
    return name, args or {}


def _calls(called: Iterable[ToolCall]) -> str:
    told = [
        f"{name}({', '.join(f'{k}={_json(v)}' for k, v in args.items())})" if args else name
        for name, args in map(_call, called)
    ]
    return ", ".join(told) or "none"


def _of_state(expected: ExpectedState, seen: ExpectedState) -> Iterator[str]:
    for name in ("intent", "step"):
        wanted, now = getattr(expected, name), getattr(seen, name)
        if wanted is not None and wanted != now:
            yield _line(name, wanted, now or "none")
    context = seen.context if isinstance(seen.context, dict) else {}
    if isinstance(expected.context, dict):
        for key, wanted in expected.context.items():
            if key not in context or context[key] != wanted:
                now = _json(context[key]) if key in context else "not there"
                yield _line(f"context {key}", _json(wanted), now)
    elif missing := [key for key in expected.context or () if key not in context]:
        yield _line("context", f"the keys {', '.join(missing)}", ", ".join(context) or "empty")


def _is_said(expected: Sequence[str], seen: Sequence[str], words: Words) -> bool:
    """Bubbles are one text: what is split, and how a phone shows it, does not matter."""
    said = bare("".join(seen)).casefold()
    if words == "contains":
        return all(bare(each).casefold() in said for each in expected)
    return words == "none" or bare("".join(expected)).casefold() == said


def _quoted(texts: Iterable[str]) -> str:
    return " · ".join(f"“{' '.join(text.split())}”" for text in texts) or "nothing"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
