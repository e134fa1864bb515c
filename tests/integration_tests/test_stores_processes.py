"""Several processes on one store: each piece of work is one's own, a killed one loses nothing."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from langchain_convsync.stores import Backlog, open_store
from tests.redis_server import RedisServer
from tests.store_cases import event

pytest_plugins = ("tests.store_fixtures",)

#: Takes turns until there are none left, commits them, and prints what it answered.
WORKER = """
import sys
from langchain_convsync.stores import Commit, open_store

store = open_store(sys.argv[1])
store.keys().block()
print("ready", flush=True)
sys.stdin.readline()
number = 0
while acquired := store.acquire("inbox", f"{sys.argv[2]} {(number := number + 1)}").block():
    event_keys = [event.event_key for event in acquired.events]
    commit = Commit(event_keys=event_keys, outcomes={})
    assert store.commit_turn(acquired.lease, commit).block() == "done"
    print(*event_keys, flush=True)
store.close()
"""
#: Accepts events for ever, and prints each one that was acknowledged.
RECEIVER = """
import sys
from langchain_convsync.stores import Keys, NewEvent, open_store

store, keys, number = open_store(sys.argv[1]), Keys(b"key"), 0
while True:
    number += 1
    event_key = keys.event("ventas", "", "message", f"{sys.argv[2]} {number}")
    conversation_key = keys.conversation("ventas", str(number % 5))
    event = NewEvent(event_key=event_key, conversation_key=conversation_key, payload="x" * 500)
    store.accept(event).block()
    print(event_key, flush=True)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own that runs this code."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(params=["file", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that several processes can reach."""
    if request.param == "file":
        return str(tmp_path / "store.db")
    server: RedisServer = request.getfixturevalue("server")
    return server.url


def test_two_processes_share_the_work_and_never_take_the_same(url: str) -> None:
    """Every event is answered by one of them."""
    workers = [start(WORKER, url, name) for name in ("a", "b")]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    store = open_store(url)
    event_keys = [event(str(n), customer=str(n)).event_key for n in range(150)]
    for n in range(150):
        store.accept(event(str(n), customer=str(n))).block()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    answered = [worker.communicate(timeout=60)[0].split() for worker in workers]
    left = store.backlog().block()
    store.close()

    assert left == Backlog()
    assert Counter(answered[0] + answered[1]) == Counter(event_keys)


def test_a_new_file_is_opened_by_several_processes_at_once(tmp_path: Path) -> None:
    """Whoever comes first creates it, and all see one store."""
    path = str(tmp_path / "new.db")
    workers = [start(WORKER, path, str(n)) for n in range(3)]
    outputs = [worker.communicate("\n", timeout=60)[0] for worker in workers]

    assert outputs == ["ready\n"] * 3
    assert [worker.returncode for worker in workers] == [0, 0, 0]


def test_what_a_killed_process_acknowledged_is_kept(url: str) -> None:
    """By kill -9, at any moment, several times: the store stays usable and whole."""
    acknowledged: list[str] = []
    for round_ in range(3):
        receiver = start(RECEIVER, url, str(round_))
        assert receiver.stdout is not None
        acknowledged += [receiver.stdout.readline().strip() for _ in range(50 + 37 * round_)]
        receiver.kill()
        acknowledged += receiver.stdout.read().split("\n")[:-1]
        receiver.communicate()
    store = open_store(url)
    found = []
    for n in range(5):
        acquired = store.acquire("inbox", str(n)).block()
        assert acquired is not None
        found += [queued.event_key for queued in acquired.events]
    store.close()

    assert set(acknowledged) <= set(found)
    assert len(set(found)) == len(found) <= len(acknowledged) + 3
