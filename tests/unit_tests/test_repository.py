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
from tests.pages import page

ROOT = Path(__file__).parents[2]
VISIBLE = {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "docs",
    "langchain_convsync",
    "mkdocs.yml",
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
    """Who opens the folder sees eleven names."""
    visible = {name.parts[0] for name in files if not name.parts[0].startswith(".")}

    assert visible == VISIBLE


def test_no_file_names_a_path_of_a_developers_machine(files: list[Path]) -> None:
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
    """Who builds from it can install the tested versions, run the tests and the notebooks."""
    included = pyproject["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]

    needed = {f"/{name}" for name in VISIBLE | {".ci", ".github"}}
    assert needed - set(included) == {"/pyproject.toml"}  # always there


def test_the_guide_for_contributors_names_what_is_there() -> None:
    """Who follows a turn's path finds every file, and who runs the checks every target."""
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    guide += page("develop/turn") + page("develop/surface")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    paths = re.findall(r"`([\w/]+\.(?:py|lua|md|toml))`", guide)

    assert len(paths) > 10
    package = ROOT / "langchain_convsync"
    assert [p for p in paths if not any((top / p).is_file() for top in (ROOT, package))] == []
    assert set(re.findall(r"\bmake ([a-z-]+)", guide)) - set(targets) == set()


def test_continuous_integration_runs_the_local_checks(pyproject: dict[str, Any]) -> None:
    """On every supported Python, by actions that cannot change, without the right to write."""
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    supported = [
        found[1]
        for name in pyproject["project"]["classifiers"]
        if (found := re.search(r"Python :: (3\.\d+)$", name))
    ]
    actions = re.findall(r"uses: (\S+)", workflow)

    assert re.findall(r"python: \[(.*)\]", workflow) == [
        ", ".join(f'"{version}"' for version in supported)
    ]
    assert "- run: .ci/run\n" in workflow
    assert "\npermissions:\n  contents: read\n\n" in workflow
    assert workflow.count("permissions:") == 1
    assert [each for each in actions if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", each)] == []
    assert len(set(actions)) == 2


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
