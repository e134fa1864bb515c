"""A chat model that follows a script: it drives a real agent, costs nothing, and never varies."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, Field, PrivateAttr

from langchain_convsync import _forks
from langchain_convsync._checked import checked

Line: TypeAlias = str | AIMessage | BaseModel | Exception
Response: TypeAlias = Line | Callable[[list[BaseMessage]], Line]


class _Script(_forks.Unpicklable):
    """What is left to say; a model's copy goes on with it."""

    @checked
    def __init__(self, responses: Iterable[Response]) -> None:
        self.left = iter(responses)
        self.lock = _forks.lock()


class ScriptedChatModel(BaseChatModel):
    """Answers with one response of a script after the other, whatever it is asked.

    ::

        model = ScriptedChatModel(
            [
                AIMessage("", tool_calls=[{"name": "menu", "args": {}, "id": "1"}]),
                lambda messages: f"Tenemos {messages[-1].content}. ¿Qué deseas?",
            ]
        )
        agent = create_agent(model, tools=[menu])

    Args:
        responses: The script. A text becomes an ``AIMessage``. An ``AIMessage`` may call tools. Any
            other pydantic object is the structured answer of ``with_structured_output`` or
            ``response_format``. An exception is raised. A callable gets the messages and returns
            one of those. ``itertools.repeat(callable)`` never ends.

    Attributes:
        model: The name that traces show.
        calls: The messages of each call so far.
        tools: The tools that were bound last, in OpenAI's format.
    """

    model: str = "scripted"
    calls: list[list[BaseMessage]] = Field(default_factory=list, repr=False)
    tools: list[dict[str, Any]] = Field(default_factory=list, repr=False)

    _script: _Script = PrivateAttr()

    def __init__(self, responses: Iterable[Response], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._script = _Script(responses)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the script; it calls whichever it is written to call."""
        self.tools = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=self.tools, tool_choice=tool_choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in _chunks(self._answer(messages)):
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _chunks(self._answer(messages)):
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _answer(self, messages: list[BaseMessage]) -> AIMessage:
        with self._script.lock:
            self.calls.append(list(messages))
            number = len(self.calls)
            try:
                response = next(self._script.left)
            except StopIteration:
                message = f"the script of ScriptedChatModel ended before its call number {number}"
                raise RuntimeError(message) from None
        if callable(response):
            response = response(list(messages))
        if isinstance(response, Exception):
            raise response
        return _as_message(response, number)


def _as_message(line: str | BaseModel, number: int) -> AIMessage:
    if isinstance(line, str):
        return AIMessage(line)
    if isinstance(line, AIMessage):
        return line.model_copy(deep=True)  # LangChain numbers it; a script may be played again
    call = {"name": type(line).__name__, "args": line.model_dump(mode="json"), "id": f"{number}"}
    return AIMessage("", tool_calls=[{**call, "type": "tool_call"}])


def _chunks(message: AIMessage) -> Iterator[ChatGenerationChunk]:
    """The message word by word; what is not text comes with the last piece."""
    *first, last = _words(message.content) or [""]
    for word in first:
        yield ChatGenerationChunk(message=AIMessageChunk(content=word, id=message.id))
    calls = [
        tool_call_chunk(
            name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index
        )
        for index, call in enumerate(message.tool_calls)
    ]
    yield ChatGenerationChunk(
        message=AIMessageChunk(
            content=last,
            id=message.id,
            tool_call_chunks=calls,
            additional_kwargs=message.additional_kwargs,
            response_metadata=message.response_metadata,
            usage_metadata=message.usage_metadata,
            chunk_position="last",
        )
    )


def _words(content: str | list[Any]) -> list[Any]:
    if not isinstance(content, str):
        return [content]
    return [word for word in re.findall(r"\S*\s*", content) if word]
