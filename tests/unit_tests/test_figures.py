"""Times and sizes that the pages name are the constants of the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from langchain_convsync import ConvSyncClient, TurnRunner, _bodies, app, llm_extractor
from langchain_convsync import reply as said
from langchain_convsync._flow import Polling
from langchain_convsync.cli._doctor import store
from langchain_convsync.client import _breaker
from langchain_convsync.middleware import ConvSyncMiddleware, _once_results
from langchain_convsync.outbox import journal, queue, refused, reply
from langchain_convsync.server import answers, conversation, database, forwards
from langchain_convsync.stores.base import LONGEST_SNAPSHOT, REPLIES_KEPT, RETENTION
from langchain_convsync.stores.sqlite import events, file, opened, operators
from langchain_convsync.turns import (
    bounds,
    files,
    interrupts,
    lookout,
    media,
    note,
    reading,
    telling,
    worker,
)
from langchain_convsync.turns.turn import Status
from langchain_convsync.waha import bubbles
from langchain_convsync.workbench import pointing, world
from tests.pages import DOCS, page, rows

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
HOURS = HOUR.total_seconds()


def default(maker: Callable[..., Any], name: str) -> float:
    """What an argument is where it is not given."""
    given: float = inspect.signature(maker).parameters[name].default
    return given


#: Where a figure stands, in whose words, and what it is in the code.
FIGURES = [
    ("build/agents", r"The last (\d+) messages join", default(ConvSyncMiddleware, "history_limit")),
    ("build/agents", r"more than (\d+) KiB", _once_results.LARGEST_RESULT / 1024),
    ("build/agents", r"results are kept for (an hour)", REPLIES_KEPT / HOURS),
    ("build/chatopenai", r"(\d+) seconds if you say nothing", default(llm_extractor, "timeout")),
    ("build/incoming", r"at most ([\d,]+) characters\. A turn", bounds.LONGEST_TEXT),
    ("build/incoming", r"at most ([\d,]+) events", bounds.MOST_EVENTS),
    ("build/incoming", r"events and ([\d,]+) characters", bounds.MOST_CHARACTERS),
    ("build/incoming", r"the bot's own last (\d+) messages", reply.QUOTABLE),
    ("build/incoming", r"conversation to them for (an hour)", app.TAKEOVER / HOURS),
    ("build/incoming", r"create_app\(takeover=([\d.]+)\)", app.TAKEOVER),
    ("build/incoming", r"come within (ten) seconds of", note.PROMPT),
    ("build/incoming", r"after (an hour) of silence", note.BEGINS_ANEW / HOURS),
    ("build/incoming", r"more than (a day) ago", default(TurnRunner, "max_age") / HOURS),
    ("build/incoming", r"more than (ten) minutes old", telling.LATE / MINUTE),
    (
        "build/incoming",
        r"`max_turns_per_minute=(\d+)`",
        default(TurnRunner, "max_turns_per_minute"),
    ),
    ("build/interrupts", r"A question is kept for (a day)", interrupts.QUESTION_LIFE / HOURS),
    ("start/workbench", r"goes on (three) seconds later", pointing.LEASE),
    ("start/workbench", r"for (five) seconds nothing", world.STORE_AWAY),
    ("build/media", r"the first ([\d,]+) characters", files.LONGEST_DOCUMENT),
    ("build/media", r"of a turn may take (\d+) seconds", media.TRANSCRIPTION_TIME),
    ("build/media", r"unpacked \| (\d+) MiB", files.LARGEST_FILE / 1024**2),
    ("build/media", r"MiB, (\d+) seconds \| \| the files", media.FILE_TIME),
    ("build/media", r"of one turn \| (\d+) MiB", files.LARGEST_TURN / 1024**2),
    ("build/media", r"of one turn \| \d+ MiB, (\d+) seconds", media.TURN_TIME),
    ("build/memory", r"delivered for (two) seconds", journal.INLINE),
    ("build/memory", r"expire after (\d+) hours", conversation.LIFETIME / HOUR),
    ("build/once", r"stored result, for (an hour)", REPLIES_KEPT / HOURS),
    ("build/replies", r"into (ten) messages at most", bubbles.MOST_BUBBLES),
    ("build/replies", r"at most (\d+) MiB of them", said.LARGEST_FILE / 1024 / 1024),
    ("build/replies", r"up to (three) seconds, or up to", reply.LONGEST_PAUSE),
    ("build/replies", r"waited for (three) hours", refused.EXPIRES / HOURS),
    ("run/architecture", r"up to (\d+) seconds apart", queue.LAST_DELAY),
    ("run/deploy", r"within its (ten) seconds", default(ConvSyncClient, "timeout")),
    ("run/deploy", r"`agent_timeout=` and (ten) seconds more", reading.READ_TIME),
    ("run/scale", r"did not\s+hear every (two) seconds", lookout.PERIOD),
    ("run/scale", r"(four) times a second where", 1 / Polling.LAST),
    ("run/scale", r"is remembered for (a week)\*\*, in", RETENTION / HOURS),
    ("run/scale", r"its words go after (an hour)", REPLIES_KEPT / HOURS),
    ("run/security", r"at most (\d+) MiB", _bodies.LARGEST / 1024**2),
    ("run/security", r"a reply's go after (an hour)", REPLIES_KEPT / HOURS),
    ("run/security", r"a snapshot's after (a day)", LONGEST_SNAPSHOT / HOURS),
    ("run/trouble", r"503: (\d+) bodies are being read", _bodies.AT_ONCE),
    ("run/trouble", r"expired, (\d+) hours after", conversation.LIFETIME / HOUR),
    (
        "run/trouble",
        r"`conversation_timeout=` \((\d+) minutes\)",
        default(TurnRunner, "conversation_timeout") / 60,
    ),
    ("run/trouble", r"older than (three) hours", refused.EXPIRES / HOURS),
    ("start/api-server", r"For (\d+) hours, restarts included", answers.KEPT / HOUR),
    ("start/api-server", r"sent again for (a day)", forwards.KEPT / HOUR),
    ("run/monitor", r"looked up by a block every (\d+) seconds", worker.LOOK_PERIOD),
    ("run/trouble", r"constraint of a file for (\d+) seconds", store.LONGEST_CHECK),
    ("run/trouble", r"Others wait (\d+) seconds for it", file.BUSY),
    ("start/api-server", r"it is kept for (a week)", forwards.REFUSED_KEPT / HOUR),
    ("start/api-server", r"waits longer than (three) seconds", database.PATIENCE),
    ("start/machine", r"keeps it alive for (\d+) hours", conversation.LIFETIME / HOUR),
    ("trust/faults", r"asked again for (\d+) seconds", reading.NOT_FOUND_TIME),
    ("trust/faults", r"now and then (\d+) s more", reading.SPARE_READ_TIME),
    ("trust/faults", r"waits (\d+) s, then fails", file.BUSY),
    ("trust/faults", r"the stored reply for (an hour)", REPLIES_KEPT / HOURS),
    ("trust/performance", r"more than (\d+) MiB is not looked over", opened.LARGEST / 1024**2),
    ("trust/performance", r"SQLite keeps (\d+) MB of a large file", file.CACHE / 1000),
    ("trust/performance", r"at most (\d+) of each kind in a step", events.SWEEP),
    ("trust/performance", r"finished event, ([\d,]+) at a time", operators.LOOKED_THROUGH),
    ("trust/promises", r"more than (\d+) seconds ahead", reply.SKEW),
    ("trust/promises", r"a reply by up to (\d+) seconds", reading.SPARE_READ_TIME),
    ("trust/promises", r"After (three) such turns", _breaker.FAILURES_TO_OPEN),
    ("trust/promises", r"for (\d+) s at most", journal.INLINE),
    ("trust/promises", r"keeps a reply for (an hour)", REPLIES_KEPT / HOURS),
    ("trust/promises", r"left it for (a day) at most", LONGEST_SNAPSHOT / HOURS),
]
WORDS = {
    "an hour": 1.0,
    "two": 2.0,
    "three": 3.0,
    "four": 4.0,
    "five": 5.0,
    "ten": 10.0,
    "a day": 24.0,
    "a week": 168.0,
}
#: Figures of others, and what their own arguments say.
OTHERS = re.compile(
    r"WAHA(?:'s own| repeats,) 15 times every 2 seconds"
    r"|`retries`(?: \|| for) an hour"
    r"|as `Retry-After` says, up to two minutes"
    r"|`timeout=`, whose default is ten minutes"
    r"|`debounce=2\.0` waits until no message came for two seconds"
    r"|`typing=3\.0` shows the bot typing for up to three seconds"
    r"|(?:can lose|loses up to) two seconds"
    r"|500 messages at once"
    r"|at most 400 bytes of Redis"
    r"|deletes what it downloaded after 180 seconds"
    r"|`86400` for a day"
    r"|`answer_cap = 20` shows the newest 20 messages"
    r"|a worker is at them for 12 s"
    r"|`WAHAReply\(pace=20\)` sends at most 20 messages"
)
UNITS = "seconds?|minutes?|hours?|days?|weeks?|s|ms|characters|bytes|[KM]iB|events|bodies|messages"
NUMBERS = r"[\d,.]*\d|two|three|four|five|ten|fifteen|thirty"
#: A time or a size, wherever a page tells one.
COUNTED = re.compile(rf"\b(?:(?:{NUMBERS}) (?:{UNITS})|(?:for|after) (?:an hour|a day|a week))\b")
#: Pages that users read before they decide; the others are made from the code, or measured.
TOLD = [
    path
    for folder in ("start", "build", "run", "trust")
    for path in sorted((DOCS / folder).glob("*.md"))
    if path.stem not in {"guards", "performance", "proofs"}
]


def words_of(name: str) -> str:
    """A page as one line, without its blocks."""
    text = re.sub(r"^```.*?^```$", "", page(name), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(("name", "words", "constant"), FIGURES)
def test_a_figure_is_what_the_code_has(name: str, words: str, constant: float) -> None:
    """Who changes the code changes the page."""
    [told] = re.findall(words, words_of(name))

    assert (WORDS[told] if told in WORDS else float(told.replace(",", ""))) == constant


@pytest.mark.parametrize("path", TOLD, ids=lambda path: path.stem)
def test_every_figure_on_a_page_is_held_against_the_code(path: Path) -> None:
    """A new one has its line above."""
    name = path.relative_to(DOCS).with_suffix("").as_posix()
    text = words_of(name)
    held = [re.compile(words) for page, words, _ in FIGURES if page == name]
    spans = [found.span() for each in (OTHERS, *held) for found in each.finditer(text)]

    assert [
        text[max(0, found.start() - 40) : found.end() + 20]
        for found in COUNTED.finditer(text)
        if not any(start < found.end() and found.start() < end for start, end in spans)
    ] == []


def test_every_status_of_a_turn_is_explained() -> None:
    """And no other; a caller looks up there what to do."""
    told = [row[0].strip("`") for row in rows(page("build/turns")) if len(row) == 3]

    assert sorted(told) == sorted(get_args(Status))
