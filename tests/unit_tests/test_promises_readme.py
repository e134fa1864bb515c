"""What the README promises is proven by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROMISES = (
    (ROOT / "README.md")
    .read_text(encoding="utf-8")
    .split("\n## What is promised, and what is not\n")[1]
    .split("\n## ")[0]
)
CHATOPENAI = (
    (ROOT / "README.md")
    .read_text(encoding="utf-8")
    .split("\n## With ChatOpenAI\n")[1]
    .split("\n## ")[0]
)
SECURITY = (
    (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Security\n")[1].split("\n## ")[0]
)
SURFACES, FAULTS = PROMISES.split("\n### ")[1:]


def rows(section: str) -> list[list[str]]:
    """The cells of every row below a table's head."""
    tables = re.findall(r"^\| --- .*\n((?:\| .*\n)+)", section, re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_test_that_is_named_exists() -> None:
    """A renamed test must not leave an unproven promise behind."""
    named = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PROMISES + CHATOPENAI + SECURITY))
    defined = {
        (path.name, test)
        for path in ROOT.glob("tests/*/test_*.py")
        for test in re.findall(
            r"^(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }

    assert len(named) > 40
    assert named - defined == set()


def test_every_number_in_the_table_has_its_proof() -> None:
    """And every proof its cell."""
    cited = {int(number) for number in re.findall(r"\[([0-9]+)\]", SURFACES)}
    proofs = [int(number) for number in re.findall(r"^([0-9]+)\. ", SURFACES, re.MULTILINE)]

    assert cited == set(proofs)
    assert proofs == list(range(1, len(proofs) + 1))


def test_every_fault_and_every_promise_about_data_names_its_proof() -> None:
    """The last cell of each row is a test, or the one above."""
    unproven = [
        row[0] for row in rows(FAULTS) if "::test_" not in row[-1] and row[-1] != "the same test"
    ]

    assert len(rows(FAULTS)) > 30
    assert unproven == []


def test_every_case_with_chatopenai_names_its_proof() -> None:
    """Each says what the customer gets and what becomes of the state."""
    cases = rows(CHATOPENAI)

    assert len(cases) > 20
    assert [row[0] for row in cases if len(row) != 4 or "::test_" not in row[-1]] == []


def test_every_security_case_names_its_proof() -> None:
    """Each says what the package does about it; the section stays one page."""
    cases = rows(SECURITY)

    assert len(cases) >= 9
    assert [row[0] for row in cases if len(row) != 3 or "::test_" not in row[-1]] == []
    assert len(SECURITY.splitlines()) <= 30
