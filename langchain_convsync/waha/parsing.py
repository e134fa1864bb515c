"""From a WAHA envelope to a customer's message, an operator's, or a reason to do nothing."""

from __future__ import annotations

from typing import Any

from langchain_convsync.errors import InvalidEventError
from langchain_convsync.models import InboundEvent
from langchain_convsync.waha.answers import answer_of, is_asked_by_us
from langchain_convsync.waha.content import Change, Content, changed_text, changes, read_content
from langchain_convsync.waha.events import Ignored, OperatorMessage, Reason
from langchain_convsync.waha.groups import Groups, is_for_us
from langchain_convsync.waha.limits import limit_in, limits_over
from langchain_convsync.waha.origin import (
    Envelope,
    Party,
    digest,
    event_id,
    message_stanza,
    moment,
    sent_from_me,
    stanza_id,
    token,
)
from langchain_convsync.waha.wire import Json, as_object, as_text, at, first_text, one_line

_OTHER_EVENTS: dict[str, Reason] = {
    "message.edited": "edited",
    "message.revoked": "revoked",
    "message.reaction": "reaction",
    "message.ack": "ack",
    "message.ack.group": "ack",
    "message.waiting": "waiting",
    "session.status": "session status",
}
_NAME_LENGTH = 120
#: What a message's payload has, and no envelope.
_PAYLOAD = frozenset({"id", "from", "body"})


def parse_event(
    body: object, *, groups: Groups = False
) -> InboundEvent | OperatorMessage | Ignored:
    """What one delivery reports; never raises on a JSON object, whatever its shape.

    A message is one event, however often it is reported: ``message`` and ``message.any``, its
    ``…@c.us`` and its ``…@lid`` copy, global and session webhooks all yield the same ``event_id``
    and ``account``.

    A vote in a poll and an answer to an invitation are events, too. Edits and revocations are
    ``Ignored``, for ``TurnRunner.amend``, and so is each move of a live location.

    A message of the business itself without a ``source``, as older WAHA sends, is ignored: taking
    our own echo for a human would pause the agent after its first answer.

    Args:
        body: The parsed JSON, e.g. of :func:`parse_json`.
        groups: What is for us in groups: ``"mentions"`` what mentions the business, by its number
            or its LID, or quotes it; ``"all"`` everything; False nothing. True stands for
            ``"mentions"``.

    Raises:
        InvalidEventError: The body is a text, bytes or None: it is not parsed yet.
    """
    if body is None or isinstance(body, str | bytes | bytearray):
        message = "parse_event takes the parsed body: waha.parse_event(waha.parse_json(raw))"
        raise InvalidEventError(message)
    if not isinstance(body, dict):
        return Ignored(reason="not an object")
    envelope = Envelope.of(body)
    if "event" not in body and body.keys() >= _PAYLOAD:
        return Ignored("a payload alone: pass the whole event")
    if envelope.event in {"message", "message.any"}:
        return _message(envelope, envelope.payload, groups=groups)
    if (answer := answer_of(envelope.event, envelope.payload)) is not None:
        if groups and is_asked_by_us(envelope.payload):
            groups = "all"
        return _message(envelope, *answer, groups=groups)
    return _other(envelope)


def _message(
    envelope: Envelope, payload: Json, content: Content | None = None, *, groups: Groups
) -> InboundEvent | OperatorMessage | Ignored:
    from_me = bool(sent_from_me(payload, envelope.event))
    party = Party.of(payload, envelope.own, from_me=from_me)
    if content is None:
        if (change := changes(payload)) is not None:
            return _changed(envelope, payload, *change)
        content = read_content(payload, envelope.own, party.customer)
    if reason := _reason_to_ignore(payload, party, content, from_me=from_me, groups=groups):
        return _ignored(envelope, reason, payload, text=content.text, notes=content.notes)
    sent_at = moment(payload.get("timestamp"))
    stanza = message_stanza(payload) or digest(
        party.chat_id or party.phone_number or party.lid or "",
        content.shown(),
        str(sent_at or envelope.fallback),
    )
    facts: dict[str, Any] = {
        "event_id": event_id(stanza, from_me=from_me),
        "phone_number": party.phone_number,
        "chat_id": party.chat_id,
        "lid": party.lid,
        **envelope.receiver,
        "delivery_id": envelope.delivery_id,
        "sent_at": sent_at,
    }
    if from_me:
        return OperatorMessage(message_id=stanza, **facts, **content.of_a_colleague)
    event = InboundEvent(sender_name=_sender_name(payload), **facts, **content.facts)
    if not is_for_us(event, groups, envelope.own):
        return _ignored(envelope, "not mentioned", payload)
    return event


def _reason_to_ignore(
    payload: Json, party: Party, content: Content, *, from_me: bool, groups: Groups
) -> Reason | None:
    source = payload.get("source") if from_me else "app"
    sender = party.chat_id if from_me else party.phone_number or party.lid
    reasons: tuple[tuple[bool, Reason], ...] = (
        ("newsletter" in party.servers, "newsletter"),
        ("broadcast" in party.servers, "broadcast"),
        ("g.us" in party.servers and not groups, "group"),
        (source == "api", "own echo"),
        (source != "app", "own message of unknown source"),
        (sender is None, "unknown sender"),
        (not content, "no content"),
    )
    return next((reason for holds, reason in reasons if holds), None)


def _sender_name(payload: Json) -> str | None:
    data = as_object(payload.get("_data"))
    name = first_text(
        data.get("pushName"),
        data.get("notifyName"),
        at(data, "Info", "PushName"),
        at(data, "sender", "pushname"),
    )
    return one_line(name, _NAME_LENGTH) or None if name else None


def _changed(envelope: Envelope, payload: Json, reason: Change, target: str) -> Ignored:
    """What comes as a message, and only changes another one."""
    text = changed_text(payload) if reason == "edited" else ""
    if reason == "live location":
        text = read_content(payload).shown()
    return _ignored(envelope, reason, payload, target_id=stanza_id(target), text=text)


def _other(envelope: Envelope) -> Ignored:
    payload, reason = envelope.payload, _OTHER_EVENTS.get(envelope.event, "not a message")
    targets: dict[Reason, object] = {
        "edited": payload.get("editedMessageId"),
        "revoked": payload.get("revokedMessageId") or at(payload, "before", "id"),
        "reaction": at(payload, "reaction", "messageId"),
        "ack": payload.get("id"),
    }
    texts: dict[Reason, object] = {
        "edited": changed_text(payload) if reason == "edited" else "",
        "reaction": at(payload, "reaction", "text"),
    }
    if reason == "revoked":
        about = as_object(payload.get("after")) or as_object(payload.get("before"))
    else:
        about = {} if reason in {"session status", "not a message"} else payload
    return _ignored(
        envelope,
        reason,
        about,
        target_id=stanza_id(targets.get(reason)),
        text=as_text(texts.get(reason)),
        ack=_whole(payload.get("ack")) if reason == "ack" else None,
        **(_status(envelope) if reason == "session status" else {}),
    )


def _status(envelope: Envelope) -> dict[str, Any]:
    """A session's status, and whether WhatsApp limits it."""
    payload = envelope.payload
    told = {"me": envelope.me}, payload
    limit = limit_in(*told)
    return {
        "status": token(payload.get("status")),
        "limit": limit and limit.kind,
        "limited_until": limit and limit.ends,
        "limits_over": limits_over(*told),
    }


def _ignored(envelope: Envelope, reason: Reason, about: Json, **facts: Any) -> Ignored:
    from_me = sent_from_me(about, envelope.event)
    party = Party.of(about, envelope.own, from_me=bool(from_me))
    return Ignored(
        reason=reason,
        event=envelope.event,
        **envelope.receiver,
        message_id=message_stanza(about),
        from_me=from_me,
        chat_id=party.chat_id,
        phone_number=party.phone_number,
        lid=party.lid,
        sent_at=moment(about.get("timestamp")),
        **facts,
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
