"""Times and sizes that the pages name are the constants of the code."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import get_args

import pytest

from langchain_convsync import _bodies, app
from langchain_convsync.client import _breaker
from langchain_convsync.outbox import journal, queue
from langchain_convsync.server import answers, conversation, forwards
from langchain_convsync.stores.base import keys
from langchain_convsync.stores.sqlite import file
from langchain_convsync.turns import bounds, reading
from langchain_convsync.turns.turn import Status
from tests.pages import page, rows

HOURS = timedelta(hours=1)

#: Where a figure stands, in whose words, and what it is in the code.
FIGURES = [
    ("build/incoming", r"at most ([\d,]+) characters\. A turn", bounds.LONGEST_TEXT),
    ("build/incoming", r"at most ([\d,]+) events", bounds.MOST_EVENTS),
    ("build/incoming", r"events and ([\d,]+) characters", bounds.MOST_CHARACTERS),
    ("build/incoming", r"create_app\(takeover=([\d.]+)\)", app.TAKEOVER),
    ("build/memory", r"delivered for (two) seconds", journal.INLINE),
    ("run/architecture", r"up to (\d+) seconds apart", queue.LAST_DELAY),
    ("run/deploy", r"`agent_timeout=` and (ten) seconds more", reading.READ_TIME),
    ("run/scale", r"each of its (\d+) shards", keys.SHARDS),
    ("run/security", r"at most (\d+) MiB", _bodies.LARGEST / 1024**2),
    ("run/trouble", r"503: (\d+) bodies are being read", _bodies.AT_ONCE),
    ("run/trouble", r"expired, (\d+) hours after", conversation.LIFETIME / HOURS),
    ("start/api-server", r"For (\d+) hours, restarts included", answers.KEPT / HOURS),
    ("start/api-server", r"sent again for (a day)", forwards.KEPT / HOURS),
    ("start/machine", r"keeps it alive for (\d+) hours", conversation.LIFETIME / HOURS),
    ("trust/faults", r"waits (\d+) s, then fails", file.BUSY),
    ("trust/promises", r"a reply by up to (\d+) seconds", reading.SPARE_READ_TIME),
    ("trust/promises", r"After (three) such turns", _breaker.FAILURES_TO_OPEN),
]
WORDS = {"two": 2.0, "three": 3.0, "ten": 10.0, "a day": 24.0}


@pytest.mark.parametrize(("name", "words", "constant"), FIGURES)
def test_a_figure_is_what_the_code_has(name: str, words: str, constant: float) -> None:
    """Who changes the code changes the page."""
    [told] = re.findall(words, re.sub(r"\s+", " ", page(name)))

    assert (WORDS[told] if told in WORDS else float(told.replace(",", ""))) == constant


def test_every_status_of_a_turn_is_explained() -> None:
    """And no other; a caller looks up there what to do."""
    told = [row[0].strip("`") for row in rows(page("build/turns")) if len(row) == 3]

    assert sorted(told) == sorted(get_args(Status))
