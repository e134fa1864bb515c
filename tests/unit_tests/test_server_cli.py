"""``convsync serve``: what the user got wrong ends in one clear line, before anything listens."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from langchain_convsync.cli import main
from langchain_convsync.server.serving import server_for


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of the command line."""
    monkeypatch.setattr(sys, "argv", ["convsync", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--tenant", "default"], "--tenant must look like SESSION=SUBDOMAIN:BOT"),
        (["--tenant", "=restaurant-abc:bot"], "--tenant must look like SESSION=SUBDOMAIN:BOT"),
        (["--tenant", "default=restaurant-abc"], "--tenant must look like SESSION=SUBDOMAIN:BOT"),
        (["--tenant", "default=a b:bot"], "subdomain must be"),
        (["--database-url", "conversations.db"], "sqlite:///conversations.db"),
        (["--waha-secret", ""], "waha_secrets is empty"),
        (["--config", "no-such.toml"], "no-such.toml cannot be read"),
    ],
)
def test_a_mistaken_option_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    told: str,
) -> None:
    """It says what to pass instead, and exits with 2."""
    assert run(monkeypatch, "serve", *options) == 2

    error = capsys.readouterr().err
    assert error.startswith("convsync: ")
    assert told in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the port, and the way to get a free one."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        assert run(monkeypatch, "serve", "--port", str(port)) == 2

    error = capsys.readouterr().err
    assert error.startswith(f"convsync: cannot listen on 127.0.0.1 port {port}: ")
    assert "port 0 picks a free one" in error


def test_a_port_that_is_not_a_port_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Name lookup would silently take it modulo 65,536."""
    assert run(monkeypatch, "serve", "--port", "99999") == 2

    assert "65535" in capsys.readouterr().err


def test_it_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command is listed."""
    assert run(monkeypatch, "--help") == 0

    assert "serve" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("absent", "extra", "command"),
    [
        ("typer", "cli", "serve"),
        ("rich", "cli", "demo"),
        pytest.param("fastapi", "server", "demo", marks=pytest.mark.slow),
        ("langchain", "agents", "demo"),
        ("fastapi", "server", "serve"),
        ("uvicorn", "server", "serve"),
    ],
)
def test_a_missing_extra_is_the_pip_command(absent: str, extra: str, command: str) -> None:
    """The console script exists on a bare install, too."""
    code = f"""
import sys
sys.modules[{absent!r}] = None  # as if it were not installed
from langchain_convsync.cli import main
sys.argv = ["convsync", {command!r}]
main()
"""

    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 2
    assert f"pip install 'langchain-convsync[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_server_runs_on_what_its_extra_brings() -> None:
    """A uvloop or httptools that something else installed must not change how it answers."""
    config = server_for(FastAPI(), grace=1).config

    assert config.loop == "asyncio"
    assert isinstance(config.http, type)
    assert issubclass(config.http, H11Protocol)


STEERS = "\x1b[31m\x9b31m\u202e\udcff\nconvsync: forged"


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--host", STEERS],
        ["serve", "--config", STEERS],
        ["serve", "--quirks", STEERS],
        ["serve", "--port", STEERS],
        ["serve", f"--{STEERS}"],
        ["worker", f"{STEERS}:runner"],
        ["worker", f"os:{STEERS}"],
        ["status", "--store", STEERS],
        ["status", "too many", STEERS],
        [STEERS],
    ],
)
def test_a_repeated_argument_steers_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """It may come from a script, and another user; it is shown, and forges no line."""
    assert run(monkeypatch, *arguments) == 2

    told = capsys.readouterr()
    assert not set("\x1b\x9b\u202e\udcff") & set(told.out + told.err)
    assert "convsync: forged" not in told.err.splitlines()


@pytest.mark.parametrize("host", ["nonsense.invalid", "a" * 70, "..", "x..y", "\udcff"])
def test_a_host_that_is_none_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    """However wrong it is."""
    assert run(monkeypatch, "serve", "--host", host) == 2

    error = capsys.readouterr().err
    assert error.startswith("convsync: cannot listen on ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "target",
    [
        *("os:system", "sys:exit", "os:abort", "json:loads", "time:sleep", "builtins:int"),
        *(".bot:runner", "..:runner", "os:path", "os:getcwd", "os:", ":x", "os", "no.such:x"),
        *("asyncio:Event", "tests.unit_tests.test_server_cli:makes_nothing"),
    ],
)
def test_what_is_no_runner_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    """What wants arguments is not called to find out, nor what Python brings."""
    assert run(monkeypatch, "worker", target) == 2

    error = capsys.readouterr().err
    assert error.startswith("convsync: ")
    assert error.count("\n") == 1


async def makes_nothing() -> None:
    """Not a runner, and never awaited."""
