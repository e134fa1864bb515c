"""Lines about conversations: a key to find them by, and no cause a thousand times."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from langchain_convsync import telemetry
from langchain_convsync.errors import APITimeoutError, ServerError, StoreUnavailableError
from langchain_convsync.telemetry import _log
from langchain_convsync.telemetry._log import SILENCE, Causes

logger = logging.getLogger("langchain_convsync.test")
KEY = "12.0123456789ab.0123456789abcdef0123456789abcdef"


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of a process that has logged nothing yet."""
    clock = Clock()
    monkeypatch.setattr(_log, "_causes", Causes(clock))
    return clock


def waits(error: Exception, key: str | None = KEY, message: str = "it waits: %s") -> None:
    """A line that is logged again and again."""
    telemetry.log(logger, logging.WARNING, key, message, error, repeats=True)


def test_a_line_begins_with_the_conversation(caplog: pytest.LogCaptureFixture) -> None:
    """Its place is that of who logs it."""
    telemetry.log(logger, logging.ERROR, KEY, "event %s is a dead letter", "e1")

    (record,) = caplog.records
    assert record.getMessage() == f"Conversation {KEY}: event e1 is a dead letter"
    assert (record.levelname, record.filename) == ("ERROR", "test_log.py")


def test_a_line_about_none_is_a_sentence_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """As outside of turns, where no store knows a conversation."""
    telemetry.log(logger, logging.WARNING, None, "the inbox waits")

    assert caplog.messages == ["The inbox waits"]


def test_a_cause_is_logged_once_a_minute_with_how_often_it_was_met(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """An API server that is away for an hour is no thousand lines."""
    for clock.now in range(0, 121, 3):
        waits(APITimeoutError("no answer in time"))

    told = "it waits: APITimeoutError: no answer in time"
    assert caplog.messages == [
        f"Conversation {KEY}: {told}",
        f"Conversation {KEY}: {told} (met 19 times more since this was logged last)",
        f"Conversation {KEY}: {told} (met 19 times more since this was logged last)",
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda: waits(ServerError("the API server failed", status_code=503)),
        lambda: waits(APITimeoutError("the connection broke")),
        lambda: waits(APITimeoutError("no answer in time", status_code=504)),
        lambda: waits(APITimeoutError("no answer in time"), "12.0123456789ab.f"),
        lambda: waits(APITimeoutError("no answer in time"), message="its writes wait: %s"),
    ],
)
def test_another_cause_is_logged_at_once(
    clock: Clock, caplog: pytest.LogCaptureFixture, change: Any
) -> None:
    """As the same cause for another conversation."""
    waits(APITimeoutError("no answer in time"))
    waits(APITimeoutError("no answer in time"))

    change()

    assert len(caplog.messages) == 2
    assert "met" not in caplog.messages[-1]


def test_causes_that_differ_in_numbers_only_are_the_same(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each request has an id of its own, and waits for other seconds."""
    for number, request in enumerate(("a81", "bc2", "9ff")):
        waits(ServerError(f"wait for {number}.5 s", status_code=503, request_id=request))

    assert len(caplog.messages) == 1


def test_two_causes_that_take_turns_are_two_lines_a_minute(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that now refuses and now does not answer."""
    for _ in range(9):
        waits(ServerError("failed", status_code=500))
        waits(StoreUnavailableError("away"))

    assert len(caplog.messages) == 2


def test_a_level_that_nobody_reads_silences_nothing(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """What was not logged was not said."""
    caplog.set_level(logging.ERROR, logger=logger.name)
    waits(APITimeoutError("no answer in time"))
    caplog.set_level(logging.WARNING, logger=logger.name)
    waits(APITimeoutError("no answer in time"))

    assert len(caplog.messages) == 1


def test_only_so_many_causes_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is bounded, whatever number of conversations wait."""
    monkeypatch.setattr(_log, "REMEMBERED", 2)
    causes = Causes(Clock())

    assert [causes.met(each) for each in ("a", "b", "a", "c", "a", "b")] == [0, 0, None, 0, None, 0]


def test_what_was_met_is_counted_from_the_line_on() -> None:
    """Not from the beginning of all."""
    clock = Clock()
    causes = Causes(clock)
    met = []
    for clock.now in (0.0, 1.0, 2.0, SILENCE, SILENCE + 1.0, 2 * SILENCE):
        met.append(causes.met("a"))

    assert met == [0, None, None, 2, None, 1]


@pytest.mark.parametrize(
    ("with_text", "has_text", "is_told_how"), [(None, 0, 0), (False, 0, 1), (True, 1, 0)]
)
def test_texts_are_logged_where_that_was_asked_for(
    caplog: pytest.LogCaptureFixture, with_text: bool | None, has_text: int, is_told_how: int
) -> None:
    """Where it was not, the line says how to ask."""
    try:
        raise ValueError("quiero pizza")  # noqa: TRY301 - as users write it
    except ValueError as error:
        telemetry.log(logger, logging.WARNING, KEY, "it failed: %s", error, with_text=with_text)

    assert caplog.text.count("ValueError: quiero pizza") == has_text
    assert caplog.text.count("TurnRunner(log_errors=True)") == is_told_how


def test_how_to_get_a_text_is_not_told_of_errors_that_say_themselves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """There is nothing more to read."""
    telemetry.log(
        logger,
        logging.WARNING,
        KEY,
        "it failed: %s",
        StoreUnavailableError("away"),
        with_text=False,
    )

    assert "log_errors" not in caplog.text
