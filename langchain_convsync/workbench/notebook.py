"""The timeline for a notebook: HTML without a script, as things are when it is shown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from html import escape
from typing import Any
from weakref import WeakSet

from langchain_convsync._lines import count_of
from langchain_convsync.workbench.timeline import Fact, Timeline
from langchain_convsync.workbench.watching import watch

_STYLE = """
.convsync-watch { font: 13px/1.5 system-ui, sans-serif; max-width: 900px; }
.convsync-watch .turn { border: 1px solid #8886; border-radius: 10px; margin: 8px 0; padding: 8px; }
.convsync-watch .row { display: grid; grid-template-columns: 38% 1fr 70px; gap: 10px; }
.convsync-watch summary { cursor: pointer; }
.convsync-watch .track { background: #8883; border-radius: 5px; height: 9px; align-self: center; }
.convsync-watch .bar { border-radius: 5px; height: 9px; min-width: 4px; background: #5b8bb0; }
.convsync-watch .model { background: #7f66dd; }
.convsync-watch .tool { background: #c26a1b; }
.convsync-watch .commit { background: #12805c; }
.convsync-watch .bad { background: #c23b32; }
.convsync-watch .took { text-align: right; opacity: .7; }
.convsync-watch pre { white-space: pre-wrap; margin: 4px 0 8px 14px; opacity: .85; }
"""
_PHASES = {"read": "read the conversation", "agent": "agent", "commit": "commit", "media": "files"}
_CALLS = {
    "add_message": "write: message",
    "sync_conversation": "write: state",
    "get_conversation": "look up",
    "send_text": "reply",
}


class Watched:
    """What this process does from now on: a notebook shows it as a timeline of its turns.

    What is shown is how things are then; show it again for what came after. It holds words.
    """

    def __init__(self) -> None:
        self._timeline = Timeline()
        _all_watched().add(self)

    def _take(self, kind: str, **facts: Any) -> None:
        self._timeline.add(kind, **facts)

    def __repr__(self) -> str:
        turns = _turns(self._timeline.since())
        watched = f"{count_of(len(turns), 'turn')} watched"
        return "\n".join([watched, *(turn.line for turn in turns)])

    def _repr_html_(self) -> str:
        turns = _turns(self._timeline.since())
        told = "".join(map(_html, turns)) or "<p>No turn yet: run one, and show this again.</p>"
        return f'<div class="convsync-watch"><style>{_STYLE}</style>{told}</div>'


@cache
def _all_watched() -> WeakSet[Watched]:
    """Who is told; this process is watched from the first time on."""
    everyone = WeakSet[Watched]()

    def tell(kind: str, **facts: Any) -> None:
        for each in [*everyone]:
            each._take(kind, **facts)  # noqa: SLF001 - of this module

    watch(tell)
    return everyone


@dataclass(slots=True)
class _Row:
    """Something that took time; ``end`` is None while it does."""

    label: str
    kind: str
    begin: float
    end: float | None = None
    more: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Turn:
    """A turn and its rows, in the order in which they began."""

    number: int
    rows: list[_Row] = field(default_factory=list)
    open: dict[str, _Row] = field(default_factory=dict)
    end: str = "working"

    @property
    def line(self) -> str:
        """The turn in a line."""
        return f"turn {self.number}: {self.end}; {', '.join(row.label for row in self.rows)}"

    def begin(self, key: str, row: _Row) -> None:
        self.rows.append(row)
        self.open[key] = row

    def take(self, fact: Fact) -> None:
        """Note what a fact tells of it."""
        kind, at = fact["kind"], fact["at"]
        key = str(fact.get("run") or fact.get("phase"))
        if kind == "phase":
            name = str(fact["phase"])
            self.begin(key, _Row(_PHASES.get(name, name), "commit" * (name == "commit"), at))
        elif kind == "model":
            said = [
                (each["role"], each["text"] or ", ".join(each.get("calls", ())))
                for each in fact["messages"]
            ]
            self.begin(key, _Row(fact["model"], "model", at, more=said))
        elif kind == "tool":
            self.begin(key, _Row(fact["name"], "tool", at, more=[*fact["args"].items()]))
        elif kind == "call" and not _is_of_a_phase(fact):
            name = _CALLS.get(fact["operation"], str(fact["operation"]))
            told = name if fact["status"] == "2xx" else f"{name}: {fact['status']}"
            self.rows.append(_Row(told, "", at - fact["seconds"], at))
        elif kind == "turn over":
            self.end = fact["error"] or "committed"
        elif (row := self.open.pop(key, None)) is not None:
            row.end = at
            row.more += [*_ending(fact)]
            row.kind = "bad" if fact.get("error") else row.kind


def _is_of_a_phase(fact: Fact) -> bool:
    """Whether the row of a phase tells it already."""
    return bool(fact.get("turn") and fact["operation"] == "get_conversation")


def _ending(fact: Fact) -> Iterator[tuple[str, str]]:
    """What a model, a tool or a phase came to."""
    calls = [
        f"{call['name']}({json.dumps(call['args'], default=str)})" for call in fact.get("calls", ())
    ]
    for name, told in (
        ("answer", fact.get("text")),
        ("calls", "\n".join(calls)),
        ("result", fact.get("result")),
        ("error", fact.get("trace") or fact.get("error")),
    ):
        if told:
            yield name, str(told)


def _turns(facts: Iterable[Fact]) -> list[_Turn]:
    """The turns that facts tell of, in order; what is of none is left out."""
    turns: dict[str, _Turn] = {}
    last: dict[str | None, _Turn] = {}
    for fact in facts:
        key = fact.get("key")
        if (name := fact.get("turn")) is not None:
            last[key] = turns.setdefault(name, _Turn(len(turns) + 1))
            last[key].take(fact)
        elif key is not None and key in last:  # a write, or a reply
            last[key].take(fact)
    return [*turns.values()]


def _html(turn: _Turn) -> str:
    begin = min((row.begin for row in turn.rows), default=0.0)
    end = max((row.end or row.begin for row in turn.rows), default=0.0)
    rows = "".join(_row(row, begin, max(end - begin, 0.001)) for row in turn.rows)
    return f'<div class="turn"><b>Turn {turn.number}</b> · {escape(turn.end)}{rows}</div>'


def _row(row: _Row, begin: float, whole: float) -> str:
    seconds = 0.0 if row.end is None else row.end - row.begin
    left = min(99.0, 100 * (row.begin - begin) / whole)
    width = min(100 - left, max(1.0, 100 * seconds / whole))
    took = "…" if row.end is None else f"{seconds * 1000:.0f} ms"
    place = f"margin-left:{left:.1f}%;width:{width:.1f}%"
    line = (
        f'<span class="row"><span>{escape(row.label)}</span>'
        f'<span class="track"><div class="bar {row.kind}" style="{place}"></div></span>'
        f'<span class="took">{took}</span></span>'
    )
    if not row.more:
        return f"<div>{line}</div>"
    more = "".join(f"<div>{escape(name)}<pre>{escape(text)}</pre></div>" for name, text in row.more)
    return f"<details><summary>{line}</summary>{more}</details>"
