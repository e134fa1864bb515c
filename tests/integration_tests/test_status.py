"""``convsync status``: what a store still has to do, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from langchain_convsync._flow import run
from langchain_convsync.cli import _status, command_line, main
from langchain_convsync.cli._status import _MEANINGS
from langchain_convsync.errors import StoreUnavailableError
from langchain_convsync.stores import open_store
from tests.store_cases import committed, event

cli = CliRunner()


def filled(url: str) -> None:
    """One turn with two writes behind it, and an event that waits."""
    store = open_store(url)
    committed(store, run, "1", writes=2)
    run(store.accept(event("2")))
    store.close()


def kill_writes(url: str) -> None:
    """Its writes are dead letters."""
    store = open_store(url)
    acquired = run(store.acquire("outbox", "worker"))
    assert acquired is not None
    run(store.set_dead(acquired.lease, acquired.operations[0].id, reason="no"))
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


def test_what_a_worker_holds_is_not_called_due(durable_store_url: str) -> None:
    """Its lease's end says nothing of how long it waits."""
    filled(durable_store_url)
    store = open_store(durable_store_url)
    run(store.acquire("inbox", "worker"))
    store.close()

    read = cli.invoke(command_line(), ["status", "--accounts", "--store", durable_store_url])
    told = cli.invoke(
        command_line(), ["status", "--accounts", "--json", "--store", durable_store_url]
    )

    lines = {line.split()[2]: line for line in read.stdout.splitlines() if " is due" in line}
    assert lines.keys() == {"outbox"}
    assert "a worker has it" in read.stdout
    held = {one["queue"]: one["held"] for one in json.loads(told.stdout)["accounts"]}
    assert held == {"inbox": True, "outbox": False}


def test_dead_letters_lead_on(durable_store_url: str) -> None:
    """From the number to the command that tells whose they are."""
    filled(durable_store_url)
    without = cli.invoke(command_line(), ["status", "--store", durable_store_url]).stdout
    kill_writes(durable_store_url)

    told = cli.invoke(command_line(), ["status", "--store", durable_store_url]).stdout

    assert "convsync dead-letters" in told
    assert "convsync dead-letters" not in without


@pytest.mark.parametrize("columns", [60, 80])
def test_no_word_is_broken_in_a_narrow_terminal(
    durable_store_url: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit goes on in the next line; keys stay whole."""
    filled(durable_store_url)
    monkeypatch.setenv("COLUMNS", str(columns))

    told = cli.invoke(command_line(), ["status", "--accounts", "--store", durable_store_url])

    assert all(len(line.rstrip()) <= columns for line in told.stdout.splitlines())
    whole = {*" ".join(_MEANINGS.values()).split(), event("1").conversation_key[:15]}
    assert whole <= set(told.stdout.split())


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colours_are_for_terminals(
    durable_store_url: str,
    variables: dict[str, str],
    coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None in a pipe, and none where they are not wanted."""
    filled(durable_store_url)
    kill_writes(durable_store_url)
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    told = cli.invoke(command_line(), ["status", "--store", durable_store_url]).stdout

    assert ("31m" in told) == coloured


@pytest.mark.parametrize(
    ("options", "pause"), [(["--watch", "7"], 7.0), (["--watch"], 2.0), (["--watch=5"], 5.0)]
)
def test_a_watch_tells_a_line_a_look_until_it_is_ended(
    durable_store_url: str, options: list[str], pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into a pipe one line each, for a program one object each."""
    filled(durable_store_url)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) % 3 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    read = cli.invoke(command_line(), ["status", *options, "--store", durable_store_url])
    told = cli.invoke(command_line(), ["status", *options, "--json", "--store", durable_store_url])

    assert (read.exit_code, told.exit_code, set(pauses)) == (0, 0, {pause})
    assert [line.partition(" ")[2] for line in read.stdout.splitlines()] == [
        "queued 1, interrupts 0, writes 2, replies 0, dead_letters 0"
    ] * 3
    assert [json.loads(line)["writes"] for line in told.stdout.splitlines()] == [2, 2, 2]


def test_a_watch_in_a_terminal_goes_on_while_the_store_is_away(
    durable_store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so in place of the numbers, and draws them again."""
    filled(durable_store_url)
    monkeypatch.setenv("FORCE_COLOR", "1")
    looks: list[int] = []
    look = _status._look

    def failing(*given: Any, **named: Any) -> Any:
        looks.append(1)
        if len(looks) == 1:
            message = "the store is away"
            raise StoreUnavailableError(message)
        return look(*given, **named)

    def sleep(_seconds: float) -> None:
        if len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(_status, "_look", failing)
    monkeypatch.setattr("time.sleep", sleep)

    told = cli.invoke(command_line(), ["status", "--watch", "--store", durable_store_url])

    assert told.exit_code == 0
    assert "the store is away" in told.stdout
    assert "events that no turn has answered yet" in told.stdout


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
