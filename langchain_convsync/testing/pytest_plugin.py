"""Fixtures for pytest, where a project names this module; nothing loads it by itself.

In the ``conftest.py`` at the root of your tests::

    pytest_plugins = ["langchain_convsync.testing.pytest_plugin"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pytest

from langchain_convsync.testing import FakeWAHA, ReferenceServer


@pytest.fixture
def convsync_server() -> Iterator[ReferenceServer]:
    """A reference server, empty, for one test; needs the ``server`` extra."""
    with ReferenceServer() as server:
        yield server


@pytest.fixture
def convsync_waha() -> Iterator[FakeWAHA]:
    """A WAHA that sends nothing, for one test."""
    with FakeWAHA() as waha:
        yield waha


@pytest.fixture(scope="session")
def convsync_replay() -> Iterator[Callable[..., None]]:
    """Plays cases to your bot, and fails where something is different.

    ::

        def test_the_talks_go_as_recorded(convsync_replay):
            convsync_replay("tests/talks", "my_bot:runner", words="contains", runs=3)

    Each bot is started once, in a process of its own; needs the ``server`` and ``cli`` extras.
    """
    workbench = import_module("langchain_convsync.workbench")  # which stands above this
    replays: dict[str, Any] = {}
    with ExitStack() as opened:

        def play(
            cases: str | Path,
            runner: str,
            *,
            words: Literal["none", "contains", "exact"] = "none",
            runs: int = 1,
        ) -> None:
            if runner not in replays:
                replays[runner] = opened.enter_context(workbench.Replay(runner))
            found = [case for case in workbench.cases_in([cases]) for _ in range(runs)]
            played = [replays[runner].play(case, words=words) for case in found]
            if different := [str(each) for each in played if not each.is_same]:
                pytest.fail("\n".join(different), pytrace=False)

        yield play
