"""The notebooks run as they stand, and show what they would show."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tests.notebooks import NOTEBOOKS, complaints, read, run, text_of


@pytest.mark.parametrize(
    "path",
    # The first shows that they run; what the others show has tests of its own.
    [NOTEBOOKS[0], *(pytest.param(path, marks=pytest.mark.slow) for path in NOTEBOOKS[1:])],
    ids=lambda path: path.stem,
)
def test_a_notebook_shows_what_a_run_of_it_shows(path: Path, tmp_path: Path) -> None:
    """No cell fails or complains, no file is left, no output is stale: `make notebooks` renews."""
    committed = path.read_text(encoding="utf-8")

    ran = run(read(path), tmp_path)

    assert complaints(ran) == []
    assert text_of(ran).splitlines() == committed.splitlines()
    assert list(tmp_path.iterdir()) == []


SUSPECT = [
    "import os, socket, sys\nos.listdir()",
    "[name for name in os.environ if name.startswith(('OPENAI_', 'CONVSYNC_'))]",
    "print('careless', file=sys.stderr)",
    "socket.create_connection(('255.255.255.255', 9))",
]


def test_the_runner_sees_what_it_is_there_to_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook gets an empty folder, nobody's keys and no network, and is caught complaining."""
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    make = nbformat.v4
    cells = [make.new_code_cell(source) for source in SUSPECT]  # type: ignore[no-untyped-call]
    notebook = make.new_notebook(cells=cells)  # type: ignore[no-untyped-call]

    with pytest.raises(CellExecutionError, match="must not leave this machine"):
        run(notebook, tmp_path)

    folder, keys = (cell.outputs[0].data["text/plain"] for cell in notebook.cells[:2])
    assert (folder, keys) == ("[]", "[]")
    assert complaints(notebook) == ["careless\n"]
