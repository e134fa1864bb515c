"""A bot as a process that is really started, really killed, and started again."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from langchain_convsync.workbench.bot import GIVEN
from langchain_convsync.workbench.pointing import Place

#: Starts the process of a bot.
BOT = [sys.executable, "-m", "langchain_convsync.cli._bot"]
#: Seconds that a bot may take to finish what it is at, when it is told to end.
GRACE = 5.0
#: Seconds between looks at the files of the user's modules.
LOOK = 0.5


class Bot:
    """The process that answers, whichever it is at the moment.

    Args:
        target: ``MODULE:RUNNER``.
        place: The workbench's servers.
        tell: Called with a kind and facts: what it tells, and what becomes of it.
        groups: Whether it answers in groups.
    """

    def __init__(
        self,
        target: str,
        place: Place,
        tell: Callable[..., Any],
        *,
        groups: bool = False,
    ) -> None:
        self._tell = tell
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._key = secrets.token_hex(16)
        port = self._listener.getsockname()[1]
        self._given = {"port": port, "key": self._key, "target": target, "groups": groups}
        self._given["place"] = {name: getattr(place, name) for name in Place.__slots__}
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._url: str | None = None
        self._told: dict[int, str] = {}
        self._ages: dict[str, float] = {}
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str | None:
        """Where its webhook is; None while none is at work."""
        return self._url

    def wait(self, seconds: float) -> str | None:
        """Its webhook, as soon as there is one."""
        with self._changed:
            self._changed.wait_for(lambda: self._url or self._closed, seconds)
            return self._url

    def start(self) -> None:
        """Start a process; it is started again whenever it was killed or its files change."""
        # As they are before it reads them: one that changes while it does is read once more.
        files = {*self._ages, *map(str, Path.cwd().glob("*.py"))}
        self._ages = {file: _age(file) for file in files}
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("CONVSYNC_")
        }
        process = subprocess.Popen(  # noqa: S603 - our own command
            BOT,
            env=environment | {GIVEN: json.dumps(self._given), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C is the workbench's
        )
        self._process = process
        self._tell("worker", state="starting", pid=process.pid)
        threading.Thread(target=self._follow, args=(process,), daemon=True).start()

    def kill(self) -> int | None:
        """SIGKILL: nothing of it can object. Another one is started at once."""
        process = self._process
        if process is None or process.poll() is not None:
            return None
        self._url = None
        self._told[process.pid] = "killed"
        process.kill()
        return process.pid

    def restart(self) -> None:
        """End it in order, for another one that reads the files anew."""
        process = self._process
        if process is not None and process.poll() is None:
            self._url = None
            self._told[process.pid] = "ended"
            process.terminate()

    def close(self) -> None:
        """End it, and start no other."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._listener.close()

    def _follow(self, process: subprocess.Popen[str]) -> None:
        """What it prints, and how it ends."""
        assert process.stdout is not None  # noqa: S101 - as it was started
        with process.stdout as printed:
            for line in printed:
                self._tell("log", text=line.rstrip("\n"))
        code = process.wait()
        with self._changed:
            self._url = None
        if self._closed:
            return
        # What it was told to do; on Windows no code tells.
        state = self._told.pop(process.pid, "failed" if code > 0 else "ended")
        self._tell("worker", state=state, pid=process.pid, code=code)
        if state != "failed":
            self.start()
        else:  # the user's module does not load: once more when it has changed
            self._wait_for_change()
            if not self._closed:
                self.start()

    def _wait_for_change(self) -> None:
        while not (self._closed or self._changed_files()):
            time.sleep(LOOK)

    def _changed_files(self) -> list[str]:
        """Those of the user's that are not as they were when the process was started."""
        return [file for file, age in self._ages.items() if _age(file) != age]

    def watch_files(self) -> None:
        """Start it anew whenever a file of the user's changes; on a thread of its own."""

        def look() -> None:
            while not self._closed:
                time.sleep(LOOK)
                if self._url and (changed := self._changed_files()):
                    self._tell("worker", state="reloading", files=[Path(f).name for f in changed])
                    self.restart()

        threading.Thread(target=look, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._hear, args=(connection,), daemon=True).start()

    def _hear(self, connection: socket.socket) -> None:
        """Whatever a process tells, until its line is cut."""
        with connection, suppress(OSError, ValueError), connection.makefile("rb") as lines:
            hello = json.loads(lines.readline())
            if not secrets.compare_digest(str(hello.get("key")), self._key):
                return
            for line in lines:
                fact = json.loads(line)
                kind = fact.pop("kind")
                if kind == "ready":
                    self._is_ready(hello["pid"], fact)
                else:
                    self._tell(kind, pid=hello["pid"], **fact)

    def _is_ready(self, pid: int, fact: dict[str, Any]) -> None:
        with self._changed:
            if self._process is None or self._process.pid != pid:
                return
            self._ages = {file: self._ages.get(file, _age(file)) for file in fact["files"]}
            self._url = fact["url"]
            self._changed.notify_all()
        self._tell("worker", state="ready", pid=pid)


def _age(file: str) -> float:
    try:
        return Path(file).stat().st_mtime
    except OSError:
        return 0.0
