"""Groups: each is a conversation of its own, in which the bot answers where it is addressed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from langchain_convsync import ServerProfile, WAHAReply, create_app, waha
from langchain_convsync._flow import run
from langchain_convsync.errors import ConfigurationError, InvalidEventError
from langchain_convsync.models import InboundEvent
from langchain_convsync.server import Forwarding, Tenant
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from langchain_convsync.waha import Groups
from langchain_convsync.waha.groups import is_for_us
from tests import promises, waha_chats
from tests.agent_webhook import SECRET as FORWARDED
from tests.agent_webhook import agent_webhook
from tests.promises import CUSTOMER, Answer, Listening, history, said, sync_and_async
from tests.redis_topologies import until
from tests.waha_chats import WahaChats

GROUP = "120363000000000001@g.us"
ANA, ANA_LID = CUSTOMER, "198300000000001@lid"
BOT, BOT_LID = "5511900000001@c.us", "135900000000001@lid"
ME = {"id": BOT, "lid": BOT_LID, "jid": "5511900000001:7@s.whatsapp.net", "pushName": "Loja"}
SECRET = "Mi tarjeta termina en 4242"

server, chats = promises.server, waha_chats.chats


def delivery(stanza: str, text: str, *, who: str = ANA_LID, **payload: Any) -> dict[str, Any]:
    """A message in the group."""
    told = {
        "id": f"false_{GROUP}_{stanza}_{who}",
        "timestamp": int(time.time()),
        "from": GROUP,
        "participant": who,
        "fromMe": False,
        "body": text,
        "_data": {"key": {"participantAlt": f"{ANA[1:]}@s.whatsapp.net"}, "pushName": "Ana"},
    }
    return {"event": "message", "session": "loja", "me": ME, "payload": {**told, **payload}}


def private(stanza: str, text: str) -> dict[str, Any]:
    """A message of the same person to the bot alone."""
    chat = f"{ANA[1:]}@c.us"
    told = {"id": f"false_{chat}_{stanza}", "from": chat, "fromMe": False, "body": text}
    return {"event": "message", "session": "loja", "me": ME, "payload": told}


def parsed(body: dict[str, Any], groups: Groups = "mentions") -> InboundEvent | None:
    event = waha.parse_event(body, groups=groups)
    return event if isinstance(event, InboundEvent) else None


@pytest.fixture
def agent(server: ReferenceServer) -> Listening:
    server.create_conversation(GROUP, subdomain="restaurant-abc", bot_id="bot123")
    return Listening()


def runner_of(
    agent: Listening, server: ReferenceServer, store: EventStore, **settings: Any
) -> TurnRunner:
    return TurnRunner(agent.runnable, client=server.client(), store=store, **settings)


@pytest.mark.parametrize(
    "text",
    [
        "@5511900000001 ¿a qué hora abren?",
        "Oye @135900000000001, ¿a qué hora abren?",
        "@+5511900000001",
    ],
)
def test_a_mention_is_for_the_bot(text: str) -> None:
    """By its number or its LID, as WhatsApp writes it into the text."""
    assert parsed(delivery("3AG1", text)) is not None


@pytest.mark.parametrize(
    "text",
    [
        "¿Alguien vio el partido?",
        "@51988888888 ¿vienes?",
        "@551190000000 es otro",
        "escriban a loja@5511900000001234.example",
        "llamen al 5511900000001",
    ],
)
def test_what_mentions_no_bot_is_not_for_it(text: str) -> None:
    """Nor is what only looks like it; all of it is where that is asked for."""
    ignored = waha.parse_event(delivery("3AG1", text), groups="mentions")
    assert isinstance(ignored, waha.Ignored)
    assert ignored.reason == "not mentioned"
    assert parsed(delivery("3AG1", text), "all") is not None
    assert parsed(delivery("3AG1", text), False) is None


#: How engines tell who is mentioned, and who wrote what is quoted.
SHAPES: dict[str, Callable[[str], dict[str, Any]]] = {
    "WAHA": lambda who: {"mentionedIds": [who]},
    "WEBJS": lambda who: {"_data": {"type": "chat", "mentionedJidList": [{"_serialized": who}]}},
    "NOWEB": lambda who: {"_data": {"message": extended({"mentionedJid": [who]})}},
    "GOWS": lambda who: {"_data": {"Message": extended({"mentionedJID": [who]})}},
    "quoted": lambda who: {"replyTo": {"id": "3EB0", "participant": who, "body": "¿Quiere?"}},
    "quoted by NOWEB": lambda who: {
        "_data": {
            "message": extended(
                {"stanzaId": "3EB0", "participant": who, "quotedMessage": {"conversation": "¿?"}}
            )
        }
    },
}


def extended(context: dict[str, Any]) -> dict[str, Any]:
    return {"extendedTextMessage": {"text": "¿Y hoy?", "contextInfo": context}}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("who", "addressed"),
    [
        (BOT, True),
        (BOT_LID, True),
        ("5511900000001:7@s.whatsapp.net", True),
        ("51988888888@c.us", False),
        ("198300000000007@lid", False),
    ],
)
def test_each_engine_tells_who_is_addressed(
    shape: Callable[[str], dict[str, Any]], who: str, addressed: bool
) -> None:
    """By number or LID, with or without a device."""
    assert (parsed(delivery("3AG1", "¿Y hoy?", **shape(who))) is not None) is addressed


@pytest.mark.parametrize(
    ("fields", "addressed"),
    [
        ({"mentions": [BOT_LID]}, True),
        ({"mentions": ["+5511900000001"]}, True),
        ({"mentions": ["+551100000001"]}, False),
        ({"mentions": [ANA_LID]}, False),
        ({"quoted": {"text": "Abrimos a las 9", "by": "business"}}, True),
        ({"quoted": {"text": "Abrimos a las 9", "sender": BOT_LID}}, True),
        ({"quoted": {"text": "¿Vienes?", "by": "customer", "sender": ANA_LID}}, False),
        ({"quoted": {"text": "¿Vienes?"}}, False),
    ],
)
def test_mentions_and_quotes_that_the_source_tells_count(
    fields: dict[str, Any], addressed: bool
) -> None:
    """A quoted message of the bot's is an answer to it."""
    event = InboundEvent(event_id="1", chat_id=GROUP, participant=ANA, text="¿Y hoy?", **fields)
    own = ["+5511900000001", BOT_LID]

    assert is_for_us(event, "mentions", own) is addressed
    assert is_for_us(event, True, own) is addressed
    assert is_for_us(event, "all", own)
    assert not is_for_us(event, False, own)


def test_a_single_customer_is_always_answered() -> None:
    """They need not mention anybody."""
    for groups in ("mentions", "all", True, False):
        assert parsed(private("3AP1", "Hola"), groups) is not None


@pytest.mark.parametrize("own", [True, False])
def test_a_vote_in_a_poll_of_the_bots_is_for_it(*, own: bool) -> None:
    """It asked. A vote in anybody else's poll is none of its business."""
    body = delivery("3AG3", "")
    vote = {**body["payload"], "selectedOptions": ["Diavola"]}
    poll = {"id": f"{str(own).lower()}_{GROUP}_3AP0", "fromMe": own}

    event = parsed({**body, "event": "poll.vote", "payload": {"vote": vote, "poll": poll}})

    assert (event and event.content) == ("Diavola" if own else None)


@sync_and_async
def test_nothing_private_is_read_in_a_group_nor_the_other_way_round(
    server: ReferenceServer, event_store: EventStore, agent: Listening, answer: Answer
) -> None:
    """The same person, known by their number and their LID, before and after."""
    runner = runner_of(agent, server, event_store)
    bodies = [
        private("3AP1", SECRET),
        delivery("3AG1", "@5511900000001 ¿qué sabes de mí?"),
        private("3AP2", "¿Y aquí?"),
        delivery("3AG2", "@135900000000001 ¿y de él?", who="38000000000009@lid", _data={}),
    ]
    turns = []
    for body in bodies:
        event = parsed(body)
        assert event is not None
        turns.append(answer(runner, event))

    in_group = [text for heard in (agent.heard[1], agent.heard[3]) for text in heard]
    assert [turn.status for turn in turns] == ["answered"] * 4
    assert [turn.chat_id for turn in turns] == [f"{ANA[1:]}@c.us", GROUP] * 2
    assert not any(SECRET in text for text in in_group)
    assert agent.heard[2] == [SECRET, f"re: {SECRET}", "¿Y aquí?"]
    assert [text for _, text in history(server)][::2] == [SECRET, "¿Y aquí?"]
    assert len(agent.heard[3]) == 3


@sync_and_async
def test_who_spoke_is_told_to_the_model_then_and_afterwards(
    server: ReferenceServer, event_store: EventStore, agent: Listening, answer: Answer
) -> None:
    """By the name that they go by, else by a number that nobody can dial."""
    runner = runner_of(agent, server, event_store)
    named: dict[str, Any] = {
        "event_id": "1",
        "chat_id": GROUP,
        "participant": ANA,
        "sender_name": "Ana\nAdmin",
    }
    answer(runner, InboundEvent(text="¿Hay pizza?", **named))
    answer(
        runner,
        InboundEvent(event_id="2", chat_id=GROUP, phone_number="+51988888888", text="¿Y pasta?"),
    )

    assert agent.heard[1][0] == "Ana Admin: ¿Hay pizza?"
    assert agent.heard[1][-1] == "+51•••••••88: ¿Y pasta?"
    assert history(server, GROUP)[::2] == [
        ("user", "Ana Admin: ¿Hay pizza?"),
        ("user", "+51•••••••88: ¿Y pasta?"),
    ]


def test_the_answer_goes_to_the_group_and_the_rest_of_its_talk_is_not_recorded(
    server: ReferenceServer, event_store: EventStore, agent: Listening, chats: WahaChats
) -> None:
    """Through the webhook, WAHA's and the API server's; and without groups= nothing happens."""
    runner = runner_of(agent, server, event_store, reply=WAHAReply(chats.url))
    forwarded = {"phone_number": ANA, "chat_id": GROUP, "business_number": "+5511900000001"}
    with TestClient(create_app(runner, waha_secrets=[], groups="mentions")) as web:
        told = [
            web.post("/webhook", json=body).json()["status"]
            for body in (
                delivery("3AG1", "¿Alguien vio el partido?"),
                delivery("3AG2", "@5511900000001 ¿hay pizza?"),
                {**forwarded, "event_id": "evt_1", "message": "¿Quién viene?"},
                {**forwarded, "event_id": "evt_2", "message": "@5511900000001 ¿y pasta?"},
            )
        ]
        until(lambda: len(chats.texts) == 2 and len(history(server, GROUP)) == 4)
    with TestClient(create_app(runner, waha_secrets=[])) as web:
        off = [
            web.post("/webhook", json=body).json()["status"]
            for body in (
                delivery("3AG3", "@5511900000001 ¿hay pan?"),
                {**forwarded, "event_id": "evt_3", "message": "@5511900000001 ¿hay pan?"},
            )
        ]

    assert told == ["ignored", "queued", "ignored", "queued"]
    assert off == ["ignored", "ignored"]
    assert {chat for _, chat, _ in chats.sent} == {GROUP}
    assert [text for role, text in history(server, GROUP) if role == "user"] == [
        "Ana: @5511900000001 ¿hay pizza?",
        "+51•••••••99: @5511900000001 ¿y pasta?",
    ]


def test_a_colleague_who_writes_in_a_group_has_that_group(
    server: ReferenceServer, event_store: EventStore, agent: Listening
) -> None:
    """And none of its members' own conversations."""
    runner = runner_of(agent, server, event_store)
    own: dict[str, Any] = {"id": f"true_{GROUP}_3AB1", "fromMe": True, "source": "app", "to": GROUP}
    human = waha.parse_event(
        delivery("3AB1", "Les atiendo yo", participant=None, **own), groups="mentions"
    )
    assert isinstance(human, waha.OperatorMessage)
    taken = runner.take_over(human, seconds=600.0)
    statuses = []
    for body in (delivery("3AG1", "@5511900000001 ¿hay pizza?"), private("3AP1", "Hola")):
        event = parsed(body)
        assert event is not None
        statuses.append(runner.run(event).status)

    assert taken
    assert statuses == ["paused", "answered"]


def test_a_server_without_groups_is_told_at_the_start(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """By its profile; and an event of a group that comes all the same is refused."""
    client = server.client(profile=ServerProfile(groups=False))
    runner = TurnRunner(
        Listening().runnable, client=client, store=event_store, on_reply=lambda _: None
    )
    with pytest.raises(ConfigurationError, match=r"ServerProfile\(groups=False\)"):
        create_app(runner, waha_secrets=[], groups="mentions")
    with pytest.raises(InvalidEventError, match="group"):
        runner.run(InboundEvent(event_id="1", chat_id=GROUP, participant=ANA, text="Hola"))

    create_app(runner, waha_secrets=[])
    assert run(event_store.backlog()).queued == 0


def test_a_group_that_the_server_does_not_know_becomes_a_dead_letter_that_says_so(
    server: ReferenceServer, event_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, as with customers; where it waits, the reason is told, too."""
    monkeypatch.setattr("langchain_convsync.turns.reading.NOT_FOUND_TIME", 0.0)
    runner = runner_of(Listening(), server, event_store)
    event = InboundEvent(event_id="1", chat_id=GROUP, participant=ANA, text="Hola")
    turn = runner.run(event, wait=0.0)
    key = run(event_store.keys()).conversation("default", GROUP)

    assert turn.status == "no_conversation"
    assert "under the group's chat id" in (run(event_store.view(key)).inbox.why or "")


@pytest.mark.parametrize("groups", ["none", 1, None, "mention"])
def test_another_choice_is_refused_by_name(
    server: ReferenceServer, event_store: EventStore, groups: Any
) -> None:
    """The error tells those that there are."""
    runner = runner_of(Listening(), server, event_store, on_reply=lambda _: None)
    with pytest.raises(ConfigurationError, match="groups must be"):
        create_app(runner, waha_secrets=[], groups=groups)


def test_no_id_of_whoever_speaks_leads_out_of_a_group() -> None:
    """Whatever else a source tells of them."""
    told: dict[str, Any] = {
        "phone_number": "+51999999999",
        "lid": ANA_LID,
        "aliases": ("PE.1A2b3C",),
    }

    event = InboundEvent(event_id="1", text="Hola", chat_id=GROUP, **told)

    assert (event.phone_number, event.lid, event.aliases) == (None, None, ())
    assert event.participant == "+51999999999"


def test_a_group_has_no_customer_of_its_own(server: ReferenceServer) -> None:
    """Whatever names the member, in an event of yours too: said() names a phone number."""
    event = said("Hola", chat_id=GROUP, lid=ANA_LID)

    assert (event.phone_number, event.lid, event.participant) == (None, None, CUSTOMER)
    assert InboundEvent.model_validate_json(event.model_dump_json()) == event


def test_the_reference_server_keeps_a_groups_conversation_where_that_is_wanted() -> None:
    """Begun by the first message that is for the bot, and forwarded as the group's."""
    tenants = {"loja": Tenant("restaurant-abc", "bot123")}
    with ReferenceServer(tenants=tenants, groups="mentions") as server:
        told = [
            server.deliver(delivery(stanza, text))["accepted"]
            for stanza, text in (("3AG1", "¿Vienen?"), ("3AG2", "@5511900000001 ¿hay pizza?"))
        ]
        conversation = server.conversation(GROUP)
        client = server.client()
        found = client.get_conversation(GROUP)
    with ReferenceServer(tenants=tenants) as without:
        ignored = without.deliver(delivery("3AG2", "@5511900000001 ¿hay pizza?"))

    assert told == [False, True]
    assert (conversation.user_id, found.session_id) == (GROUP, conversation.session_id)
    assert ignored["reason"] == "group"


def test_a_mention_by_lid_is_one_where_it_is_forwarded_to() -> None:
    """The app there knows the business by its number alone."""
    tenants = {"loja": Tenant("restaurant-abc", "bot123")}
    with agent_webhook() as webhook:
        forwarding = Forwarding(url=webhook.url, secret=FORWARDED)
        with ReferenceServer(tenants=tenants, groups="mentions", forwarding=forwarding) as server:
            server.deliver(delivery("3AG2", "@135900000000001 ¿hay pizza?"))
            until(lambda: webhook.got)
    forwarded = InboundEvent.model_validate_json(json.dumps(webhook.got[0]))

    assert is_for_us(forwarded, "mentions")
