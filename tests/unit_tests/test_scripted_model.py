"""The scripted chat model: deterministic, and real enough to drive an agent."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_tests.unit_tests import ChatModelUnitTests
from pydantic import BaseModel

from langchain_convsync.testing import ScriptedChatModel
from tests.surfaces import calls, invoke, sync_and_async


class Order(BaseModel):
    """What a customer ordered."""

    item: str


@tool
def menu() -> str:
    """Tell the menu."""
    return "pizza"


class TestStandards(ChatModelUnitTests):
    """LangChain's own expectations of a chat model."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ScriptedChatModel

    @property
    def chat_model_params(self) -> dict[str, object]:
        return {"responses": ["Hola"]}


@sync_and_async
async def test_responses_come_in_order(mode: str) -> None:
    """A script is played from its beginning, whoever asks."""
    model = ScriptedChatModel(["Hola", AIMessage("¿Qué deseas?")])

    answers = [(await invoke(mode, model, "?")).content for _ in range(2)]

    assert answers == ["Hola", "¿Qué deseas?"]


@sync_and_async
async def test_a_callable_sees_the_messages(mode: str) -> None:
    """A script can react."""
    model = ScriptedChatModel([lambda messages: f"{messages[-1].content}, claro"])

    assert (await invoke(mode, model, "Una pizza")).content == "Una pizza, claro"


@sync_and_async
async def test_an_exception_is_raised(mode: str) -> None:
    """A script can fail, and go on."""
    model = ScriptedChatModel([TimeoutError("slow"), "Hola"])

    with pytest.raises(TimeoutError, match="slow"):
        await invoke(mode, model, "?")

    assert (await invoke(mode, model, "?")).content == "Hola"


@sync_and_async
async def test_the_end_of_the_script_says_so(mode: str) -> None:
    """A test that calls the model too often learns where."""
    model = ScriptedChatModel(["Hola"])
    await invoke(mode, model, "?")

    with pytest.raises(RuntimeError, match="call number 2"):
        await invoke(mode, model, "?")


def test_a_script_may_have_no_end() -> None:
    """For demos and benchmarks."""
    model = ScriptedChatModel(itertools.repeat("Hola"))

    assert {model.invoke("?").content for _ in range(100)} == {"Hola"}


def test_calls_keep_what_the_model_was_told() -> None:
    """A test can look at every prompt."""
    model = ScriptedChatModel(["Hola"])

    model.invoke([HumanMessage("Una pizza")])

    assert [[message.content for message in call] for call in model.calls] == [["Una pizza"]]


@pytest.mark.parametrize("text", ["Una pizza  por favor", "  Hola\n", "", " "])
def test_a_text_streams_word_by_word(text: str) -> None:
    """The pieces are the text, nothing lost and nothing added."""
    pieces = [chunk.content for chunk in ScriptedChatModel([text]).stream("?")]

    assert "".join(map(str, pieces)) == text
    assert len([piece for piece in pieces if str(piece).strip()]) == len(text.split())


async def test_an_async_stream_is_the_same() -> None:
    """Sync and async play the same script."""
    pieces = [chunk.content async for chunk in ScriptedChatModel(["Una pizza"]).astream("?")]

    assert pieces == ["Una ", "pizza"]


def test_tool_calls_survive_a_stream() -> None:
    """Agents stream their model, too."""
    model = ScriptedChatModel([calls("menu")])

    first, *rest = model.stream("?")

    assert sum(rest, first).tool_calls == calls("menu").tool_calls


@sync_and_async
async def test_it_drives_a_real_agent(mode: str) -> None:
    """Tool calls are executed, their results come back to the script."""
    model = ScriptedChatModel([calls("menu"), lambda messages: f"Tenemos {messages[-1].content}"])
    agent = create_agent(model, [menu])

    result = await invoke(mode, agent, {"messages": [("user", "¿Qué hay?")]})

    assert result["messages"][-1].content == "Tenemos pizza"
    assert [each["function"]["name"] for each in model.tools] == ["menu"]


@sync_and_async
async def test_an_object_is_a_structured_answer(mode: str) -> None:
    """For models and for agents."""
    model = ScriptedChatModel([Order(item="pizza"), Order(item="lomo")])
    agent = create_agent(model, [], response_format=ToolStrategy(Order))

    answer = await invoke(mode, model.with_structured_output(Order), "?")
    result = await invoke(mode, agent, {"messages": [("user", "?")]})

    assert (answer, result["structured_response"]) == (Order(item="pizza"), Order(item="lomo"))


def test_a_scripted_message_can_be_played_again() -> None:
    """LangChain numbers what a model returns; the script keeps its own."""
    line = AIMessage("Hola")
    model = ScriptedChatModel([line, line])

    first, second = model.invoke("?"), model.invoke("?")

    assert line.id is None
    assert first.id != second.id


def test_threads_share_a_script_line_by_line() -> None:
    """Every response is given once."""
    model = ScriptedChatModel(str(number) for number in range(100))

    def answer(_: int) -> str | list[str | dict[str, object]]:
        message: BaseMessage = model.invoke("?")
        return message.content

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, range(100)))

    assert sorted(map(int, map(str, answers))) == list(range(100))
