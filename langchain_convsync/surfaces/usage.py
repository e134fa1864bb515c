"""What the models of a run took, in tokens: by model, as LangChain counts them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage

from langchain_convsync import _forks, telemetry

#: LangChain's ``usage_metadata`` by the model's name.
Usage: TypeAlias = Mapping[str, UsageMetadata]

#: Models that a metric tells apart, and characters of a model's name.
MOST_MODELS, LONGEST_NAME = 100, 100
#: What providers call it, where they tell which model has answered.
_NAMED = ("model_name", "model", "model_id")
#: Digits in a row as phone numbers have them; a date has eight.
_NUMBER = re.compile(r"\d{9}")
#: What a model is called that no answer names.
UNKNOWN = "unknown"


class Meter:
    """Adds up what a run's models take, each answer once, and counts it."""

    def __init__(self) -> None:
        self._usage: dict[str, UsageMetadata] = {}
        self._lock = _forks.lock()  # an agent may ask several at once

    @property
    def usage(self) -> Usage:
        """What was taken so far."""
        with self._lock:
            return dict(self._usage)

    def add(self, messages: Iterable[BaseMessage]) -> None:
        """Add answers of models; what was answered from a cache took nothing."""
        for message in messages:
            usage = message.usage_metadata if isinstance(message, AIMessage) else None
            if not usage or usage.get("total_cost") == 0:
                continue
            model = _name_in(message)
            with self._lock:
                self._usage = {**added(self._usage, {model: usage})}
            label = _label(model)
            telemetry.count("tokens", usage["input_tokens"], model=label, direction="input")
            telemetry.count("tokens", usage["output_tokens"], model=label, direction="output")


def added(one: Usage, other: Usage) -> Usage:
    """Both together."""
    return {**one, **{name: add_usage(one.get(name), usage) for name, usage in other.items()}}


def tokens(usage: Usage) -> tuple[int, int]:
    """How many the models were given, and how many they gave."""
    each = usage.values()
    return sum(one["input_tokens"] for one in each), sum(one["output_tokens"] for one in each)


def _name_in(message: BaseMessage) -> str:
    told = (message.response_metadata.get(name) for name in _NAMED)
    return str(next(filter(None, told), UNKNOWN))[:LONGEST_NAME]


def _label(model: str) -> str:
    """The name as a metric's label: one of not too many, and no number of a customer's."""
    known = {labels["model"] for labels, _ in telemetry.counts("tokens")}
    is_told = model in known or (len(known) < MOST_MODELS and not _NUMBER.search(model))
    return model if is_told else "other"
