"""What a run of an agent says to the customer: texts, files, or nothing. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, ToolMessage

from langchain_convsync.reply import Handoff, Reply, reply_in, reply_of_server
from langchain_convsync.surfaces.limits import limit_in
from langchain_convsync.surfaces.messages import (
    carrying,
    flaw_in,
    last_reply,
    messages_of,
    text_in,
)
from langchain_convsync.turns.shapes import is_pieces, unusable


class EmptyReplyError(ValueError):
    """The agent ended without a text for the customer."""


class LimitReachedError(ValueError):
    """A limit ended the agent's run, and its words for that are LangChain's."""


class OverlongReplyError(ValueError):
    """The agent's text is longer than a WhatsApp message."""


class IncompleteReplyError(ValueError):
    """What the agent's model said was cut off, or calls a tool with arguments that are not JSON."""


#: Characters that WhatsApp takes as one message.
LONGEST_REPLY = 65_536
#: What models put around a marker that they were told to answer with.
_AROUND = " \n\t.*_`\"'"


def said_in(
    output: object,
    before: Mapping[str, Any] | None = None,
    *,
    recorded: Sequence[Reply] = (),
    silent_marker: str | None = None,
) -> list[Reply]:
    """What the customer gets, in order; nothing where the agent, or a tool of its, is silent.

    What tools have set comes first. The agent's own words follow, unless a tool was silent.

    Args:
        output: What the agent returned.
        before: Its state before the run: only what was said since counts.
        recorded: What tools have set besides.
        silent_marker: The text by which the agent says that it says nothing.

    Raises:
        IncompleteReplyError: A message of the model's was cut off, or calls a tool in no JSON. The
            agent may have acted on the half of it, so nothing it said later is relied on.
        LimitReachedError: A limit ended the run, and LangChain says so instead of the agent.
        EmptyReplyError: There is no text, and nothing says that there should be none.
        InvalidReplyError: There are a reply's fields, in JSON, that are no reply.
        OverlongReplyError: There is more than a WhatsApp message holds: a model that does not end.
    """
    messages = _new(output, before)
    if flaw := flaw_in(messages):
        raise IncompleteReplyError(flaw)
    if limit := limit_in(output if isinstance(output, Mapping) else {}, messages):
        raise LimitReachedError(limit)
    by_tools = [*recorded, *set_by_tools(messages)]
    if not any(reply.is_silent for reply in by_tools):
        by_tools += _own(output, messages, bool(by_tools), silent_marker)
    said = [reply for reply in by_tools if not reply.is_silent]
    if any(len(text) > LONGEST_REPLY for reply in said for text in (*reply.texts, reply.caption)):
        message = f"the agent's text is longer than a WhatsApp message, {LONGEST_REPLY} characters"
        raise OverlongReplyError(message)
    return said


def set_by_tools(messages: Sequence[BaseMessage]) -> list[Reply]:
    """What tools say by themselves: the artifact of their answer is a :class:`Reply`."""
    answers = (message for message in messages if isinstance(message, ToolMessage))
    found = (reply_of_server(answer.artifact) for answer in answers)
    return [reply for reply in found if reply is not None]


def handoff_in(output: object, before: Mapping[str, Any]) -> Handoff | None:
    """Why a human is to go on, as the agent or a tool of its says in a :class:`Reply`."""
    messages = _new(output, before)
    said = [*set_by_tools(messages), *(_explicit(output, messages) or ())]
    return next((reply.handed_over for reply in said if reply.handed_over is not None), None)


def set_since(output: object, before: Mapping[str, Any]) -> list[Reply]:
    """What tools said by themselves in a run that has not ended."""
    return set_by_tools(_new(output, before))


def reply_of(output: object, before: Mapping[str, Any] | None = None) -> str:
    """All of it as one text; see :func:`said_in`."""
    return text_of(said_in(output, before))


def text_of(said: Sequence[Reply]) -> str:
    """What is said as one text, as the history holds it."""
    return "\n\n".join(reply.text for reply in said)


def is_text(text: str) -> bool:
    """Whether it can be sent and stored: a lone surrogate is half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _new(output: object, before: Mapping[str, Any] | None) -> list[BaseMessage]:
    known = {message.id for message in messages_of(before or {})}
    return [m for m in messages_of(output) if m.id is None or m.id not in known]


def _own(
    output: object, messages: Sequence[BaseMessage], has_said: bool, silent_marker: str | None
) -> Sequence[Reply]:
    """What the agent itself says."""
    if (explicit := _explicit(output, messages)) is not None:
        return explicit
    text = "" if is_pieces(output) else _text(output, messages).strip()
    if not is_text(text):
        message = "the agent's text holds half a character, a lone surrogate, and cannot be sent"
        raise IncompleteReplyError(message)
    if silent_marker and silent_marker in text:  # no customer reads it, whatever stands beside it
        text = text.replace(silent_marker, "").strip()
        if not text.strip(_AROUND):
            return [Reply.silent]
    if text:
        return [Reply(texts=(text,))]
    if has_said:
        return ()
    raise EmptyReplyError(unusable(output, messages))


def _explicit(output: object, messages: Sequence[BaseMessage]) -> Sequence[Reply] | None:
    """What it returns as a :class:`Reply`; None where it returns none."""
    if (alone := reply_in(output)) is not None:
        return [alone]
    if isinstance(output, list | tuple):
        several = [reply for each in output if (reply := reply_in(each)) is not None]
        return several if several and len(several) == len(output) else None
    places: list[object] = [getattr(output, "reply", None)]
    if isinstance(output, Mapping):
        places = [output.get("output"), output.get("reply")]
        structured = output.get("structured_response")
        if structured is not None and (not messages or carrying(messages)):
            fields = structured if isinstance(structured, Mapping) else {}
            places += [structured, fields.get("reply", getattr(structured, "reply", None))]
    found = (reply for place in places if (reply := reply_in(place)) is not None)
    return next(([reply] for reply in found), None)


def _text(output: object, messages: Sequence[BaseMessage]) -> str:
    structured = None
    if isinstance(output, Mapping):
        for key in ("output", "reply"):
            if text := text_in(output.get(key)):
                return text
        structured = output.get("structured_response")
    if messages or isinstance(output, Mapping):
        return last_reply(messages, structured)
    return text_in(output) or text_in(getattr(output, "reply", None))
