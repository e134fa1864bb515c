"""Answers that WAHA reports as events of their own: votes in polls, and to invitations."""

from __future__ import annotations

from langchain_convsync.waha.content import Content
from langchain_convsync.waha.origin import stanza_id
from langchain_convsync.waha.wire import Json, as_list, as_object, as_text, at, one_line

_UNREAD_VOTE = "[a vote in a poll that could not be read]"
_NO_VOTE = "[a vote in a poll was taken back]"
_UNREAD_ANSWER = "[an answer to an invitation that could not be read]"
_MOST, _LONGEST = 100, 200


def answer_of(event: str, payload: Json) -> tuple[Json, Content] | None:
    """An answer as the message that it is, with its content; None for any other event."""
    if event in {"poll.vote", "poll.vote.failed"}:
        return _vote(payload, is_read=event == "poll.vote")
    if event in {"event.response", "event.response.failed"}:
        return _response(payload)
    return None


def is_asked_by_us(payload: Json) -> bool:
    """Whether the poll, or the invitation, that is answered is the business's own."""
    return any(at(payload, asked, "fromMe") is True for asked in ("poll", "eventCreationKey"))


def _vote(payload: Json, *, is_read: bool) -> tuple[Json, Content]:
    vote = as_object(payload.get("vote"))
    selected = vote.get("selectedOptions")
    options = [
        as_text(option) or as_text(at(option, "name")) or as_text(at(option, "optionName"))
        for option in as_list(selected)[:_MOST]
    ]
    chosen = tuple(option for option in options if option.strip())
    note = _NO_VOTE if is_read and selected == [] else _UNREAD_VOTE
    content = Content(
        text=", ".join(chosen),
        poll_votes=chosen,
        reply_to=stanza_id(at(payload, "poll", "id")),
        notes=() if chosen else (note,),
    )
    return {**vote, "_data": payload.get("_data")}, content


def _response(payload: Json) -> tuple[Json, Content]:
    told = as_text(at(payload, "eventResponse", "response")).replace("_", " ").lower()
    guests = at(payload, "eventResponse", "extraGuestCount")
    more = f", {guests} more guests" if isinstance(guests, int) and 0 < guests < 10**6 else ""
    note = _UNREAD_ANSWER
    if told not in {"", "unknown"}:
        note = f"[answer to an invitation: {one_line(told, _LONGEST)}{more}]"
    reply_to = stanza_id(at(payload, "eventCreationKey", "id"))
    return payload, Content(notes=(note,), reply_to=reply_to)
