"""What a bot's process tells of its work: its turns' spans, and what models and tools do."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from pathlib import Path
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.tracers.context import register_configure_hook

from langchain_convsync import telemetry

#: As many characters of a text, and messages of a prompt, are shown.
LONGEST, MOST = 4000, 60
_PACKAGE = str(Path(__file__).parents[1])

#: Which turn this is of; its conversation's key too, once that is known.
_turn: ContextVar[dict[str, str | None] | None] = ContextVar("workbench_turn", default=None)

Tell = Callable[..., Any]


def watch(tell: Tell) -> None:
    """Tell what happens in this process from now on, to whom it belongs, and how long it took."""
    telemetry.listen(_Spans(tell))
    everywhere = ContextVar[BaseCallbackHandler | None]("workbench", default=_Runs(tell))  # noqa: B039
    register_configure_hook(everywhere, inheritable=True)  # in every context, thanks to its default


def _whose() -> dict[str, str | None]:
    return dict(_turn.get() or {})


class _Spans:
    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def open(self, name: str, labels: Mapping[str, str]) -> _Opened:
        return _Opened(self._tell, name, labels)


class _Opened:
    """A block of our own: what is nested in a turn or a delivery knows whose it is."""

    def __init__(self, tell: Tell, name: str, labels: Mapping[str, str]) -> None:
        self._tell, self._name, self._began = tell, name, time.perf_counter()
        self._error: BaseException | None = None
        self._token: Token[dict[str, str | None] | None] | None = None
        if name in {"turn", "delivery"}:
            self._token = _turn.set({})
        elif name == "turn_phase":
            tell("phase", phase=labels["phase"], **_whose())

    def note(self, facts: Mapping[str, str | None]) -> None:
        held = _turn.get()
        if held is not None:
            held.update({"turn": facts.get("turn"), "key": facts.get("conversation")})
        if self._name == "turn":
            self._tell("turn", **_whose())

    def failed(self, error: BaseException) -> None:
        self._error = error

    def close(self, labels: Mapping[str, str], error: BaseException | None) -> None:
        whose, seconds = _whose(), time.perf_counter() - self._began
        if self._token is not None:
            _turn.reset(self._token)
        error = error or self._error
        name = type(error).__name__ if error else None
        if self._name == "turn":
            self._tell("turn over", seconds=seconds, error=name, **whose)
        elif self._name == "turn_phase":
            shown = shown_error(error) if error and labels["phase"] == "agent" else None
            told = {"phase": labels["phase"], "seconds": seconds, "error": name, "trace": shown}
            self._tell("phase over", **told, **whose)
        elif self._name in {"api_request", "waha_request"}:
            to = self._name.removesuffix("_request")
            told = {"to": to, "operation": labels["operation"], "status": labels["status"]}
            self._tell("call", **told, seconds=seconds, **whose)


class _Runs(BaseCallbackHandler):
    """Models and tools, of whatever is called in a turn."""

    run_inline = True

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._began: dict[UUID, float] = {}

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        self._began[run_id] = time.perf_counter()
        shown = [_message(each) for each in messages[0][-MOST:]]
        named = kwargs.get("metadata") or {}
        model = named.get("ls_model_name") or (serialized or {}).get("name") or "model"
        self._tell("model", run=str(run_id), model=model, messages=shown, **_whose())

    def on_llm_start(
        self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> None:
        self._began[run_id] = time.perf_counter()
        shown = [{"role": "prompt", "text": _short(each)} for each in prompts[:1]]
        name = (serialized or {}).get("name") or "model"
        self._tell("model", run=str(run_id), model=name, messages=shown, **_whose())

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        message: Any = getattr(response.generations[0][0], "message", None)
        text = response.generations[0][0].text if message is None else _text(message)
        calls = [{"name": c["name"], "args": c["args"]} for c in getattr(message, "tool_calls", ())]
        tokens = getattr(message, "usage_metadata", None) or {}
        told = {"text": _short(text), "calls": calls, "tokens": tokens.get("total_tokens")}
        self._over("model over", run_id, **told)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._over("model over", run_id, error=_line(error))

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._began[run_id] = time.perf_counter()
        args = {k: _short(repr(v)) for k, v in (inputs or {}).items() if k != "runtime"}
        name = (serialized or {}).get("name") or kwargs.get("name") or "tool"
        given = args or ({} if input_str == "{}" else {"input": _short(input_str)})
        self._tell("tool", run=str(run_id), name=name, args=given, **_whose())

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._over("tool over", run_id, result=_short(_text(output)))

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._over("tool over", run_id, error=_line(error))

    def _over(self, kind: str, run_id: UUID, **facts: Any) -> None:
        now = time.perf_counter()
        seconds = now - self._began.pop(run_id, now)
        self._tell(kind, run=str(run_id), seconds=seconds, **facts, **_whose())


def _message(message: BaseMessage) -> dict[str, Any]:
    calls = [call["name"] for call in getattr(message, "tool_calls", ())]
    return {"role": message.type, "text": _short(_text(message)), "calls": calls}


def _text(output: Any) -> str:
    text = getattr(output, "text", None)
    if callable(text) and not isinstance(text, str):  # LangChain's was a method once
        text = text()
    return text if isinstance(text, str) else str(getattr(output, "content", output))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… {len(text) - LONGEST} more"


def _line(error: BaseException) -> str:
    return _short(f"{type(error).__name__}: {error}".splitlines()[0])


def shown_error(error: BaseException) -> str:
    """A traceback without this package's own frames: of the user's code, and what that calls."""
    told = traceback.TracebackException.from_exception(error, compact=True)
    each: traceback.TracebackException | None = told
    while each is not None:
        each.stack = traceback.StackSummary.from_list([*_theirs(each.stack)])
        each = each.__cause__ or each.__context__
    return "".join(told.format())


def _theirs(frames: Iterable[traceback.FrameSummary]) -> Iterable[traceback.FrameSummary]:
    kept = [frame for frame in frames if not frame.filename.startswith(_PACKAGE)]
    own = [frame for frame in kept if "site-packages" not in frame.filename]
    return own or kept[-5:]
