"""What the repository itself promises: its root, its words, its versions."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import langchain_convsync

ROOT = Path(__file__).parents[2]
VISIBLE = {
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "langchain_convsync",
    "notebooks",
    "pyproject.toml",
    "tests",
}

# Spelled so that this file does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:tmp|work|root|opt|home|Users)/\w|[A-Z]:\\Users")
REGISTRY = re.compile(
    r"pypi\.org|pythonhosted\.org|npmjs\.org|debian\.org|(?:index|find)[-](?:url|links)"
)


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Every file that is, or would be, tracked; relative to the root."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = {Path(name) for name in listing.split("\0") if name}
    return sorted(name for name in names if (ROOT / name).is_file())


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def lines_matching(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    found = []
    for name in files:
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture says no words
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{name}:{number}: {line.strip()[:120]}")
    return found


def test_the_root_holds_what_was_asked_for_and_nothing_else(files: list[Path]) -> None:
    """Who opens the folder sees eight names."""
    visible = {name.parts[0] for name in files if not name.parts[0].startswith(".")}

    assert visible == VISIBLE


def test_no_file_names_a_path_of_somebodys_machine(files: list[Path]) -> None:
    """A clone works anywhere, and tells nothing about where it was made."""
    assert lines_matching(MACHINE_PATH, files) == []


def test_no_file_names_a_package_registry(files: list[Path]) -> None:
    """Where packages come from is the installer's configuration, not ours."""
    assert lines_matching(REGISTRY, files) == []


@pytest.mark.parametrize("before", ["'", "(", " ", "sqlite:///"])
@pytest.mark.parametrize("folder", ["tmp", "work", "root", "opt", "home", "Users"])
def test_a_machine_path_is_recognised(before: str, folder: str) -> None:
    """The guard above is worth what its pattern finds."""
    assert MACHINE_PATH.search(f"{before}/{folder}/x")


def test_the_package_knows_its_version(pyproject: dict[str, Any]) -> None:
    """`__version__`, which requests carry, is the one that was released."""
    assert langchain_convsync.__version__ == pyproject["project"]["version"]


def test_the_source_distribution_holds_what_the_root_holds(pyproject: dict[str, Any]) -> None:
    """Who builds from it can run the tests and the notebooks."""
    included = pyproject["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]

    assert {f"/{name}" for name in VISIBLE} - set(included) == {"/pyproject.toml"}  # always there


def test_the_constraints_are_plain_versions_of_everything_declared(
    pyproject: dict[str, Any],
) -> None:
    """CI installs tested versions by name, and no dependency escapes."""
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []

    project = pyproject["project"]
    declared = [
        *project["dependencies"],
        *(entry for extra in project["optional-dependencies"].values() for entry in extra),
        *(e for g in pyproject["dependency-groups"].values() for e in g if isinstance(e, str)),
    ]
    names = {canonicalize_name(Requirement(entry).name) for entry in declared}
    pinned = {canonicalize_name(pin.partition("==")[0]) for pin in pins}
    assert names - pinned == {"langchain-convsync"}
