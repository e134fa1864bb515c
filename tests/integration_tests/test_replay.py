"""``convsync record`` and ``replay``: a talk becomes a case, and a bot is held against it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from typer.testing import CliRunner

from langchain_convsync import InboundEvent, StateUpdate, TurnRunner
from langchain_convsync.cli import command_line, main
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.testing.pytest_plugin import convsync_replay
from langchain_convsync.workbench import Case, Replay
from tests.developing import BOT

pytestmark = pytest.mark.slow  # a developer's tool, in processes of their own

__all__ = ["convsync_replay"]

PHONE = "+51999888777"
cli = CliRunner()

#: What :data:`BOT` makes of a burst, of a colleague, of a quote.
CASE = """
convsync: 1
steps:
- customer: Hola
  tools: [{clock: {zone: Lima}}]
  state: {intent: idle, step: initial}
  bot: "re: Hola"
- customer: [one, two, three]
  tools: [clock]
  bot: "re: three"
- customer: {text: this, quotes: "re: Hola"}
  bot: "re: > re: Hola this"
- colleague: I am here
  tools: []
- customer: are you?
  bot: []
- do: resume
- customer: boom
  tools: []
  bot: One moment, please
"""
#: The same bot, told to say something else.
WRONG = CASE.replace("re: three", "re: four").replace("zone: Lima", "zone: Quito")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bot, and its cases: of two the second differs."""
    made = tmp_path_factory.mktemp("bot")
    (made / "cases").mkdir()
    for name, text in {"bot.py": BOT, "cases/a.yaml": CASE, "cases/b.yaml": WRONG}.items():
        (made / name).write_text(text, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def replay(folder: Path) -> Iterator[Replay]:
    """The bot, started once."""
    with pytest.MonkeyPatch.context() as patched, Replay("bot:runner") as playing:
        patched.chdir(folder)
        yield playing


def test_cases_are_played_and_what_is_different_is_told(folder: Path) -> None:
    """By the command: a line for each case, its differences, JUnit's file, and status 1."""
    command = [sys.executable, "-m", "langchain_convsync.cli", "replay", "cases", "bot:runner"]
    done = subprocess.run(
        [*command, "--words", "exact", "--junit", "told.xml"],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    suite = ElementTree.parse(folder / "told.xml").getroot()
    [failure] = suite.iter("failure")

    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("ok       a.yaml (")
    assert "differs  b.yaml (" in done.stdout
    assert 'tools: expected clock(zone="Quito"), now clock(zone="Lima")' in done.stdout
    assert "  step 2, the customer: one · two · three\n" in done.stdout
    assert "    bot: expected “re: four”, now “re: three”\n" in done.stdout
    assert done.stdout.endswith("2 cases, 1 differs\n")
    assert dict(suite.attrib) == {"name": "convsync replay", "tests": "2", "failures": "1"}
    assert "re: four" in str(failure.text)


def test_each_run_is_a_customer_nobody_has_met(replay: Replay) -> None:
    """So that one run tells nothing to the next."""
    played = [replay.play(Case.read(CASE), words="exact") for _ in range(2)]

    assert [each.differences for each in played] == [(), ()]


def test_words_count_as_much_as_they_are_asked_for(replay: Replay) -> None:
    """Not at all, unless they are."""
    case = Case.read("steps: [{customer: Hola, bot: HOLA}]")

    assert replay.play(case).is_same
    assert replay.play(case, words="contains").is_same
    assert str(replay.play(case, words="exact")) == (
        "case: differs\n  step 1, the customer: Hola\n    bot: expected “HOLA”, now “re: Hola”"
    )


def test_a_simulated_customer_talks_to_the_bot(replay: Replay) -> None:
    """As openevals' simulation calls an app: a message and a thread, which is a customer."""
    said = replay.answer({"role": "user", "content": "Hola", "id": "1"}, thread_id="one")

    assert said == {"role": "assistant", "content": "re: Hola"}
    assert replay.answer("boom", thread_id="two")["content"] == "One moment, please"


async def test_a_simulated_customer_talks_awaited(replay: Replay) -> None:
    """The loop goes on meanwhile."""
    said = await replay.aanswer({"role": "user", "content": "again"}, thread_id="one")

    assert said["content"] == "re: again"


def test_the_fixture_fails_where_a_case_differs(
    folder: Path, convsync_replay: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same lines as the command."""
    assert callable(convsync_replay)
    monkeypatch.chdir(folder)
    convsync_replay("cases/a.yaml", "bot:runner", words="exact")

    with pytest.raises(pytest.fail.Exception, match="expected “re: four”, now “re: three”"):
        convsync_replay(folder / "cases", "bot:runner", words="exact")


@pytest.mark.parametrize(
    ("case", "runner", "error"),
    [
        ("steps: [{customer: no}]", ["bot:runner"], "case.yaml, step 1 customer 1: is not text"),
        ("steps: [{customer: Hola}]", [], "name your runner, e.g. my_bot:runner, or use --demo"),
        ("steps: [{customer: Hola}]", ["bott:runner"], "there is no module 'bott' here"),
        (
            "steps: [{customer: {characters: 4}}]",
            ["bot:runner"],
            "case.yaml, step 1: the customer's words are left out",
        ),
    ],
)
def test_what_cannot_be_played_is_told_in_one_line(
    tmp_path: Path,
    case: str,
    runner: list[str],
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 2."""
    (tmp_path / "case.yaml").write_text(case, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["convsync", "replay", "case.yaml", *runner])
    with pytest.raises(SystemExit) as ended:
        main()
    [line] = capsys.readouterr().err.splitlines()

    assert ended.value.code == 2
    assert line.startswith(f"convsync: {error}")


def test_a_stores_conversation_becomes_a_case(durable_store_url: str) -> None:
    """By its key; with its words only if they are asked for, and never with the number."""
    with ReferenceServer() as server:
        server.create_conversation(phone_number=PHONE)
        runner = TurnRunner(
            RunnableLambda(lambda messages: AIMessage(f"re: {messages[-1].content}")),
            client=server.client(),
            store=durable_store_url,
            extractor=lambda _: StateUpdate(
                intent="order", step="selecting", context={"call": "999-888-777", "items": 2}
            ),
        )
        for number, text in enumerate(("Hola", "call me: +51 999 888 777")):
            runner.run(InboundEvent(event_id=str(number), phone_number=PHONE, text=text))
        runner.close()
    command = ["record", PHONE, "--store", durable_store_url]
    told, bare = (cli.invoke(command_line(), [*command, *more]).stdout for more in (["--text"], []))
    first, last = Case.read(told).steps

    assert first.customer == ["Hola"]
    assert first.bot == ["re: Hola"]
    assert last.customer == ["call me: +51999999999"]
    assert last.state is not None
    assert (last.state.intent, last.state.step) == ("order", "selecting")
    assert last.state.context == {"call": "+51999999999", "items": 2}
    for text in (told, bare):
        assert "888" not in text.split("conversation:")[1].split("\n", 1)[1]
    document = yaml.safe_load(bare)
    assert document["conversation"].count(".") == 2
    assert document["steps"] == [
        {"customer": [{"characters": 4}]},
        {
            "customer": [{"characters": 24}],
            "state": {"intent": "order", "step": "selecting", "context": ["call", "items"]},
        },
    ]
