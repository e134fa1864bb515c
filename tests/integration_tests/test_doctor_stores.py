"""``convsync doctor`` at the event store and at WAHA."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from langchain_convsync._flow import run
from langchain_convsync.stores import open_store
from tests.doctor_runs import doctor
from tests.faulty_server import Deed, FaultyServer, Received, Script, answers
from tests.redis_server import RedisServer
from tests.store_cases import FIRST, commit_of, committed, event, queue_of, turn_of


def at_store(url: str) -> Any:
    """What doctor finds in a store."""
    return doctor("--store", url)


# The store


def test_a_store_without_work_has_nothing_to_mend(durable_store_url: str) -> None:
    """Each kind."""
    store = open_store(durable_store_url)
    run(store.keys())
    store.close()

    report = at_store(durable_store_url)

    found = {(f["check"], f["status"]) for f in report.json["findings"] if f["area"] == "store"}
    assert {status for _, status in found} == {"ok"}
    assert {"reachable", "format", "left to do", "dead letters"} <= {check for check, _ in found}


def test_what_is_left_to_do_names_the_worker(
    durable_store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process died and nobody goes on; the store comes from the environment, as everywhere."""
    store = open_store(durable_store_url)
    committed(store, run, "1", writes=2, replies=1)
    run(store.accept(event("2")))
    store.close()
    monkeypatch.setenv("CONVSYNC_STORE_URL", durable_store_url)

    found = doctor().of("store", "left to do")

    assert found["status"] == "warning"
    assert found["message"].startswith("1 event, 2 API writes and 1 reply")
    assert "convsync worker MODULE:RUNNER" in found["advice"]


def test_what_waits_for_an_operator_is_told(durable_store_url: str) -> None:
    """Writes of unknown end, and events that no agent could answer."""
    store = open_store(durable_store_url)
    committed(store, run, "1", writes=1)
    run(store.set_dead(queue_of(store, run).lease, FIRST, reason="unverifiable"))
    failed = turn_of(store, run, event("2"))
    run(store.commit_turn(failed.lease, commit_of(failed, dead=True)))
    store.close()

    report = at_store(durable_store_url)

    told = report.of("store", "dead letters")["message"]
    assert told.startswith("2 events, writes or replies wait for your decision")
    assert report.status("store", "left to do") == "ok"


def foreign(folder: Path) -> str:
    path = folder / "theirs.db"
    with sqlite3.connect(path) as sql:
        sql.execute("CREATE TABLE theirs (x)")
    sql.close()
    return str(path)


def newer(folder: Path) -> str:
    path = str(folder / "newer.db")
    store = open_store(path)
    run(store.keys())
    store.close()
    with sqlite3.connect(path) as sql:
        sql.execute("PRAGMA user_version = 99")
    sql.close()
    return path


def text(folder: Path) -> str:
    path = folder / "notes.txt"
    path.write_text("no database at all, but long enough to look like a header of one\n" * 20)
    return str(path)


@pytest.mark.parametrize(
    ("make", "check", "words"),
    [
        (lambda folder: str(folder / "missing.db"), "reachable", "there is no event store"),
        (foreign, "reachable", "another application's database"),
        (text, "reachable", "not a SQLite database"),
        (newer, "format", "format 99"),
        (lambda _: "redis://127.0.0.1:1", "reachable", "check that it runs"),
        (lambda _: "mongodb://127.0.0.1", "reachable", "no event store"),
    ],
    ids=["missing", "foreign", "text", "newer", "redis is down", "no such kind"],
)
def test_a_store_that_cannot_be_used_is_told(
    make: Any, check: str, words: str, tmp_path: Path
) -> None:
    """And none is created by asking for it."""
    url = make(tmp_path)
    files = set(tmp_path.iterdir())

    report = at_store(url)

    assert words in report.of("store", check)["message"]
    assert ("store", check) in report.failed
    assert set(tmp_path.iterdir()) == files


@pytest.mark.parametrize(
    ("aof", "options", "told"),
    [
        (True, {}, {}),
        (False, {}, {"it keeps no append-only file": "set `appendonly yes`"}),
        (
            True,
            {"maxmemory_policy": "allkeys-lru"},
            {"it evicts keys (allkeys-lru)": "set `maxmemory-policy noeviction`"},
        ),
    ],
    ids=["safe", "no append-only file", "evicts"],
)
def test_a_redis_that_can_lose_events_is_told(
    aof: bool, options: dict[str, str], told: dict[str, str]
) -> None:
    """With what to set."""
    with RedisServer(aof=aof, **options) as server:
        found = at_store(server.url).all_of("store", "safety")

    risky = {
        f["message"].partition(": ")[2]: f["advice"] for f in found if f["status"] == "warning"
    }
    assert risky == told
    assert [f["status"] for f in found] == (["warning"] if told else ["ok"])


def test_a_risk_is_told_once() -> None:
    """The store's own warning is not printed beside it; pytest would swallow it, so: a process."""
    code = "from langchain_convsync.cli import main; main()"
    with RedisServer(aof=False) as server:
        done = subprocess.run(
            [sys.executable, "-c", code, "doctor", "--store", server.url],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert done.stdout.count("append-only file") == 1
    assert done.stderr == ""


def test_a_redis_that_keeps_its_settings_secret_is_no_failure() -> None:
    """Its ACL may forbid INFO; its password is not shown."""
    with RedisServer() as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "bot", "on", ">canary", "~*", "+@all", "-info")
        report = at_store(server.url.replace("redis://", "redis://bot:canary@"))

    assert report.status("store", "safety") == "skipped"
    assert ("store", "safety") not in report.failed
    assert "canary" not in str(report.json)


def test_a_replica_is_told(redis_server: RedisServer) -> None:
    """Nothing can be accepted there."""
    with RedisServer(replicaof=f"127.0.0.1 {redis_server.port}") as replica:
        report = at_store(replica.url)

    assert "connect to the primary" in report.of("store", "reachable")["message"]


# WAHA


def at_waha(script: Script) -> Any:
    """What doctor finds at a WAHA that plays a script."""
    with FaultyServer() as server:
        server.plays(script)
        return doctor("--waha-url", server.url, "--timeout", "0.5")


@pytest.fixture
def keyed() -> Iterator[str]:
    """A WAHA that asks for its key, and its sessions."""
    sessions = [
        {"name": "works", "status": "WORKING"},
        {"name": "unseen", "status": "SCAN_QR_CODE"},
        {"name": "broken", "status": "FAILED"},
        {"name": "off", "status": "STOPPED"},
        {"name": "soon", "status": "STARTING"},
    ]

    def script(request: Received) -> Iterable[bytes | float | Deed]:
        if request.headers.get("x-api-key") != "right":
            return answers({"statusCode": 401}, 401)(request)
        assert request.target.partition("?")[0] == "/api/sessions"
        return answers(sessions)(request)

    with FaultyServer() as server:
        server.plays(script)
        yield server.url


def test_each_session_is_told_with_what_to_do(keyed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """URL and key come from the environment, as everywhere."""
    monkeypatch.setenv("CONVSYNC_WAHA_BASE_URL", keyed)
    monkeypatch.setenv("CONVSYNC_WAHA_API_KEY", "right")

    found = doctor().all_of("WAHA", "session")

    told = {f["message"]: f["status"] for f in found}
    assert told == {
        "works is WORKING": "ok",
        "unseen is SCAN_QR_CODE": "failed",
        "broken is FAILED": "failed",
        "off is STOPPED": "warning",
        "soon is STARTING": "warning",
    }
    assert all(f["advice"] for f in found if f["status"] != "ok")


@pytest.mark.parametrize(
    ("webhooks", "status", "words"),
    [
        ([], "skipped", "no webhook of its own"),
        ([{"events": ["message.ack"]}], "failed", "delivers no messages"),
        ([{"events": ["message"]}], "failed", "does not sign"),
        ([{"events": ["message"], "hmac": {"key": "another"}}], "failed", "not in"),
        ([{"events": ["message.any"], "hmac": {"key": "new"}}], "ok", "signs with a key"),
    ],
)
def test_a_webhooks_secret_is_compared_and_never_told(
    webhooks: list[object], status: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With those that the app accepts, of which there may be two while one replaces the other."""
    monkeypatch.setenv("CONVSYNC_WAHA_SECRETS", "old, new")
    session = {"name": "shop", "status": "WORKING", "config": {"webhooks": webhooks}}

    found = at_waha(answers([session])).of("WAHA", "webhook")

    assert found["status"] == status
    assert words in found["message"]
    assert not {"another", "old", "new"} & {*found["message"].split()}


def test_a_key_that_waha_does_not_accept_is_told(keyed: str) -> None:
    """With the variable that holds it."""
    report = doctor("--waha-url", keyed)

    assert ("WAHA", "key") in report.failed
    assert "CONVSYNC_WAHA_API_KEY" in report.of("WAHA", "key")["advice"]


@pytest.mark.parametrize(
    ("script", "check", "words"),
    [
        (answers([]), "sessions", "no session"),
        (answers({"no": "list"}), "reachable", "no WAHA under this URL"),
        (answers("<html>", 404), "reachable", "no WAHA under this URL"),
        (answers("<html>", 500), "reachable", "WAHA fails"),
    ],
)
def test_what_is_wrong_with_waha_is_told(script: Script, check: str, words: str) -> None:
    """By its answer."""
    report = at_waha(script)

    assert ("WAHA", check) in report.failed
    assert words in report.of("WAHA", check)["message"]


def test_a_waha_that_is_down_is_told() -> None:
    """With where to set its URL."""
    with FaultyServer() as server:
        gone = server.url

    report = doctor("--waha-url", gone)

    assert "Connection refused" in report.of("WAHA", "reachable")["message"]


@pytest.mark.allow_hosts(["127.0.0.1", "0.0.0.0"])
def test_a_waha_over_plain_http_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that was opened by name, inside a private network."""
    monkeypatch.setenv("CONVSYNC_ALLOW_HTTP", "0.0.0.0")
    with FaultyServer() as server:
        server.plays(answers([]))
        report = doctor("--waha-url", server.url.replace("127.0.0.1", "0.0.0.0"))

    assert report.status("WAHA", "TLS") == "warning"


def test_a_waha_url_that_is_not_a_url_is_told() -> None:
    """Nothing else stops because of it."""
    assert ("WAHA", "reachable") in doctor("--waha-url", "waha:3000").failed
