"""Words by which LangChain ends a run at a limit: neither a model's nor its user's.

They are for developers, and no customer should read them. Recognised are the exact texts of the
parts named here, in messages that no model made; words of a user's own are a reply as any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

_COUNT = r"\(\d+/\d+\)"
_CALLS = r"\(\d+/\d+ calls\)"
#: What each part says, up to where it quotes an error; and the part, with what its user may change.
_WORDS = {
    rf"Model call limits exceeded: (?:thread limit {_COUNT}(?:, run limit {_COUNT})?"
    rf"|run limit {_COUNT})": "ModelCallLimitMiddleware: raise its limits",
    rf"(?:'.+' tool|Tool) call limit reached: (?:thread limit exceeded {_CALLS}"
    rf"(?: and run limit exceeded {_CALLS})?|run limit exceeded {_CALLS})\.": (
        "ToolCallLimitMiddleware: raise its limits"
    ),
    r"(Model call failed after \d+ attempts? with \w+): .*": (
        'ModelRetryMiddleware: pass on_failure="error"'
    ),
    r"Sorry, need more steps to process this request\.": (
        "create_react_agent: raise recursion_limit, agent.with_config(recursion_limit=…)"
    ),
    r"Agent stopped due to (?:iteration limit or time limit|max iterations)\.": (
        "AgentExecutor: raise max_iterations or max_execution_time"
    ),
}
_LIMITS = [(re.compile(words, re.DOTALL), lever) for words, lever in _WORDS.items()]


def limit_in(output: Mapping[str, Any], messages: Sequence[BaseMessage]) -> str | None:
    """Which limit ended a run, and what to do about it; None where an agent said the last word.

    Args:
        output: What the run returned: its own texts for the customer count before messages.
        messages: What was said in the run.
    """
    last = _unmade(messages[-1]) if messages else None
    said = output.get("output") or output.get("reply") or last
    if not isinstance(said, str):
        return None
    for words, lever in _LIMITS:
        if found := words.fullmatch(said):
            told = next(filter(None, found.groups()), said)  # what follows may quote a customer
            return f"{told!r} is from {lever}, or end the run with words of your own"
    return None


def _unmade(message: BaseMessage) -> object:
    """The words of a bot's message that no model made: providers tell about theirs."""
    made = message.response_metadata or message.additional_kwargs
    if made or not isinstance(message, AIMessage) or message.tool_calls or message.usage_metadata:
        return None
    return message.content
