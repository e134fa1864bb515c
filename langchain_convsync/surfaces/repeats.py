"""The same call of a tool, again and again: how a model's loop is told from a tool that is polled.

A call is repeated where the one before it was of the same tool with the same arguments, and came to
the same. One whose result changes is polled for a reason, and what comes in between makes it new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias
from uuid import UUID

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_convsync import _forks
from langchain_convsync.errors import LoopError
from langchain_convsync.surfaces.calls import digest_of

#: Which of the same calls in a row is answered with a hint; the next one ends the run.
HINTED = 3
HINT = (
    "You have called this tool with the same arguments several times in a row, and it has told you "
    "the same each time. It was not called again. Answer the customer with what you know, or ask "
    "for what is missing."
)
Verdict: TypeAlias = Literal["run", "hint", "end"]


def looped(tool: str) -> LoopError:
    """The error of a run that called a tool once too often."""
    return LoopError(
        f"the agent called its tool {tool} {HINTED} times in a row with the same arguments, was "
        "told the same each time, and called it again: have the tool's description say when it is "
        "done, or its result what to do next"
    )


def verdict(called: Mapping[str, Any], messages: Sequence[BaseMessage]) -> Verdict:
    """What becomes of a call, by what the agent's messages tell of those before it.

    Args:
        called: The call, as the model's message tells it.
        messages: The agent's messages, the one that calls included.
    """
    digest = digest_of(called["name"], called["args"])
    results: dict[str, str] = {}
    said: list[str] = []  # by the same calls, the latest first
    for message in reversed(messages):
        if isinstance(message, ToolMessage):
            results[message.tool_call_id] = str(message.content)
        elif isinstance(message, AIMessage):
            if any(call["id"] == called["id"] for call in message.tool_calls):
                continue
            calls = [call["id"] for call in message.tool_calls if digest_of_call(call) == digest]
            if not calls or len(calls) < len(message.tool_calls):
                break
            said += [results.get(call or "", "") for call in reversed(calls)]
        elif isinstance(message, HumanMessage):
            break
    if said[:1] == [HINT]:
        return "end"
    same = said[: HINTED - 1]
    return "hint" if len(same) == HINTED - 1 and len(set(same)) == 1 else "run"


def digest_of_call(call: Mapping[str, Any]) -> str:
    """A digest that is the same for the same call."""
    return digest_of(call["name"], call["args"])


@dataclass(slots=True)
class _Row:
    """The same calls in a row: in how many steps they came to the same, and which are under way."""

    digest: str
    result: str | None = None
    alike: int = 0
    step: object = None
    open: dict[UUID, object] = field(default_factory=dict)


class Rows:
    """The calls of a run as they happen, for agents whose messages nobody shows us.

    Each agent of the run has a row of its own: subagents call beside each other. Thread-safe.
    """

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._lock = _forks.lock()

    def begin(
        self, run: UUID, tool: str, arguments: Mapping[str, Any], *, agent: str, step: object
    ) -> None:
        """A call begins.

        Args:
            run: Its id.
            tool: The tool's name.
            arguments: As the model gave them.
            agent: Whose call it is.
            step: The agent's step, which is the same for calls at once; None where none is told.

        Raises:
            LoopError: It is the same as too many before it.
        """
        digest = digest_of(tool, arguments)
        with self._lock:
            row = self._rows.get(agent)
            if row is None or row.digest != digest:
                row = self._rows[agent] = _Row(digest)
            if row.alike >= HINTED:
                raise looped(tool)
            row.open[run] = step

    def end(self, run: UUID, result: str) -> None:
        """A call came to a result, or failed."""
        with self._lock:
            row = next((row for row in self._rows.values() if run in row.open), None)
            if row is None:  # another call came in between
                return
            step = row.open.pop(run)
            if row.result != result:
                row.alike = 0
            if not row.alike or step is None or row.step != step:
                row.alike += 1
            row.result, row.step = result, step
