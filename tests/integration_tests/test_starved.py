"""A process or a store that lacks something: nothing is lost, and nobody is to blame for it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync import ConvSyncClient, telemetry
from langchain_convsync._flow import run
from langchain_convsync.errors import StoreUnavailableError
from langchain_convsync.stores import EventStore, RedisEventStore, SQLiteEventStore, heartbeat
from langchain_convsync.stores.sqlite import file
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner, process, worker
from tests import promises
from tests.promises import CUSTOMER, Answer, echo, on_sqlite, reply_to, said, sync_and_async
from tests.redis_server import RedisServer
from tests.store_cases import event

server = promises.server
#: Seconds after which a process that hangs is given up.
PATIENCE = 60.0
pytestmark = pytest.mark.usefixtures("no_pause")


def of_a_model() -> Exception:
    """As OpenAI's client tells that no socket could be opened."""
    unsent = httpx.ConnectError("")
    unsent.__cause__ = OSError(errno.EMFILE, "Too many open files")
    told = ConnectionError("Connection error.")
    told.__cause__ = unsent
    return told


@sync_and_async
@pytest.mark.parametrize(
    "error",
    [
        of_a_model,
        MemoryError,
        lambda: RuntimeError("can't start new thread"),
        lambda: OSError(errno.ENOSPC, "No space left on device"),
        lambda: ExceptionGroup("of tasks", [OSError(errno.ENOMEM, "no memory")]),
    ],
)
def test_what_the_machine_lacks_is_no_failure_of_the_agent(
    error: Callable[[], Exception],
    answer: Answer,
    server: ReferenceServer,
    event_store: EventStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is run again for as long as that lasts, and the customer gets one answer, the agent's."""
    monkeypatch.setattr(process, "LONGEST_WANT", 0.05)
    failing = [error() for _ in range(4)]

    def agent(messages: list[BaseMessage]) -> AIMessage:
        if failing:
            raise failing.pop()
        return reply_to(messages)

    blamed, met = telemetry.counted("agent_failures"), telemetry.counted("machine_shortages")
    runner = TurnRunner(
        RunnableLambda(agent),
        client=server.client(),
        store=event_store,
        max_errors=1,
        max_starts=1,
        fallback_reply="Lo siento",
    )
    turn = answer(runner, said("Hola"))

    assert (turn.status, turn.reply) == ("answered", "re: Hola")
    assert [m.content for m in server.conversation(CUSTOMER).messages] == ["Hola", "re: Hola"]
    assert telemetry.counted("agent_failures") == blamed
    assert telemetry.counted("machine_shortages") == met + 4


@sync_and_async
def test_an_api_server_that_our_machine_cannot_ask_ends_no_event(
    answer: Answer, server: ReferenceServer, event_store: EventStore
) -> None:
    """However long that lasts: the server did not fail, so neither limit nor circuit is for it."""
    refused = [OSError(errno.EMFILE, "Too many open files") for _ in range(12)]

    class Transport(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if refused:
                raise httpx.ConnectError("") from refused.pop()
            return super().handle_request(request)

    opened, told = telemetry.counted("circuits_opened"), ""
    with httpx.Client(transport=Transport()) as lent:
        runner = TurnRunner(
            echo(),
            client=ConvSyncClient(server.base_url, http_client=lent),
            store=event_store,
            conversation_timeout=0.0,
            fallback_reply="Lo siento",
        )
        while (turn := answer(runner, said("Hola"))).status == "queued":
            told = str(turn.error)

    assert (turn.status, turn.reply) == ("answered", "re: Hola")
    assert "ulimit -n" in told
    assert telemetry.counted("circuits_opened") == opened


#: Answers an event, then another one while hardly a descriptor is left, until it was told often.
HUNGRY = """
import asyncio, os, resource, socket, sys, threading, time
import httpx
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_convsync import ConvSyncClient, InboundEvent, TurnRunner, telemetry
from langchain_convsync._machine import lacking
from langchain_convsync.client import _wires
from langchain_convsync.stores import open_store
from langchain_convsync.turns import process

base_url, store_url, transport, colour = sys.argv[1:]
process.RETRY_LATER = process.LONGEST_WANT = 0.05
_wires.KEEP_ALIVE = 0.0  # each request needs a socket of its own

def agent(messages):
    httpx.get(base_url, trust_env=False)
    return AIMessage("re: " + messages[-1].content)

async def awaited(messages):
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.get(base_url)
    return AIMessage("re: " + messages[-1].content)

runner = TurnRunner(
    RunnableLambda(agent, afunc=awaited),
    client=ConvSyncClient(base_url, transport=transport),
    store=open_store(store_url),
    max_errors=1,
    max_starts=1,
    fallback_reply="Lo siento",
)
loop = asyncio.new_event_loop()

def answered(text):
    event = InboundEvent(event_id=text, phone_number="+51999999999", text=text)
    if colour == "sync":
        return runner.run(event)
    return loop.run_until_complete(runner.arun(event))

assert answered("uno").status == "answered"
held = []
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 9, 4096))
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
try:
    socket.getaddrinfo("bot.example", 80)
except OSError as error:
    print("a name without a descriptor:", lacking(error), flush=True)

def feed():
    while telemetry.counted("machine_shortages", what="descriptors") < 4:
        time.sleep(0.01)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    for each in held:
        os.close(each)

threading.Thread(target=feed, daemon=True).start()
while (turn := answered("dos")).status == "queued":
    time.sleep(0.05)
print(turn.status, turn.reply, telemetry.counted("agent_failures"), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limits")
@on_sqlite
@pytest.mark.parametrize(
    ("colour", "transport"), [("sync", "httpx"), ("async", "httpx"), ("async", "aiohttp")]
)
def test_a_process_without_descriptors_answers_once_it_has_some(
    colour: str, transport: str, server: ReferenceServer, durable_store_url: str
) -> None:
    """Whether our own sockets or the agent's cannot be opened, the event waits."""
    arguments = [server.base_url, durable_store_url, transport, colour]
    done = subprocess.run(
        [sys.executable, "-c", HUNGRY, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )

    assert done.stdout.splitlines() == [
        "a name without a descriptor: descriptors",
        "answered re: dos 0",
    ], done.stderr
    assert "ulimit -n" in done.stderr
    kept = [message.content for message in server.conversation(CUSTOMER).messages]
    assert kept == ["uno", "re: uno", "dos", "re: dos"]


#: An app whose files may not grow for a while: SQLite cannot write, as on a full disk.
FULL = """
import os, resource, sys, time
from starlette.testclient import TestClient
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_convsync import ConvSyncClient, SQLiteEventStore, TurnRunner, create_app
from langchain_convsync.turns import process, worker

base_url, path = sys.argv[1:]
worker.STORE_PAUSE = worker.SHORT_FOR = 0.05
sent = []
runner = TurnRunner(
    RunnableLambda(lambda messages: AIMessage("re: " + messages[-1].content)),
    client=ConvSyncClient(base_url),
    store=SQLiteEventStore(path),
    on_reply=lambda turn: sent.append(turn.reply),
)

def delivered(client, number):
    body = {"event_id": f"evt_{number}", "phone_number": "+51999999999", "message": "x" * 9000}
    return client.post("/webhook", json=body)

with TestClient(create_app(runner, waha_secrets=[])) as client:
    assert delivered(client, 0).status_code == 200
    while not sent:
        time.sleep(0.01)
    worker.SHORT_FOR = 600.0
    largest = max(os.path.getsize(path + end) for end in ("", "-wal"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, -1))
    number = 1
    while (refused := delivered(client, number)).status_code == 200:
        number += 1
    ready = client.get("/ready")
    print(refused.status_code, ready.status_code, "df -h" in ready.json()["detail"], flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    worker.SHORT_FOR = 0.0
    print(delivered(client, number).status_code, client.get("/ready").status_code, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limits")
def test_an_app_on_a_full_disk_is_not_ready_and_takes_nothing(
    server: ReferenceServer, tmp_path: Path
) -> None:
    """Its probe says what is lacking, and what to do, although the store can still be read."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, server.base_url, str(tmp_path / "events.db")],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )

    assert done.stdout.splitlines() == ["503 503 True", "200 200"], done.stderr


def test_a_redis_without_memory_takes_nothing_and_says_so(server: ReferenceServer) -> None:
    """Its sender repeats the delivery; what was taken before is answered."""
    with RedisServer(maxmemory_policy="noeviction") as full, full.client() as admin:
        store, met = RedisEventStore(full.url), telemetry.counted("machine_shortages")
        with TurnRunner(
            echo(), client=server.client(), store=store, on_reply=lambda _: None
        ) as runner:
            admin.config_set("maxmemory", 1)
            with pytest.raises(StoreUnavailableError, match="raise maxmemory"):
                runner.accept(said("Hola"))
            assert "raise maxmemory" in runner.shortage
            admin.config_set("maxmemory", 0)

            assert runner.run(said("Hola"), PATIENCE).reply == "re: Hola"
        store.close()
    assert telemetry.counted("machine_shortages", what="database") > 0
    assert telemetry.counted("machine_shortages") > met


def test_a_redis_that_is_killed_in_every_run_ends_no_event(
    server: ReferenceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a failure nor a start is counted, though the turn cannot be given back at once."""
    monkeypatch.setattr(heartbeat, "RELEASE_PAUSE", 0.02)
    monkeypatch.setattr(worker, "STORE_PAUSE", 0.02)
    answered, sent, runs = threading.Event(), list[Turn](), list[str]()
    with RedisServer() as killed:

        def start_again(before: int) -> None:
            while telemetry.counted("release_failures") == before and not answered.wait(0.01):
                pass
            killed.start()

        def agent(messages: list[BaseMessage]) -> AIMessage:
            runs.append(str(messages[-1].content))
            if len(runs) <= 3:
                killed.kill9()
                before = telemetry.counted("release_failures")
                threading.Thread(target=start_again, args=[before], daemon=True).start()
            return reply_to(messages)

        def send(turn: Turn) -> None:
            sent.append(turn)
            answered.set()

        store = RedisEventStore(killed.url)
        runner = TurnRunner(
            RunnableLambda(agent),
            client=server.client(),
            store=store,
            on_reply=send,
            max_starts=1,
            fallback_reply="Lo siento",
            lease=600,
        )
        with runner:
            runner.accept(said("Hola"))
            assert answered.wait(PATIENCE)
        store.close()

    assert [(turn.status, turn.reply) for turn in sent] == [("answered", "re: Hola")]
    assert len(runs) == 4


def test_a_heartbeat_that_cannot_begin_begins_with_the_next_turn(
    server: ReferenceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without a thread to spare costs the event neither a start nor an error."""

    class Refused(threading.Thread):
        refuses = 3

        def start(self) -> None:
            if Refused.refuses and self.name == "convsync-heartbeat":
                Refused.refuses -= 1
                message = "can't start new thread"
                raise RuntimeError(message)
            super().start()

    monkeypatch.setattr(heartbeat, "_heartbeat", heartbeat._Heartbeat())
    monkeypatch.setattr("langchain_convsync._platform.threading.Thread", Refused)
    store = SQLiteEventStore(":memory:")
    runner = TurnRunner(echo(), client=server.client(), store=store, max_errors=1, max_starts=1)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="new thread"):
            runner.run(said("Hola"))

    assert runner.run(said("Hola")).status == "answered"
    store.close()


BOT = """
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_convsync import TurnRunner, create_app
from langchain_convsync.stores.sqlite import file

file.BUSY = 0.5
runner = TurnRunner(
    RunnableLambda(lambda messages: AIMessage("re")), on_reply=print, shutdown_timeout=1.0
)
app = create_app(runner, waha_secrets=[])
"""
APP = ["-m", "uvicorn", "bot:app", "--port", "0"]
WORKER = ["-c", "from langchain_convsync.cli import main; main()", "worker", "bot:runner"]


@pytest.fixture(params=["redis", "sqlite"])
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Any]]:
    """A store, and how to break it for good."""
    if request.param == "sqlite":
        path = tmp_path / "events.db"

        def take_away() -> None:
            path.rename(tmp_path / "elsewhere.db")
            path.mkdir()

        yield f"sqlite:///{path}", take_away
        return
    with RedisServer() as running:
        yield running.url, running.kill9


@pytest.mark.slow  # processes of their own
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("command", "ends", "status"),
    [(APP, signal.SIGINT, 0), (WORKER, signal.SIGTERM, 0)],
    ids=["app", "worker"],
)
def test_what_ends_on_a_broken_store_ends_without_a_traceback(
    command: list[str],
    ends: signal.Signals,
    status: int,
    broken: tuple[str, Callable[[], None]],
    server: ReferenceServer,
    tmp_path: Path,
) -> None:
    """One line says that what is left waits in the store."""
    (tmp_path / "bot.py").write_text(BOT)
    store_url, breaks = broken
    environment = {**os.environ, "CONVSYNC_BASE_URL": server.base_url}
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**environment, "CONVSYNC_STORE_URL": store_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        said_so = ""
        while not ("is at work" in said_so or "running on" in said_so):
            line = process.stdout.readline()
            assert line, said_so
            said_so += line
        breaks()
        process.send_signal(ends)
        told, _ = process.communicate(timeout=PATIENCE)

    assert "Traceback" not in told
    assert "The block ends without its store" in told
    assert process.returncode == status, told


#: Stops itself in the middle of a transaction.
FROZEN = """
import os, signal, sys
from langchain_convsync import SQLiteEventStore

def stand_still(transaction):
    transaction.do("INSERT OR REPLACE INTO meta VALUES ('seen', 1)")
    print("in the middle", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)

SQLiteEventStore(sys.argv[1])._perform(stand_still)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("ends", [signal.SIGCONT, signal.SIGKILL])
def test_a_process_that_is_frozen_in_a_transaction_is_told_by_the_others(
    ends: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait a while, and say what to look for; to wake or to kill it ends that."""
    monkeypatch.setattr(file, "BUSY", 0.05)
    path = tmp_path / "events.db"
    store = SQLiteEventStore(path)
    run(store.keys())
    with subprocess.Popen(
        [sys.executable, "-c", FROZEN, str(path)], stdout=subprocess.PIPE, text=True
    ) as frozen:
        assert frozen.stdout is not None
        assert frozen.stdout.readline() == "in the middle\n"
        with pytest.raises(StoreUnavailableError, match="locks the file"):
            run(store.accept(event()))
        frozen.send_signal(ends)
        frozen.wait(PATIENCE)

    assert run(store.accept(event())).status == "new"
    store.close()
