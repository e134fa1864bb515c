"""The reference server's database: opened with clear errors, shared without losses."""

from __future__ import annotations

import gc
import logging
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from typing import Any

import pytest

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server import Tenant, create_reference_api
from langchain_convsync.server.store import ConversationStore
from langchain_convsync.server.wire import NewMessage
from langchain_convsync.testing import ReferenceServer
from tests.clocked_store import ClockedStore

OPEN_FILES = Path("/proc/self/fd")


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'api.db'}"


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_parallel_writes_lose_nothing(kind: str, file_url: str) -> None:
    """Every key and every message of 40 simultaneous writes is there, once and in order."""
    with closing(ClockedStore("sqlite://" if kind == "memory" else file_url)) as store:
        session_id = store.begin()

        def write(number: int) -> None:
            store.merge(session_id, context={f"key{number}": number})
            store.say(session_id, str(number))

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(write, range(40)))
        context = store.seen()["context"]

    times = [entry["timestamp"] for entry in context["previousMessages"]]
    said = [entry["content"] for entry in context["previousMessages"]]
    assert {f"key{number}" for number in range(40)} <= context.keys()
    assert sorted(said, key=int) == [str(number) for number in range(40)]
    assert times == sorted(set(times))


def test_two_stores_may_share_a_file(file_url: str) -> None:
    """As two processes would: each has its own connection, and their writes wait for each other."""
    with closing(ClockedStore(file_url)) as first, closing(ClockedStore(file_url)) as second:
        session_id = first.begin()

        def write(number: int) -> None:
            (first, second)[number % 2].say(session_id, str(number))

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(write, range(40)))

        assert len(first.seen()["context"]["previousMessages"]) == 40


def test_a_reader_of_the_file_holds_no_writer_up(file_url: str, tmp_path: Path) -> None:
    """Looking at the conversations with another tool is safe."""
    with closing(ClockedStore(file_url)) as store, closing(connect(tmp_path / "api.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM conversations").fetchall()

        session_id = store.begin()

        assert store.seen()["sessionId"] == session_id


def test_a_file_outlives_its_store(file_url: str) -> None:
    """Conversations are still there after a restart."""
    with closing(ClockedStore(file_url)) as before:
        session_id = before.begin()

    with closing(ClockedStore(file_url)) as after:
        assert after.seen()["sessionId"] == session_id


@pytest.mark.skipif(not OPEN_FILES.exists(), reason="looks at the open files in /proc")
@pytest.mark.parametrize("server", [create_reference_api, ReferenceServer])
def test_a_forgotten_server_closes_its_file(
    server: Callable[[str], object], file_url: str, tmp_path: Path
) -> None:
    """Also without a word from its owner."""
    forgotten: Any = server(file_url)
    assert any(tmp_path in file.resolve().parents for file in OPEN_FILES.iterdir())

    del forgotten
    gc.collect()

    assert not any(tmp_path in file.resolve().parents for file in OPEN_FILES.iterdir())


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("conversations.db", "sqlite:///conversations.db"),
        ("sqlite:////no/such/folder/api.db", "cannot be opened"),
        ("nosuchdb://localhost/x", "no SQLAlchemy URL"),
    ],
)
def test_a_database_that_cannot_be_opened_is_a_configuration_error(url: str, told: str) -> None:
    """The message says what to pass instead."""
    with pytest.raises(ConfigurationError, match=told):
        ConversationStore(url)


def test_a_missing_driver_is_named_and_the_password_is_not() -> None:
    """Database URLs carry passwords; error messages do not."""
    with pytest.raises(ConfigurationError, match="pip install") as caught:
        ConversationStore("mssql+pymssql://convsync:s3cret@localhost/x")

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "ñ", "x" * 129, "a\n"])
def test_a_tenant_has_names_that_fit_into_a_session_id(name: str) -> None:
    """Bot ids become part of session ids, and those of URLs."""
    with pytest.raises(ConfigurationError, match="bot_id"):
        Tenant("restaurant-abc", name)


def modes(folder: Path) -> set[str]:
    return {stat.filemode(file.stat().st_mode) for file in folder.iterdir()}


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize("spelled", ["sqlite:///{}", "sqlite:///file:{}?uri=true"])
def test_a_new_file_is_its_owners_alone(tmp_path: Path, spelled: str) -> None:
    """Also what SQLite puts beside it, whatever the umask is."""
    before = os.umask(0)
    try:
        with closing(ClockedStore(spelled.format(tmp_path / "api.db"))) as store:
            store.begin()
            found = sorted(file.name for file in tmp_path.iterdir())
            assert found == ["api.db", "api.db-shm", "api.db-wal"]
            assert modes(tmp_path) == {"-rw-------"}
    finally:
        os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_file_that_others_can_read_is_told(
    file_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the command that mends it; its mode is left to its owner."""
    ClockedStore(file_url).close()
    private = caplog.text
    (tmp_path / "api.db").chmod(0o644)
    with caplog.at_level(logging.WARNING), closing(ClockedStore(file_url)):
        pass

    assert "chmod" not in private
    assert f"chmod 600 {tmp_path / 'api.db'}" in caplog.text
    assert modes(tmp_path) == {"-rw-r--r--"}


def test_a_file_of_an_earlier_version_is_read_on(file_url: str, tmp_path: Path) -> None:
    """It has whole answers, spaced JSON, and no table of histories: nothing has to be migrated."""
    hola = NewMessage(role="user", content="Hola")
    with closing(ClockedStore(file_url)) as before:
        session_id = before.begin()
        first = before.add_message(session_id, hola, key="k1")
    with closing(connect(tmp_path / "api.db")) as file, file:
        file.execute("DROP TABLE histories")
        file.execute("DROP TABLE replaced_histories")
        file.execute("UPDATE messages SET entry = replace(entry, ':', ': ')")
        assert "previousMessages" in file.execute("SELECT answer FROM keyed_answers").fetchone()[0]

    with closing(ClockedStore(file_url)) as after:
        again = after.add_message(session_id, hola, key="k1")
        for number in range(30):
            after.add_message(session_id, hola, key=f"later {number}")

        assert again.replayed
        assert again.data == first.data
        assert len(after.seen()["context"]["previousMessages"]) == 31
