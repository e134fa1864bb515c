"""A process that has a store's file open and does what it is told; run it as a module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from langchain_convsync._flow import run
from langchain_convsync.dedup import once
from langchain_convsync.errors import ConvSyncError
from langchain_convsync.stores import EventStore, SQLiteEventStore


class StoreProcess:
    """Another process on a file."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.store_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # its log
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate(timeout=60.0)

    def open(self, path: Path) -> str:
        """Begin with a file, and close the one before."""
        return self._told(f"open {path}")

    def claim(self, event_id: str) -> str:
        """What the process is told that wants to do something once."""
        return self._told(f"claim {event_id}")

    def queued(self) -> str:
        """How many events wait; of an error, its class."""
        return self._told("queued")

    def kill(self) -> None:
        """As a power cut would."""
        self._process.kill()
        self._process.wait()

    def _told(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        return self._process.stdout.readline().strip()


def claimed(store: EventStore, event_id: str) -> str:
    """What a process is told that wants to do something once."""
    with once(store, event_id) as claim:
        return claim.status.value


def _performed(store: EventStore, command: str, what: str) -> str:
    try:
        return claimed(store, what) if command == "claim" else str(run(store.backlog()).queued)
    except ConvSyncError as error:
        return type(error).__name__


def _serve() -> None:
    store = SQLiteEventStore(":memory:")
    for line in sys.stdin:
        command, _, what = line.strip().partition(" ")
        if command == "open":
            store.close()
            store = SQLiteEventStore(what)
        print(_performed(store, command, what), flush=True)
    store.close()


if __name__ == "__main__":
    _serve()
