"""What an API server has recorded of the customer by itself, as its history tells. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from langchain_convsync.models import ConversationMessage, Words


def unanswered(history: Sequence[Words]) -> Counter[str]:
    """What the customer said since the last answer, as the history tells it, and how often."""
    last = itertools.takewhile(lambda words: words.role == "user", reversed(history))
    return Counter(words.content for words in last)


def unrecorded(
    messages: Iterable[ConversationMessage], recorded: Iterable[str]
) -> list[ConversationMessage]:
    """Messages without those of the customer's that stand recorded, each as often as it does."""
    left, kept = Counter(recorded), []
    for message in messages:
        if message.role == "user" and left[message.content]:
            left[message.content] -= 1
        else:
            kept.append(message)
    return kept


def unanswered_left_out(
    history: Sequence[ConversationMessage], words: Iterable[str]
) -> list[ConversationMessage]:
    """A history without these words at its end, which the server has recorded itself."""
    left, own = list(history), list(words)
    while left and left[-1].role == "user" and left[-1].content in own:
        own.remove(left.pop().content)
    return left
