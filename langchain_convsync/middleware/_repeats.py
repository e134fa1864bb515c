"""What a model is told that calls a tool again and again, before its run is ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.messages import ToolMessage

from langchain_convsync import telemetry
from langchain_convsync.surfaces.context import current_turn
from langchain_convsync.surfaces.repeats import HINT, looped, verdict

logger = logging.getLogger(__name__)


def answer_to_repeated(request: ToolCallRequest) -> ToolMessage | None:
    """The answer to a call that only repeats those before it; None for one that is to run.

    Raises:
        LoopError: The model was told, and calls it all the same.
    """
    state: Any = request.state
    messages = state.get("messages") if isinstance(state, Mapping) else _messages_of(state)
    called: Any = request.tool_call
    match verdict(called, messages or ()):
        case "run":
            return None
        case "hint":
            telemetry.count("loops", outcome="told")
            logger.warning("The agent repeats a call of its tool %s: it is told so", called["name"])
            return ToolMessage(HINT, name=called["name"], tool_call_id=called["id"], status="error")
    error = looped(called["name"])
    telemetry.count("loops", outcome="ended")
    if (turn := current_turn.get()) is not None:
        turn.loop = error  # whatever a middleware for retries makes of it
    raise error


def _messages_of(state: object) -> Any:
    return getattr(state, "messages", None)
