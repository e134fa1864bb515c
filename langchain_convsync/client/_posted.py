"""Whether a server keeps what is posted: some answer 200, repeat the message, and forget it."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import NamedTuple

from langchain_convsync import _forks, telemetry
from langchain_convsync.models import Conversation

logger = logging.getLogger(__name__)

#: Sessions whose last message is remembered.
_REMEMBERED = 1_000
_FORGOTTEN = (
    "the API server took a message, and a history read afterwards does not hold it: if it forgets "
    'what is posted, it needs ServerProfile(history="sync"), or the bot forgets what was said '
    "(convsync doctor --phone PHONE --write, with a test customer, finds out)"
)


class _Message(NamedTuple):
    number: int
    words: str


class Posted:
    """The last message of each session that the server has taken."""

    def __init__(self) -> None:
        self._lock = _forks.lock()
        self._last: OrderedDict[str, _Message] = OrderedDict()
        self.number = 0

    def note(self, session_id: str, content: str) -> None:
        """The server took a message."""
        with self._lock:
            self.number += 1
            self._last[session_id] = _Message(self.number, _alike(content))
            self._last.move_to_end(session_id)
            while len(self._last) > _REMEMBERED:
                self._last.popitem(last=False)

    def miss(self, read: Conversation, since: int) -> None:
        """Say so where a conversation does not hold it that was asked for after it was taken.

        Args:
            read: The conversation.
            since: :attr:`number` when it was asked for.
        """
        with self._lock:
            last = self._last.get(read.session_id)
            if last is None or last.number > since:
                return
            del self._last[read.session_id]  # told once, and read once
        if any(_alike(words.content) == last.words for words in reversed(read.said)):
            return
        telemetry.count("messages_forgotten")
        telemetry.log(logger, logging.WARNING, None, _FORGOTTEN, repeats=True)


def _alike(content: str) -> str:
    return " ".join(content.split())  # servers trim
