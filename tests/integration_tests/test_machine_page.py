"""The page that runs everything on one machine: by hand as typed, and what compose would start."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

import langchain_convsync.waha
from tests.conftest import FOREIGN
from tests.pages import commands, files, page
from tests.redis_server import RedisServer

pytestmark = pytest.mark.slow  # servers by the half dozen

PAGE = page("start/machine")
FILES = files(PAGE)
COMPOSE: dict[str, Any] = yaml.safe_load(FILES["compose.yaml"])
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SESSION = json.loads(files(page("start/waha"))["session.json"])

#: What is typed by hand, and what each variable is set to.
TYPED = commands(PAGE.partition("\n## With compose\n")[0])
EXPORTS = dict(re.findall(r"export (\w+)=(\S+)", "\n".join(TYPED)))
#: How the commands of the page start without an installed script.
PROGRAMS = {
    "convsync": ["-m", "langchain_convsync.cli"],
    "uvicorn": ["-m", "uvicorn"],
    "python": [],
}


class Machine:
    """A folder with the page's files, and three free ports instead of the page's."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self._ports = dict(zip(("3000", "8000", "9000"), map(str, free_ports()), strict=False))
        self._environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith(FOREIGN)},
            **{name: self._here(text) for name, text in variables.items()},
        }
        for name in ("bot.py", "customer.py"):
            (folder / name).write_text(self._here(FILES[name]), encoding="utf-8")

    def _here(self, text: str) -> str:
        local = re.sub(r"\b(api|waha|bot)(?=:\d)|\b0\.0\.0\.0", "127.0.0.1", text)
        return re.sub(r"\b(3000|8000|9000)\b", lambda found: self._ports[found[0]], local)

    def _start(self, command: str, **pipes: Any) -> subprocess.Popen[str]:
        program, *arguments = shlex.split(self._here(command))
        return subprocess.Popen(
            [sys.executable, *PROGRAMS[program], *arguments],
            cwd=self.folder,
            env=self._environment,
            text=True,
            **pipes,
        )

    def run(self, command: str) -> str:
        """What it prints."""
        with self._start(command, stdout=subprocess.PIPE) as process:
            printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        return printed

    @contextmanager
    def running(self, command: str, ready: str) -> Iterator[None]:
        """In its terminal, from the line that tells that it listens."""
        with self._start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                told = process.stdout
                assert told is not None
                assert any(ready in line for line in told), command
                yield
            finally:
                process.kill()


def free_ports() -> Iterator[int]:
    """Ports that no connection is given by itself: they stay free until they are used."""
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            yield port


def typed(program: str) -> str:
    """The one command by hand that begins so."""
    [found] = [line for line in TYPED if line.startswith(program)]
    return found


@pytest.mark.parametrize("way", ["by hand", "with compose"])
def test_the_page_runs_as_typed(tmp_path: Path, way: str, redis_server: RedisServer) -> None:
    """Server, bot and customer: the reply arrives, and the store knows the conversation."""
    variables = EXPORTS
    if way == "with compose":
        redis_server.empty()
        given = {**SERVICES["api"]["environment"], **SERVICES["bot"]["environment"]}
        database = f"sqlite:///{tmp_path / 'conversations.db'}"
        variables = given | {
            "CONVSYNC_STORE_URL": redis_server.url,
            "CONVSYNC_DATABASE_URL": database,
        }
    machine = Machine(tmp_path, variables)

    with (
        machine.running(SERVICES["api"]["command"], "answers at"),
        machine.running(SERVICES["bot"]["command"], "running on"),
    ):
        assert machine.run(typed("python customer.py")) == "Dijiste: Quiero una pizza\n"
        if way == "by hand":
            assert re.search(r"^turns +1$", machine.run(typed("convsync show")), re.MULTILINE)


def test_compose_starts_what_is_typed_by_hand() -> None:
    """One set of commands and secrets; hosts and the store differ, and a real WAHA wants a key."""
    api, bot = SERVICES["api"], SERVICES["bot"]
    given = {**api["environment"], **bot["environment"]}

    assert api["command"].replace(" --host 0.0.0.0", "") == typed("convsync serve")
    assert bot["command"].replace(" --host 0.0.0.0", "") == typed("uvicorn")
    assert {name for name in EXPORTS if EXPORTS[name] != given.get(name)} == {
        "CONVSYNC_BASE_URL",
        "CONVSYNC_WAHA_BASE_URL",
        "CONVSYNC_STORE_URL",
    }
    assert set(given) - set(EXPORTS) == {
        "CONVSYNC_ALLOW_HTTP",
        "CONVSYNC_WAHA_API_KEY",
        "CONVSYNC_DATABASE_URL",
    }
    assert (
        bot["environment"]["CONVSYNC_WAHA_API_KEY"]
        == SERVICES["waha"]["environment"]["WAHA_API_KEY"]
    )


def test_compose_names_only_what_it_has() -> None:
    """Volumes, networks and dependencies; and no port is open but WAHA's, on this machine."""
    volumes = {each.split(":")[0] for s in SERVICES.values() for each in s.get("volumes", [])}
    urls = [value for value in SERVICES["bot"]["environment"].values() if "://" in value]
    hosts = {urlsplit(url).hostname for url in urls}
    opened = set(SERVICES["bot"]["environment"]["CONVSYNC_ALLOW_HTTP"].split(","))
    needed = {each for s in SERVICES.values() for each in s.get("depends_on", [])}

    assert volumes == set(COMPOSE["volumes"])
    assert hosts == {"api", "waha", "redis"} == opened | {"redis"}
    assert hosts <= set(SERVICES)
    assert needed <= set(SERVICES)
    assert [s["ports"] for s in SERVICES.values() if "ports" in s] == [["127.0.0.1:3000:3000"]]
    assert all("image" in s or "build" in s for s in SERVICES.values())


def test_the_stores_command_is_as_durable_as_the_checklist_asks() -> None:
    """Redis in compose is the Redis of production."""
    command = SERVICES["redis"]["command"]

    for option in ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction"):
        assert f"--{option}" in command
        assert option in page("run/checklist")


def test_wahas_session_fits_the_machine() -> None:
    """Its webhooks are where the customer's script delivers, signed with the same secret."""
    hooks = SESSION["config"]["webhooks"]
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in Path(langchain_convsync.waha.__file__).parent.glob("*.py")
    )

    assert [hook["url"] for hook in hooks] == re.findall(r'"(http://.*)"', FILES["customer.py"])
    assert {hook["hmac"]["key"] for hook in hooks} == {EXPORTS["CONVSYNC_WAHA_SECRETS"]}
    assert all(f'"{event}"' in source for hook in hooks for event in hook["events"])
    assert all(h["retries"]["delaySeconds"] * h["retries"]["attempts"] == 3600 for h in hooks)
    tenant = SESSION["config"]["metadata"]
    assert f"{SESSION['name']}={tenant['subdomain']}:{tenant['bot.id']}" in typed("convsync serve")
