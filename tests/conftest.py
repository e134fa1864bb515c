"""What every test stands on: no outside configuration, no tracing, no clock-bound failures."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

#: A developer's own keys, endpoints and proxies must never reach a test.
FOREIGN = ("CONVSYNC_", "OPENAI_", "LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_", "OTEL_")
PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}


def pytest_configure(config: pytest.Config) -> None:
    """Clean the environment before any module under test, fixture or subprocess reads it."""
    del config
    for name in list(os.environ):
        if name.upper().startswith(FOREIGN) or name.upper() in PROXIES:
            del os.environ[name]
    os.environ["LANGSMITH_TRACING"] = "false"

    # A busy machine is no failure: no deadlines. The rest is Hypothesis's choice (CI: fixed seeds).
    chosen = settings.get_profile(settings.get_current_profile_name())
    settings.register_profile("patient", chosen, deadline=None)
    settings.load_profile("patient")


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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones come first, so that in the end no worker waits for one that got such a test."""
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
