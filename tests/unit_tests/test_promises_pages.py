"""What the pages promise is proven by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from langchain_convsync.cli import _doctor, command_line
from tests.pages import DOCS, PAGES, ROOT, page, rows

PROOFS = page("trust/proofs")
TROUBLE = page("run/trouble").split("\n## Doctor\n")[0].split("\n## ")[1:]


def cited(text: str) -> set[int]:
    """The numbers that a text refers to."""
    text = re.sub(r"^```.*?^```$|^\[\d+\]: .*$", "", text, flags=re.MULTILINE | re.DOTALL)
    return {int(number) for number in re.findall(r"\[(\d+)\](?!\()", text)}


def unproven(text: str, cells: int) -> list[str]:
    """The rows whose last cell is no number, or that have another number of cells."""
    return [row[0] for row in rows(text) if len(row) != cells or not cited(row[-1])]


def test_every_test_that_is_named_exists() -> None:
    """A renamed test must not leave an unproven promise behind."""
    named = {tuple(test.strip("`").split("::")) for _, test in rows(PROOFS)}
    defined = {
        (path.name, test)
        for path in ROOT.glob("tests/*/test_*.py")
        for test in re.findall(
            r"^(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }

    assert len(named) > 100
    assert named - defined == set()


def test_every_number_has_its_proof_and_every_proof_its_promise() -> None:
    """One table holds all of them, in order."""
    proofs = [int(number) for number in re.findall(r'<a id="p(\d+)">', PROOFS)]
    pages = {path: path.read_text(encoding="utf-8") for path in PAGES if path.stem != "proofs"}

    assert set().union(*map(cited, pages.values())) == set(proofs)
    assert proofs == list(range(1, len(proofs) + 1))
    for path, text in pages.items():
        links = dict(re.findall(r"^\[(\d+)\]: \S*proofs\.md#p(\d+)$", text, re.MULTILINE))
        assert {int(number) for number in links} == cited(text), path
        assert all(number == target for number, target in links.items()), path


def test_every_fault_and_every_promise_about_data_names_its_proof() -> None:
    """The last cell of each row."""
    data = page("trust/promises").split("\n## Whose data is where\n")[1]

    assert len(rows(page("trust/faults"))) > 30
    assert unproven(page("trust/faults"), 4) == []
    assert len(rows(data)) >= 5
    assert unproven(data, 2) == []


def test_every_case_with_chatopenai_names_its_proof() -> None:
    """Each says what the customer gets and what becomes of the state."""
    assert len(rows(page("build/chatopenai"))) > 20
    assert unproven(page("build/chatopenai"), 4) == []


def test_every_security_case_names_its_proof() -> None:
    """Each says what the package does about it."""
    assert len(rows(page("run/security"))) >= 9
    assert unproven(page("run/security"), 3) == []


def test_the_checklist_stays_a_checklist() -> None:
    """Who is about to go live reads it whole."""
    assert 10 <= page("run/checklist").count("\n- [ ] ") <= 14


def test_every_symptom_ends_in_a_command_that_exists() -> None:
    """Those of the API's own documentation come first, under the names that they have there."""
    commands = {command.name for command in command_line().registered_commands}

    assert [symptom.partition("\n")[0] for symptom in TROUBLE[:3]] == [
        "“No active conversation found”",
        "“Conversation state not syncing”",
        "“Messages out of order”",
    ]
    assert len(TROUBLE) >= 8
    for symptom in TROUBLE:
        assert "\n\nRun `convsync " in symptom
        assert set(re.findall(r"`convsync ([\w-]+)", symptom)) - commands == set()


def test_every_check_of_doctor_that_a_symptom_names_exists() -> None:
    """A check is called as doctor prints it."""
    doctor = Path(_doctor.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in doctor.glob("*.py"))
    runs = [symptom.split("\n\nRun ")[1] for symptom in TROUBLE]
    named = {found for run in runs for found in re.findall(r"`([\w ]+),\s([\w ]+)`", run)}

    assert len(named) > 5
    for area, check in named:
        assert f'Area("{area}")' in source
        assert re.search(rf'\(\s*"{check}",', source), check


def test_every_page_is_in_the_navigation_once() -> None:
    """A page that is not there is found by nobody."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    listed = re.findall(r"([\w/-]+\.md)", navigation)

    assert sorted(listed) == sorted(
        path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")
    )


def test_who_reads_the_site_asks_no_other_host() -> None:
    """No font is fetched, and nobody's stars."""
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")

    assert re.search(r"^  font: false\b", settings, re.MULTILINE)
    assert re.search(r"^repo_url:", settings, re.MULTILINE) is None
    assert "https://" not in (DOCS / "assets" / "site.css").read_text(encoding="utf-8")
    assert "@font-face" not in (DOCS / "assets" / "demo.svg").read_text(encoding="utf-8")
