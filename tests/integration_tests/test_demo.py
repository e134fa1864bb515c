"""``convsync demo``: the main job as a newcomer sees it."""

from __future__ import annotations

import pytest
from llmock.pytest_plugin import LLMock
from typer.testing import CliRunner

from langchain_convsync.cli import _restaurant, command_line
from tests.openai_bot import asked, calls


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
        '"orderTotal": 50.0',
        "once, in order, for the right tenant",
    ):
        assert shown in result.output
    assert result.output.count("Tenemos Pizza Margherita") == 2  # the chat, and the history


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
