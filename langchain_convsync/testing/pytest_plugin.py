"""Fixtures for pytest, where a project names this module; nothing loads it by itself.

In the ``conftest.py`` at the root of your tests::

    pytest_plugins = ["langchain_convsync.testing.pytest_plugin"]
"""

from __future__ import annotations

from collections.abc import Iterator

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
