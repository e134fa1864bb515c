"""``convsync demo``: the main job as a newcomer sees it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from llmock.pytest_plugin import LLMock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from langchain_convsync.cli import _restaurant, command_line
from tests.openai_bot import asked, calls

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def test_the_demo_answers_remembers_and_syncs() -> None:
    """Chat, tenant, moving state, duplicates answered once, and the state read back."""
    result = CliRunner().invoke(command_line(), ["demo"])

    assert result.exit_code == 0, result.output
    for shown in (
        "restaurant-abc",
        "Quiero una pizza",
        "Total: S/ 50.00",
        "duplicate: answered before",
        "order → payment",
    ):
        assert shown in result.output
    assert result.output.count("Tenemos Pizza Margherita") == 1  # the chat, and no JSON
    summary = result.output.splitlines()[-1]
    assert summary.endswith("once, in order, for the right tenant.")


def test_the_demos_json_is_the_state_read_back() -> None:
    """A program reads one object; the story does not get in its way."""
    result = CliRunner().invoke(command_line(), ["demo", "--json"])

    assert result.exit_code == 0, result.output
    state = json.loads(result.stdout)
    assert (state["subDomain"], state["context"]["orderTotal"]) == ("restaurant-abc", 50.0)
    assert "Tenemos Pizza Margherita" in result.stdout
    assert "once, in order, for the right tenant" in result.stderr


@pytest.mark.slow  # a process of its own that imports everything
def test_the_demo_needs_no_more_than_make_installs_for_it() -> None:
    """Whoever runs `make demo` first has not installed the rest."""
    rule = re.search(r"--editable '\.\[([a-z,]+)", MAKEFILE.read_text(encoding="utf-8"))
    assert rule is not None
    installed = with_requirements(f"langchain-convsync[{rule[1]}]")
    absent = [
        module
        for module, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & installed
    ]
    assert {"aiohttp", "langchain_openai", "pytest"} <= {*absent}
    code = f"""
import sys
sys.modules.update(dict.fromkeys({absent!r}))  # as if they were not installed
from langchain_convsync.cli import main
sys.argv = ["convsync", "demo"]
main()
"""

    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=300
    )

    assert done.returncode == 0, done.stderr
    assert "once, in order, for the right tenant" in done.stdout


def with_requirements(requirement: str) -> set[str]:
    """The names of a distribution and of all that it needs, its extras' needs included."""
    found: set[tuple[str, str]] = set()
    left = [Requirement(requirement)]
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        for extra in {"", *wanted.extras} - {known for of, known in found if of == name}:
            found.add((name, extra))
            needs = map(Requirement, requires(name) or ())
            left += [n for n in needs if n.marker is None or n.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def test_the_demo_fails_when_the_state_read_back_is_not_what_it_should_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its exit code can be trusted."""
    monkeypatch.setattr(_restaurant, "DELIVERIES", _restaurant.DELIVERIES[:2])

    result = CliRunner().invoke(command_line(), ["demo"])

    assert result.exit_code == 1
    assert "3 messages were to be answered, 2 were" in result.output


def test_the_demo_uses_openai_where_a_key_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same agent, another model."""
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    monkeypatch.setenv("OPENAI_MODEL", "some-model")

    model = _restaurant._model()

    assert type(model).__name__ == "ChatOpenAI"
    assert model.model_dump()["model_name"] == "some-model"


def test_the_demo_talks_to_openai(llmock: LLMock) -> None:
    """A real ChatOpenAI plays the same conversation; what it decides is its own business."""
    llmock.reply("¡Hola!").add(calls(("menu", {}), ("sync_state", {"intent": "order"})))
    llmock.reply("Pizza a S/ 25.00.").reply("¡Perfecto!")

    result = CliRunner().invoke(command_line(), ["demo"])

    assert result.exit_code == 0, result.output
    assert "Pizza a S/ 25.00." in result.output
    assert asked(llmock) == [200] * 4


def test_the_demo_says_why_openai_did_not_answer(llmock: LLMock) -> None:
    """A wrong key, say: not that the message was answered before."""
    llmock.fail(401, times=None)

    result = CliRunner().invoke(command_line(), ["demo"])

    assert result.exit_code == 1
    assert "the agent failed: OpenAIAuthenticationError" in result.output
    assert "3 messages were to be answered, 0 were" in result.output
