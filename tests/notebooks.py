"""Runs the notebooks as a reader would; ``python -m tests.notebooks`` rewrites their outputs.

Each runs in a fresh kernel, in an empty folder, without anything that a developer has configured,
and its processes reach no other machine.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.conftest import FOREIGN, PROXIES

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

#: Python runs it at the start of the kernel and of every process that the kernel starts.
SITE = """
import socket

def guarded(connect):
    def guard(self, address):
        if isinstance(address, tuple) and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise RuntimeError("a notebook must not leave this machine")
        return connect(self, address)
    return guard

socket.socket.connect = guarded(socket.socket.connect)
socket.socket.connect_ex = guarded(socket.socket.connect_ex)
"""


def read(path: Path) -> NotebookNode:
    """A notebook as it is committed."""
    notebook: NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def run(notebook: NotebookNode, work: Path) -> NotebookNode:
    """The notebook with the outputs of a run in that folder.

    Raises:
        CellExecutionError: A cell fails.
    """
    with TemporaryDirectory(prefix="notebook-") as name:
        hidden = Path(name)
        (hidden / "sitecustomize.py").write_text(SITE, encoding="utf-8")
        client = NotebookClient(
            notebook,
            km=AsyncKernelManager(connection_file=str(hidden / "kernel.json")),
            resources={"metadata": {"path": str(work)}},
            extra_arguments=["--log-level=ERROR"],  # loopback needs no encryption
            timeout=120,
            record_timing=False,
            coalesce_streams=True,
        )
        ran: NotebookNode = client.execute(env=_environment(hidden), cleanup_kc=True)
    # Which Python ran it is no result.
    ran.metadata["language_info"] = {"name": "python"}
    return ran


def text_of(notebook: NotebookNode) -> str:
    """What a notebook's file holds."""
    text: str = nbformat.writes(notebook)  # type: ignore[no-untyped-call]
    return f"{text}\n"


def complaints(notebook: NotebookNode) -> list[str]:
    """What its cells wrote to stderr: warnings, logs, tracebacks of threads."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output["text"] for output in outputs if output.get("name") == "stderr"]


def _environment(hidden: Path) -> dict[str, str]:
    """What a kernel sees: nobody's keys, proxies and profiles."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith((*FOREIGN, "PYTHON", "IPYTHON", "JUPYTER"))
        and name.upper() not in PROXIES
    }
    return {
        **kept,
        "IPYTHONDIR": str(hidden),
        "LANGSMITH_TRACING": "false",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else the debugger may complain of frozen modules
        "PYTHONPATH": str(hidden),
        "PYTHONUTF8": "1",
    }


def main() -> None:
    """Rewrite every notebook with the outputs of a run."""
    for path in NOTEBOOKS:
        with TemporaryDirectory(prefix="notebook-") as work:
            ran = run(read(path), Path(work))
        if told := complaints(ran):
            sys.exit(f"{path.name} writes to stderr: {told}")
        path.write_text(text_of(ran), encoding="utf-8")
        sys.stdout.write(f"{path.name}\n")


if __name__ == "__main__":
    main()
