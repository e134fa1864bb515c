"""LangGraph's own server, as ``langgraph dev`` runs it: in memory, and without a network."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.agent_server import graphs

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".venv-langgraph"
IS_INSTALLED = (PLACE / ".installed").exists()
#: Why its tests cannot run where it is missing.
MISSING = "LangGraph's server is not installed: `make langgraph` does that, from a package index"
#: Seconds after which it is not waited for any longer; it takes two.
PATIENCE = 300.0
#: What it says when it serves.
READY = "Application started up"


@contextmanager
def serving(**environment: str) -> Iterator[str]:
    """Where it answers; it is gone in the end.

    Args:
        environment: More of its environment than what keeps it to itself.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    alone = {
        "LANGSMITH_TRACING": "false",
        "LANGGRAPH_NO_VERSION_CHECK": "true",  # it would ask the index for a newer one
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [
        str(PLACE / "bin" / "langgraph"),
        "dev",
        "--no-browser",
        "--no-reload",
        "--port",
        str(port),
    ]
    with tempfile.TemporaryDirectory() as folder:  # it keeps its threads in the current one
        source = Path(graphs.__file__)
        served = {name: f"{source}:{name}" for name in graphs.GRAPHS}
        config = {"dependencies": ["."], "graphs": served}
        Path(folder, "langgraph.json").write_text(json.dumps(config))
        with subprocess.Popen(
            [*command, "--n-jobs-per-worker", "4"],
            cwd=folder,
            env={**os.environ, **alone, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            said: list[str] = []
            begun = threading.Event()

            def listen() -> None:
                assert process.stdout is not None
                for line in process.stdout:
                    said.append(line)
                    if READY in line:
                        begun.set()
                begun.set()

            listener = threading.Thread(target=listen)
            listener.start()
            try:
                begun.wait(PATIENCE)
                assert any(READY in line for line in said), "".join(said)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()
                listener.join()
