"""What the README promises is proven by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from langchain_convsync.cli import _doctor, command_line

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text below a heading, up to the next one of its level."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


PROMISES = section("What is promised, and what is not")
CHATOPENAI = section("With ChatOpenAI")
SECURITY = section("Security")
OPERATING = section("Operating it")
TROUBLE = section("When something is wrong")
SURFACES, FAULTS = PROMISES.split("\n### ")[1:]


def rows(text: str) -> list[list[str]]:
    """The cells of every row below a table's head."""
    tables = re.findall(r"^\| --- .*\n((?:\| .*\n)+)", text, re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_test_that_is_named_exists() -> None:
    """A renamed test must not leave an unproven promise behind."""
    named = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", README))
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


def test_the_chapter_on_operating_stays_a_chapter() -> None:
    """Who is on call at night reads it whole."""
    assert len(OPERATING.splitlines()) <= 110
    assert 10 <= OPERATING.count("\n- [ ] ") <= 14


SYMPTOMS = rows(re.split(r"\n(?!\|)", TROUBLE.lstrip("\n"))[0] + "\n")


def test_every_symptom_ends_in_a_command_that_exists() -> None:
    """Those of the API's own documentation come first, under the names that they have there."""
    commands = {command.name for command in command_line().registered_commands}

    assert [re.findall("“(.+?)”", row[0]) for row in SYMPTOMS[:3]] == [
        ["No active conversation found"],
        ["Conversation state not syncing"],
        ["Messages out of order"],
    ]
    assert len(SYMPTOMS) >= 8
    for *_, run in SYMPTOMS:
        assert run.startswith("`convsync ")
        assert set(re.findall(r"`convsync (\w+)", run)) - commands == set()


def test_every_check_of_doctor_that_a_symptom_names_exists() -> None:
    """A check is called as doctor prints it."""
    doctor = Path(_doctor.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in doctor.glob("*.py"))
    named = {found for row in SYMPTOMS for found in re.findall(r"`([\w ]+), ([\w ]+)`", row[-1])}

    assert len(named) > 5
    for area, check in named:
        assert f'Area("{area}")' in source
        assert re.search(rf'\(\s*"{check}",', source), check
