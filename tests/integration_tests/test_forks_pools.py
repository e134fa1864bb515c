"""Pools of processes, as people deploy and spread work: each child's answers are its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery  # type: ignore[import-untyped]

import langchain_convsync
from langchain_convsync.testing import ReferenceServer
from tests.redis_server import RedisServer

pytestmark = [
    pytest.mark.slow,  # `test_forks.py` tells that a child gets its own answer
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
]

PHONES = [f"+5199999990{number}" for number in range(4)]
ASKED = PHONES * 4
EXPECTED = [f"tenant{number}" for number in range(len(PHONES))] * 4


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Of processes that know a server with four customers of four tenants."""
    root = str(Path(langchain_convsync.__file__).parents[1])
    with ReferenceServer() as server:
        for number, phone in enumerate(PHONES):
            server.create_conversation(phone_number=phone, subdomain=f"tenant{number}", bot_id="b")
        yield {**os.environ, "CONVSYNC_BASE_URL": server.base_url, "PYTHONPATH": root}


POOLS = {
    "fork": "multiprocessing.get_context('fork').Pool(8)",
    "forkserver": "preloading().Pool(8)",
    "spawn": "multiprocessing.get_context('spawn').Pool(2)",
    "executor": "concurrent.futures.ProcessPoolExecutor(8)",
    "executor of a forkserver": "concurrent.futures.ProcessPoolExecutor(8, preloading())",
}
SCRIPT = """
import concurrent.futures, multiprocessing, sys, warnings
from tests.forked_client import tenant

def preloading():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.forked_client"])
    return context

if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # a process with threads forks
    with POOL as pool:
        print(*pool.map(tenant, sys.argv[1:], chunksize=1))
"""


@pytest.mark.parametrize("pool", POOLS)
def test_children_of_a_pool_get_their_own_answer(
    pool: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """A module that has clients which were used while it was loaded."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("POOL", POOLS[pool]))
    done = subprocess.run(
        [sys.executable, str(script), *ASKED],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == EXPECTED, done.stderr


def test_workers_of_gunicorn_that_preloads_get_their_own_answer(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Four of them, asked sixteen times at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, bound = listener.getsockname()[1], listener.fileno()
        command = ["gunicorn", "--preload", "--workers", "4", "--bind", f"fd://{bound}"]
        command += ["--timeout", "0", "--no-control-socket", "tests.forked_client:application"]
        with _running(command, environment, tmp_path, pass_fds=[bound]):
            assert _at_once(lambda phone: _got(f"http://127.0.0.1:{port}/{phone}")) == EXPECTED


def _got(url: str) -> str:
    return httpx.get(url, timeout=120.0, trust_env=False).text


def test_workers_of_celery_get_their_own_answer(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Its own pool of processes, and a broker."""
    command = ["celery", "-A", "tests.forked_celery", "worker", "--pool", "prefork"]
    command += ["--concurrency", "4", "--without-gossip", "--without-mingle"]
    with RedisServer() as server:  # of its own: Celery leaves connections open
        celery: Any = Celery("asks", broker=server.url, backend=server.url)
        with _running(command, {**environment, "CELERY_BROKER": server.url}, tmp_path):
            sent = [celery.send_task("tenant", [phone]) for phone in ASKED]
            told = [each.get(timeout=120.0) for each in sent]
        celery.close()
    assert told == EXPECTED


def _at_once(ask: Any) -> list[str]:
    with ThreadPoolExecutor(len(ASKED)) as threads:
        return list(threads.map(ask, ASKED))


@contextmanager
def _running(
    command: list[str], environment: dict[str, str], folder: Path, **settings: Any
) -> Iterator[None]:
    log = folder / "log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment,
            cwd=folder,
            stdout=written,
            stderr=written,
            **settings,
        )
    try:
        yield
    except BaseException as error:
        error.add_note(log.read_text())
        raise
    finally:
        process.terminate()
        process.wait()
