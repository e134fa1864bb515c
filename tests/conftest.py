"""What every test stands on: no outside configuration, no tracing, no clock-bound failures."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import settings

#: A developer's own keys, endpoints and proxies must never reach a test.
FOREIGN = ("CONVSYNC_", "OPENAI_", "LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_", "OTEL_")
PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
INTEGRATION = Path(__file__).parent / "integration_tests"
#: Linux keeps files in memory there, and how many bytes must be free.
IN_MEMORY, ROOM = Path("/dev/shm"), 3 * 2**30


def pytest_configure(config: pytest.Config) -> None:
    """Clean the environment before any module under test, fixture or subprocess reads it."""
    del config
    for name in list(os.environ):
        if name.upper().startswith(FOREIGN) or name.upper() in PROXIES:
            del os.environ[name]
    os.environ["LANGSMITH_TRACING"] = "false"
    if _has_room_for_files():
        tempfile.tempdir = os.environ["TMPDIR"] = str(IN_MEMORY)

    # A busy machine is no failure: no deadlines. The rest is Hypothesis's choice (CI: fixed seeds).
    chosen = settings.get_profile(settings.get_current_profile_name())
    settings.register_profile("patient", chosen, deadline=None)
    settings.load_profile("patient")


def _has_room_for_files() -> bool:
    """Whether stores need not wait for a disk at each commit; a kill loses no file either way."""
    if "TMPDIR" in os.environ or not (IN_MEMORY.is_dir() and os.access(IN_MEMORY, os.W_OK)):
        return False
    runs_programs = not os.statvfs(IN_MEMORY).f_flag & os.ST_NOEXEC
    return runs_programs and shutil.disk_usage(IN_MEMORY).free > ROOM


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """To look for garbage among thousands of tests, which stay, takes as long as to read them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)  # a tenth of the time otherwise


#: (which parameter, the id of its value)
Value: TypeAlias = tuple[int, str]


def _seen(shown: Counter[Value], values: list[Value]) -> tuple[int, int]:
    """How many of these values were shown, and how often."""
    times = [shown[value] for value in values]
    return sum(map(bool, times)), sum(times)


def take_turns(items: list[pytest.Item]) -> None:
    """Leave to `make test` as many cases as it takes to see every value of every parameter.

    Of integration tests, and of what is ``in_turn`` besides: `make test-all` runs all combinations.
    """
    tests = defaultdict[object, list[tuple[list[Value], pytest.Item]]](list)
    for item in items:
        takes_turns = item.path.is_relative_to(INTEGRATION) or item.get_closest_marker("in_turn")
        if takes_turns and not item.get_closest_marker("slow"):
            assert isinstance(item, pytest.Function)
            if hasattr(item, "callspec"):
                values = [*enumerate(item.callspec._idlist)]
                tests[item.parent, item.originalname].append((values, item))
    for cases in tests.values():
        cases.sort(key=lambda case: case[0])  # in any order, the same ones
        left, shown = [item for _, item in cases], Counter[Value]()
        while not all(shown[value] for values, _ in cases for value in values):
            values, item = min(cases, key=lambda case: _seen(shown, case[0]))
            shown.update(values)
            left.remove(item)
        for item in left:
            item.add_marker(pytest.mark.slow)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones come first, so that in the end no worker waits for one that got such a test."""
    take_turns(items)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command that begins its logs in this process does so for one test."""
    loggers = logging.getLogger(), logging.getLogger("langchain_convsync")
    before = [([*each.handlers], each.level) for each in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers = [each for each in logger.handlers if each in handlers]
        logger.setLevel(level)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again soon: by stores, by the client, by the queues."""
    for name, soon in {
        "stores.redis.clients.RETRIES": (0.0, 0.0),
        "client._retry.FIRST_PAUSE": 0.0,
        "outbox.queue.FIRST_DELAY": 0.01,
        "turns.process.RETRY_LATER": 0.05,
    }.items():
        monkeypatch.setattr(f"langchain_convsync.{name}", soon)
