"""``convsync status``: what a store still has to do, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from langchain_convsync._flow import run
from langchain_convsync.cli import command_line, main
from langchain_convsync.stores import open_store
from tests.store_cases import committed, event

cli = CliRunner()


def filled(url: str) -> None:
    """One turn with two writes behind it, and an event that waits."""
    store = open_store(url)
    committed(store, run, "1", writes=2)
    run(store.accept(event("2")))
    store.close()


def test_a_program_reads_one_json_object(durable_store_url: str) -> None:
    """Numbers by what they count."""
    filled(durable_store_url)

    told = cli.invoke(command_line(), ["status", "--store", durable_store_url, "--json"])

    expected = {"queued": 1, "interrupts": 0, "writes": 2, "replies": 0, "dead_letters": 0}
    assert (told.exit_code, json.loads(told.stdout)) == (0, expected)


def test_each_account_is_told_by_its_key_on_request(durable_store_url: str) -> None:
    """How many of its conversations have work, and since when the first is due."""
    filled(durable_store_url)

    told = cli.invoke(
        command_line(), ["status", "--accounts", "--store", durable_store_url, "--json"]
    )
    read = cli.invoke(command_line(), ["status", "--accounts", "--store", durable_store_url])

    accounts = json.loads(told.stdout)["accounts"]
    key = event("1").conversation_key[:15]
    assert sorted((one["account"], one["queue"], one["conversations"]) for one in accounts) == [
        (key, "inbox", 1),
        (key, "outbox", 1),
    ]
    assert all(one["due_in"] <= 0 for one in accounts)
    assert key in read.stdout


def test_people_read_what_it_means(durable_store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store comes from the environment, as everywhere."""
    filled(durable_store_url)
    monkeypatch.setenv("CONVSYNC_STORE_URL", durable_store_url)

    told = cli.invoke(command_line(), ["status"])

    assert told.exit_code == 0
    assert "events that no turn has answered yet" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ([], "CONVSYNC_STORE_URL"),
        (["--store", "missing.db"], "there is no event store missing.db"),
        (["--store", "redis://127.0.0.1:1"], "check that it runs"),
    ],
)
def test_a_store_that_is_not_there_is_told_in_one_line(
    arguments: list[str],
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And none is created by asking for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["convsync", "status", *arguments])

    with pytest.raises(SystemExit) as ended:
        main()

    told = capsys.readouterr().err
    assert (ended.value.code, told.count("\n")) == (2, 1)
    assert advice in told
    assert list(tmp_path.iterdir()) == []
