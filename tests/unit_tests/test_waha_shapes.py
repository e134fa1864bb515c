"""Every kind of message, in every engine's spelling: nothing raises, and nothing is dropped."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_convsync import waha
from langchain_convsync.models import InboundEvent
from langchain_convsync.waha import Ignored, OperatorMessage
from tests.unit_tests.test_waha import json_values, places
from tests.whatsapp_shapes import (
    BUSINESS,
    CONTEXTS,
    CUSTOMER,
    ENGINES,
    MESSAGES,
    REFERRED,
    STRANGER,
    WEB,
    WORDS,
    WRAPPERS,
    Engine,
    data_of,
    delivery,
)

REPORTED = Path(__file__).parents[1] / "whatsapp"
CASES = {
    f"{path.stem} {number}": case
    for path in sorted(REPORTED.glob("*.json"))
    for number, case in enumerate(json.loads(path.read_text(encoding="utf-8"))["cases"])
}
KINDS = [(name, e) for e in ENGINES for name in (WEB if e == "WEBJS" else MESSAGES)]


def inbound(body: dict[str, Any]) -> InboundEvent:
    event = waha.parse_event(body)
    assert isinstance(event, InboundEvent), event
    return event


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_was_reported_is_understood(case: dict[str, Any]) -> None:
    """Deliveries as others reported them, with what a bot needed to know of them."""
    event, expected = waha.parse_event(case["delivery"]), case["expected"]
    if isinstance(event, InboundEvent):
        told = event.model_dump(mode="json", exclude_defaults=True)
        told["content"] = event.content
    else:
        assert isinstance(event, Ignored)
        told = {"reason": event.reason}
    assert {name: told.get(name) for name in expected} == expected


@pytest.mark.parametrize(("name", "engine"), KINDS)
def test_every_kind_is_read_in_every_spelling(name: str, engine: Engine) -> None:
    """WAHA's own fields tell nothing here: the engine's are enough."""
    event = inbound(delivery(data_of(name, engine)))
    assert WORDS in event.content
    assert WORDS not in repr(event)


@pytest.mark.parametrize("engine", ["NOWEB", "GOWS"])
@pytest.mark.parametrize(
    ("name", "chosen", "kind"),
    [
        ("button", "b1", "button"),
        ("template button", "t1", "template"),
        ("list row", "r1", "list"),
        ("list row without a title", WORDS, "list"),
        ("quick reply", "q1", "button"),
        ("form", None, "flow"),
    ],
)
def test_a_choice_has_its_id(name: str, chosen: str | None, kind: str, engine: Engine) -> None:
    """Two rows of one title are told apart; a form's answers are there as they came."""
    choice = inbound(delivery(data_of(name, engine))).choice
    assert choice is not None
    assert (choice.id, choice.kind) == (chosen, kind)
    assert (choice.params.get("nombre") == WORDS) == (kind == "flow")


@pytest.mark.parametrize(
    ("params", "content", "chosen"),
    [
        ('{"id": 7, "display_text": "Sí"}', "Sí", "7"),
        ('{"id": "b1"}', "b1", "b1"),
        ('{"flow_token": "t", "response_json": "{\\"pan\\": 2}"}', "[answers: pan: 2]", None),
        ("{not JSON", "[answers: params: {not JSON]", None),
        ('["a"]', '[answers: params: ("a")]', None),
    ],
)
def test_whatever_the_parameters_are_the_model_reads_them(
    params: str, content: str, chosen: str | None
) -> None:
    """Numbers for ids, JSON inside JSON, and what is no JSON."""
    reply = {"nativeFlowResponseMessage": {"name": "quick_reply", "paramsJson": params}}
    event = inbound(delivery({"message": {"interactiveResponseMessage": reply}}))
    assert event.choice is not None
    assert (event.content, event.choice.id) == (content, chosen)


def test_raw_content_in_a_body_is_nobody_s_words() -> None:
    """WhatsApp Web puts thumbnails there; the caption stands elsewhere."""
    picture = {"type": "image", "caption": "Margherita", "body": "/9j/AAAA"}
    data = {"type": "chat", "quotedStanzaID": "3EB0", "quotedMsg": picture}
    event = inbound(delivery(data, body="Esta", replyTo={"id": "3EB0", "body": "/9j/AAAA"}))
    assert event.content == "> Margherita\n> [image]\nEsta"


def test_an_id_that_waha_writes_behind_a_title_is_not_the_customers() -> None:
    """Nor is it shown where the title is known from the message that offered it."""
    rows = [{"title": "Sí", "rowId": "r1"}, {"title": "No", "rowId": "r2"}]
    offered = {"quotedMessage": {"listMessage": {"sections": [{"rows": rows}]}}}
    reply = {"singleSelectReply": {"selectedRowId": "r2"}, "contextInfo": offered}
    listed = delivery({"message": {"listResponseMessage": reply}}, body="[r2]")
    assert inbound(listed).text == "No"
    button = {"buttonsResponseMessage": {"selectedButtonId": "b1", "selectedDisplayText": "Sí"}}
    assert inbound(delivery({"message": button}, body="Sí [b1]")).text == "Sí"


@pytest.mark.parametrize("engine", ["NOWEB", "GOWS"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_message_is_read_inside_its_envelopes(wrapper: str, engine: Engine) -> None:
    """Ephemeral, view once, from another device, and whatever comes next."""
    contexts = ("quote", "mention", "forward", "ad")
    data = data_of("image", engine, wrappers=(wrapper, "ephemeralMessage"), contexts=contexts)
    event = inbound(delivery(data))
    assert event.quoted is not None
    assert (event.quoted.text, event.quoted.by, event.quoted.id) == (
        REFERRED,
        "business",
        "3EB0QUOTED",
    )
    assert event.mentions == (f"+{BUSINESS}", "87000000000001@lid")
    assert event.referral is not None
    assert (event.referral.source_type, event.referral.source_id) == ("ad", "1")
    assert event.forwarded
    assert event.view_once == wrapper.startswith("viewOnce")


@pytest.mark.parametrize(
    "data",
    [
        {"key": {"isViewOnce": True}},
        {"IsViewOnceV2": True, "Info": {"MediaType": "image"}},
        {"message": {"imageMessage": {"viewOnce": True}}},
        {"type": "image", "isViewOnce": True},
    ],
)
def test_a_view_once_message_says_that_it_was_not_read(data: dict[str, Any]) -> None:
    """A flag is all that some engines tell; the customer hears of it by the model's answer."""
    event = inbound(delivery(data))
    assert event.view_once
    assert event.content.endswith("it opens on the customer's phone only, and was not read]")


def test_a_menu_in_an_envelope_for_one_view_is_a_menu() -> None:
    """Bots send buttons so, and a customer who quotes them has read them."""
    menu = {"viewOnceMessage": {"message": {"interactiveMessage": {"body": {"text": "¿Cuál?"}}}}}
    context = {"stanzaId": "3EB0", "quotedMessage": menu}
    data = {"message": {"extendedTextMessage": {"text": "Esa", "contextInfo": context}}}
    assert inbound(delivery(data)).content == "> ¿Cuál?\nEsa"


@pytest.mark.parametrize("field", ["replyTo", "context", "web"])
@pytest.mark.parametrize(
    ("participant", "by"),
    [
        (f"{BUSINESS}@c.us", "business"),
        ("87000000000001@lid", "business"),
        (f"{CUSTOMER}@s.whatsapp.net", "customer"),
        ("87000000000002@lid", None),
        (f"{STRANGER}@c.us", "business"),
        ("junk", None),
    ],
)
def test_whose_words_are_quoted_is_told(field: str, participant: str, by: str | None) -> None:
    """By number or LID; in a chat of two, who is not the customer is the business."""
    told = {"stanzaId": "3EB0", "participant": participant}
    message = {"extendedTextMessage": {"text": "Esta", "contextInfo": told}}
    web = {"type": "chat", "quotedStanzaID": "3EB0", "quotedParticipant": participant}
    bodies = {
        "replyTo": delivery({}, body="Esta", replyTo={"id": "3EB0", "participant": participant}),
        "context": delivery({"message": message}),
        "web": delivery(web, body="Esta"),
    }
    event = inbound(bodies[field])
    assert event.quoted is not None
    assert (event.quoted.id, event.quoted.by, event.reply_to) == ("3EB0", by, "3EB0")


def test_a_quote_without_words_is_a_quote_all_the_same() -> None:
    """The engine tells only which message it was."""
    data = {"message": {"extendedTextMessage": {"contextInfo": {"stanzaID": "3EB0"}}}}
    event = inbound(delivery(data, body="Esta"))
    assert event.content == "> [an earlier message]\nEsta"


@pytest.mark.parametrize(
    ("event", "options", "content"),
    [
        ("poll.vote", ["Pan", "Queso"], "Pan, Queso"),
        ("poll.vote", [], "[a vote in a poll was taken back]"),
        ("poll.vote", None, "[a vote in a poll that could not be read]"),
        ("poll.vote.failed", [], "[a vote in a poll that could not be read]"),
    ],
)
def test_a_vote_is_an_answer(event: str, options: list[str] | None, content: str) -> None:
    """Whatever becomes of it: the customer did something."""
    chat = f"{CUSTOMER}@c.us"
    vote = {"id": f"false_{chat}_3A0A", "from": chat, "fromMe": False, "selectedOptions": options}
    body = {"event": event, "payload": {"vote": vote, "poll": {"id": f"true_{chat}_3EB0P"}}}
    voted = inbound(body)
    assert (voted.content, voted.reply_to) == (content, "3EB0P")
    assert (voted.poll_votes, voted.event_id) == (tuple(options or ()), "false_3A0A")


def test_an_answer_to_an_invitation_is_an_answer() -> None:
    """GOWS reports it as an event of its own."""
    body = delivery({})
    body["event"] = "event.response"
    body["payload"] |= {
        "eventCreationKey": {"id": "true_51999999999@c.us_3EB0E"},
        "eventResponse": {"response": "NOT_GOING", "extraGuestCount": 2},
    }
    event = inbound(body)
    assert event.content == "[answer to an invitation: not going, 2 more guests]"
    assert event.reply_to == "3EB0E"


@pytest.mark.parametrize(
    ("data", "place", "shown"),
    [
        ({"Message": None, "Info": {"MediaType": "livelocation"}}, None, "[live location]"),
        ({"Info": {"MediaType": "live_location"}}, (1, 2), "[live location: 1, 2]"),
        ({"message": {"liveLocationMessage": {"name": "Casa"}}}, None, "[live location: Casa]"),
        ({"type": "livelocation"}, (1, 2), "[live location: 1, 2]"),
        ({"Info": {"MediaType": "location"}}, (1, 2), "[location: 1, 2]"),
    ],
)
def test_a_live_location_is_one_by_its_kind_alone(
    data: dict[str, Any], place: tuple[int, int] | None, shown: str
) -> None:
    """GOWS may tell nothing else of it."""
    body = delivery(data)
    if place is not None:
        body["payload"]["location"] = {"latitude": f"{place[0]}", "longitude": f"{place[1]}"}
    assert inbound(body).content == shown


@pytest.mark.parametrize("update", [{"timeOffset": 12}, {"sequenceNumber": "2"}])
def test_a_live_location_is_one_message_however_often_it_moves(update: dict[str, Any]) -> None:
    """Its moves tell where it is now, and are no turns."""
    first = {"degreesLatitude": 1, "degreesLongitude": 2, "sequenceNumber": "1", "timeOffset": 0}
    event = inbound(delivery({"message": {"liveLocationMessage": first}}))
    assert event.location is not None
    assert event.location.live
    moved = {"liveLocationMessage": {**first, "degreesLatitude": 1.5, **update}}
    webjs = {"type": "location", "isLive": True, "lat": 1.5, "lng": 2, **update}
    for told in ({"message": moved}, webjs):
        ignored = waha.parse_event(delivery(told))
        assert isinstance(ignored, Ignored)
        assert (ignored.reason, ignored.text) == ("live location", "[live location: 1.5, 2]")


@pytest.mark.parametrize(
    ("protocol", "reason", "text"),
    [
        ({"type": "MESSAGE_EDIT", "editedMessage": {"conversation": "Dos"}}, "edited", "Dos"),
        ({"type": 14, "editedMessage": {"imageMessage": {"caption": "Dos"}}}, "edited", "Dos"),
        ({"type": "REVOKE"}, "revoked", ""),
        ({"type": 0}, "revoked", ""),
    ],
)
def test_an_edit_that_comes_as_a_message_is_an_edit(
    protocol: dict[str, Any], reason: str, text: str
) -> None:
    """Some engines report it so; it is no new message, and no message without content."""
    message = {"protocolMessage": {"key": {"id": "3AORIGINAL"}, **protocol}}
    event = waha.parse_event(delivery({"message": {"editedMessage": {"message": message}}}))
    assert isinstance(event, Ignored)
    assert (event.reason, event.target_id, event.text) == (reason, "3AORIGINAL", text)


def test_a_colleague_s_message_tells_as_much() -> None:
    """What a human sends enters the history, too."""
    body = delivery(data_of("place", "NOWEB", contexts=("quote",)))
    body["event"] = "message.any"
    body["payload"] |= {"fromMe": True, "id": "true_51999999999@c.us_3EB0"}
    message = waha.parse_event(body)
    assert isinstance(message, OperatorMessage)
    assert message.content == f"> {REFERRED}\n[location: {WORDS} (-12.5, -77.5)]"


# --- any shape at all ----------------------------------------------------------------------------


@st.composite
def told(draw: st.DrawFn) -> dict[str, Any]:
    """A message of any kind, by any engine, with whatever may surround it."""
    name, engine = draw(st.sampled_from(KINDS))
    wrappers = tuple(draw(st.lists(st.sampled_from(WRAPPERS), max_size=3)))
    contexts = tuple(draw(st.lists(st.sampled_from(list(CONTEXTS)), max_size=3)))
    payload: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "body": st.sampled_from([None, "", "Hola"]),
                "hasMedia": st.booleans(),
                "replyTo": st.sampled_from([None, {"id": "3EB0", "body": REFERRED}]),
                "media": st.sampled_from([None, {"url": "u", "mimetype": "image/png"}]),
                "location": st.sampled_from([None, {"latitude": "1", "longitude": "2"}]),
                "vCards": st.sampled_from([None, []]),
            },
        )
    )
    return delivery(data_of(name, engine, wrappers=wrappers, contexts=contexts), **payload)


@st.composite
def bent(draw: st.DrawFn) -> dict[str, Any]:
    """The same, with up to four of its fields dropped, replaced, wrapped or spelled otherwise."""
    body = copy.deepcopy(draw(told()))
    for _ in range(draw(st.integers(1, 4))):
        container, key = draw(st.sampled_from(list(places(body))))
        change = draw(st.sampled_from(["drop", "replace", "list", "object", "spell"]))
        if change == "drop" and isinstance(container, dict):
            del container[key]
        elif change == "spell" and isinstance(container, dict):
            container[key.swapcase()] = container.pop(key)
        elif change in {"list", "object"}:
            inner = container[key]
            container[key] = [inner] if change == "list" else {"message": inner}
        else:
            container[key] = draw(json_values)
    return body


def nothing_is_dropped(body: dict[str, Any]) -> None:
    event = inbound(body)
    assert (body["payload"].get("body") or WORDS) in event.content
    assert (REFERRED in event.content) == (REFERRED in str(body["payload"]))
    assert WORDS not in repr(event)
    assert REFERRED not in repr(event)
    assert InboundEvent.model_validate_json(event.model_dump_json()) == event


def nothing_raises(body: dict[str, Any]) -> None:
    event = waha.parse_event(body)
    if isinstance(event, InboundEvent):
        assert event.content.strip()
        assert InboundEvent.model_validate_json(event.model_dump_json()) == event
    else:
        assert isinstance(event, Ignored | OperatorMessage)


Check = Callable[[dict[str, Any]], None]
CHECKS = pytest.mark.parametrize(
    ("bodies", "check"),
    [(told(), nothing_is_dropped), (bent(), nothing_raises)],
    ids=["told", "bent"],
)


def fuzz(bodies: st.SearchStrategy[dict[str, Any]], check: Check, examples: int) -> None:
    settings(max_examples=examples)(given(bodies)(check))()


@CHECKS
def test_any_message_is_read(bodies: st.SearchStrategy[dict[str, Any]], check: Check) -> None:
    """What is told reaches the model; what is broken raises nothing."""
    fuzz(bodies, check, 250)


@pytest.mark.slow
@pytest.mark.no_cover
@CHECKS
def test_twenty_thousand_messages_are_read(
    bodies: st.SearchStrategy[dict[str, Any]], check: Check
) -> None:
    """The same, for longer."""
    fuzz(bodies, check, 10_000)
