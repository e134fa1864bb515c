"""What a run decided about the conversation: one extraction for every surface.

In this order, the first that decides anything wins: the user's extractor, ``structured_response``,
the state keys ``intent``/``step``/``context`` that changed in this run, the ``sync_state`` calls of
this run, metadata of the last message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.load.serializable import Serializable
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import BaseModel, ValidationError

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, Io
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.messages import cut_off, messages_of
from langchain_convsync.models import PartialConversation, StateUpdate

SYNC_TOOL = "sync_state"
STATE_TYPES: Mapping[str, type] = {
    "intent": str,
    "step": str,
    "context": Mapping,
    "metadata": Mapping,
    "is_active": bool,
}

Decision: TypeAlias = StateUpdate | Mapping[str, Any] | None
Extractor: TypeAlias = Callable[[Any], Decision | Awaitable[Decision]] | Runnable[Any, Decision]
#: A question about a run is no part of it: its callbacks must not hear of it.
_APART: RunnableConfig = {"callbacks": []}


def extract(
    output: object,
    *,
    baseline: Mapping[str, Any] | None = None,
    known_messages: int = 0,
    tool_calls: bool = True,
) -> StateUpdate:
    """What a run's output says about the state; an empty update when it says nothing.

    Args:
        output: What the runnable returned: an agent's or graph's final state, a message, an object
            with ``intent`` and ``step``, a mapping.
        baseline: The state before the run. A checkpointer brings old values back; only what differs
            from the baseline was decided now.
        known_messages: How many of the output's messages were there before the run.
        tool_calls: Whether calls of the ``sync_state`` tool count; failed ones never do, nor those
            whose tool has written itself.
    """
    before = baseline or {}
    values = output if isinstance(output, Mapping) else {"structured_response": output}
    messages = messages_of(output)[known_messages:]
    structured = values.get("structured_response")
    found = StateUpdate()
    # LangChain's own objects decide nothing: a retriever's document has metadata of another kind.
    if not isinstance(structured, Serializable) and structured != before.get("structured_response"):
        found = as_update(structured)
    found = found or _changed_keys(values, before)
    if tool_calls:
        found = found or _called(messages)
    return found or (as_update(_metadata(messages[-1])) if messages else found)


def ask(extractor: Extractor, output: object) -> Flow[Decision]:
    """What the user's extractor says; None where it leaves the decision to :func:`extract`.

    Raises:
        ConfigurationError: An async extractor in a blocking run.
    """

    def block() -> Decision:
        if isinstance(extractor, Runnable):
            return extractor.invoke(output, _APART)
        decision = extractor(output)
        if isinstance(decision, Awaitable):
            if isinstance(decision, Coroutine):
                decision.close()  # never awaited, and that is said better below
            message = "the extractor is async: run the agent async, or pass a plain function"
            raise ConfigurationError(message)
        return decision

    async def wait() -> Decision:
        if isinstance(extractor, Runnable):
            return await extractor.ainvoke(output, _APART)
        decision = extractor(output)
        return await decision if isinstance(decision, Awaitable) else decision

    return (yield from Io(block, wait))


def as_update(decision: object) -> StateUpdate:
    """A state update from anything that has its fields.

    Fields of another type are somebody else's: a retrieval chain's ``context`` is a list
    of documents.
    """
    if isinstance(decision, StateUpdate):
        return decision
    if isinstance(decision, BaseModel):
        decision = decision.model_dump(mode="json")
    if not isinstance(decision, Mapping):
        decision = {key: getattr(decision, key, None) for key in STATE_TYPES}
    fields = {
        key: decision[key]
        for key, kind in STATE_TYPES.items()
        if isinstance(decision.get(key), kind)
    }
    try:
        return StateUpdate.model_validate(fields)
    except ValidationError:
        telemetry.count("state_rejected")
        return StateUpdate()


def _changed_keys(values: Mapping[str, Any], before: Mapping[str, Any]) -> StateUpdate:
    return as_update(
        {k: values[k] for k in STATE_TYPES if k in values and values[k] != before.get(k)}
    )


def _called(messages: Sequence[BaseMessage]) -> StateUpdate:
    """The ``sync_state`` calls of the run that are still to be written, the later ones on top.

    One that was cut off may say anything: of the intent "order", half is "or".
    """
    settled = {
        message.tool_call_id
        for message in messages
        if isinstance(message, ToolMessage)
        and (message.status == "error" or _is_answer(message.artifact))
    }
    update = StateUpdate()
    for message in messages:
        if not isinstance(message, AIMessage) or cut_off(message):
            continue
        for call in message.tool_calls:
            if call["name"] == SYNC_TOOL and call["id"] not in settled:
                update = update.updated_by(as_update(call["args"]))
    return update


def _is_answer(artifact: object) -> bool:
    """Whether a tool came back with the server's answer; checkpoints make a mapping of it."""
    if isinstance(artifact, Mapping):
        return "session_id" in artifact
    return isinstance(artifact, PartialConversation)


def _metadata(message: BaseMessage) -> Mapping[str, Any]:
    metadata = {**message.additional_kwargs, **message.response_metadata}
    return {key: metadata.get(key) for key in ("intent", "step", "context")}
