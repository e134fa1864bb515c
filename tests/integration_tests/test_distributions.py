"""What is released: built, read as an index would, and used where nothing else of ours lies."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from sysconfig import get_path

import pytest

import langchain_convsync
from tests.conftest import FOREIGN
from tests.pages import DOCS, PAGES, ROOT, blocks


def run(*command: str | Path, cwd: Path, **more: str) -> str:
    """What a command prints."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(FOREIGN)}
    done = subprocess.run(
        command, cwd=cwd, env=inherited | more, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is made of it."""
    folder = tmp_path_factory.mktemp("dist")
    build: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "-d", folder]
    run(*build, "-t", "sdist", cwd=ROOT)
    [source] = folder.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    run(*build, "-t", "wheel", cwd=folder / source.name.removesuffix(".tar.gz"))
    [wheel] = folder.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def python(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; what it needs is seen, but no other copy of it."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "install"]
    run(*pip, "--disable-pip-version-check", "--no-index", "--no-deps", built[1], cwd=folder)
    return python


def test_the_distributions_are_what_an_index_takes(built: tuple[Path, Path]) -> None:
    """Metadata and the description's markup; names tell the version."""
    run(sys.executable, "-m", "twine", "check", "--strict", *built, cwd=built[0].parent)

    assert all(langchain_convsync.__version__ in path.name for path in built)


@pytest.mark.slow  # an environment of its own
def test_the_wheel_works_where_it_is_installed(python: Path) -> None:
    """The command, the README's code, and the pages that come along."""
    dependencies = {"PYTHONPATH": get_path("purelib")}  # a path names no editable installation
    home = python.parents[1]
    [block] = blocks(PAGES[0])

    assert run(python, "-m", "langchain_convsync.cli", "--version", cwd=home, **dependencies) == (
        f"convsync {langchain_convsync.__version__}\n"
    )
    printed = run(python, "-c", block.code, cwd=home, **dependencies)
    assert printed.startswith("¿Qué pizza te gustaría?\nduplicate\n")

    told = run(python, "-m", "langchain_convsync", cwd=home, **dependencies)
    paths = {Path(line.split("  ")[0]) for line in told.splitlines() if str(home) in line}
    assert {path.name for path in paths} == {
        "first-turn.md",
        "llms-full.txt",
        "llms.txt",
        "skill.md",
    }
    assert all(path.is_file() for path in paths)


def test_the_wheel_brings_every_page(python: Path) -> None:
    """`llms.txt` leads to each that is more than docstrings, `llms-full.txt` is all of them."""
    [pages] = python.parents[1].glob("lib/python*/site-packages/langchain_convsync/docs")
    index = (pages / "llms.txt").read_text(encoding="utf-8")
    everything = (pages / "llms-full.txt").read_text(encoding="utf-8")

    for path in DOCS.rglob("*.md"):
        name, text = path.relative_to(DOCS).as_posix(), path.read_text(encoding="utf-8")
        assert (pages / name).read_text(encoding="utf-8") == text
        if not name.startswith("reference/api/"):
            assert f"]({name})\n" in index
            assert text in everything
    for name in ("assets/convsync-alerts.yml", "assets/convsync-dashboard.json"):
        assert (pages / name).read_bytes() == (DOCS / name).read_bytes()
