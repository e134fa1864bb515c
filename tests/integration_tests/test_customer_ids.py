"""Customers without a phone number, and customers with many names: one conversation each."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from itertools import pairwise, permutations
from typing import Any

import httpx
import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from typer.testing import CliRunner

from langchain_convsync import WAHAReply, waha
from langchain_convsync._flow import run
from langchain_convsync.app import create_app
from langchain_convsync.chat_history import ConvSyncChatMessageHistory
from langchain_convsync.cli import command_line
from langchain_convsync.errors import ConversationMismatchError, InvalidPhoneNumberError
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores import open_store
from langchain_convsync.stores.base import EventStore, Lease
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.tools import ConvSyncToolkit
from langchain_convsync.turns import TurnRunner, operators
from tests import promises
from tests.faulty_server import FaultyServer, answers
from tests.promises import CUSTOMER, Answer, echo, history, said, spoken, sync_and_async
from tests.waha_chats import WahaChats, waha_server

BSUID, NEW_BSUID, LID, OWN = "EG.13491208655302741918", "EG.2zZ", "198300000000001@lid", "cust_42"
server = promises.server


def runner_of(server: ReferenceServer, store: EventStore, **options: Any) -> TurnRunner:
    return TurnRunner(echo(), client=server.client(), store=store, **options)


def begun(server: ReferenceServer, customer: str) -> None:
    server.create_conversation(phone_number=customer, subdomain="restaurant-abc", bot_id="bot123")


def key_of(store: EventStore, customer: str) -> str:
    """The conversation that a name leads to."""
    name = run(operators.conversation_key_of(store, customer))
    return run(store.view(name)).conversation_key


@sync_and_async
@pytest.mark.parametrize("customer", [BSUID, "US.ENT.1181", LID, OWN])
def test_a_customer_without_a_number_is_answered(
    server: ReferenceServer, event_store: EventStore, answer: Answer, customer: str
) -> None:
    """In a conversation of their own, with the history of before."""
    begun(server, customer)
    runner = runner_of(server, event_store)
    turns = [answer(runner, said(text, phone_number=customer)) for text in ("Hola", "¿Y ahora?")]

    assert [turn.status for turn in turns] == ["answered"] * 2
    assert history(server, customer) == spoken(["Hola", "¿Y ahora?"])
    assert {turn.chat_id for turn in turns} == {customer}


@pytest.mark.parametrize("customer", [BSUID, LID, OWN])
def test_every_surface_takes_every_id(server: ReferenceServer, customer: str) -> None:
    """Client, history, tools and blocks."""
    begun(server, customer)
    client = server.client()
    tenant = client.lookup_tenant(customer)
    chat = ConvSyncChatMessageHistory(customer, client=client)
    chat.add_messages([HumanMessage("Hola")])
    tools = {tool.name: tool for tool in ConvSyncToolkit(client).get_tools()}
    with in_conversation(customer):
        told = tools["get_conversation"].invoke({})

    assert tenant.subdomain == "restaurant-abc"
    assert client.get_conversation(customer).user_id == customer
    assert history(server, customer) == [("user", "Hola")]
    assert "Hola" in told


@pytest.mark.parametrize(
    "told", [{"phone_number": BSUID}, {"phone_number": OWN}, {"lid": LID}, {"chat_id": LID}]
)
def test_a_forwarded_event_may_name_any_customer(
    server: ReferenceServer, event_store: EventStore, told: dict[str, str]
) -> None:
    """An API server on Meta's Cloud API has nothing else to tell."""
    (customer,) = told.values()
    begun(server, customer)
    runner = runner_of(server, event_store, on_reply=lambda _: None)
    body = {"event_id": "wamid.1", "message": "hi", **told}

    async def posted() -> list[httpx.Response]:
        app = create_app(runner, waha_secrets=[])
        async with runner:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
                return [await client.post("/webhook", json=body) for _ in range(2)]

    assert {each.status_code for each in asyncio.run(posted())} == {200}
    assert history(server, customer) == spoken(["hi"])


def test_what_is_no_customer_id_is_refused_with_what_would_do(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """A session id, pasted from an answer of the API's, for example."""
    event = said("Hola", phone_number="bot123_51999999999_1234567890_xyz")
    with pytest.raises(InvalidPhoneNumberError, match=r"a BSUID such as .*looks like a session id"):
        runner_of(server, event_store).run(event)


NAMES = (CUSTOMER, BSUID, NEW_BSUID, LID)


def next_millisecond() -> None:
    """Wait for it: on Redis, two conversations are put in order by when their messages came."""
    came = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == came:
        pass


@pytest.mark.parametrize("told", list(permutations(pairwise(NAMES))))
def test_an_order_of_discovery_changes_nothing(
    server: ReferenceServer, event_store: EventStore, told: tuple[tuple[str, str], ...]
) -> None:
    """Number, BSUID, a changed BSUID and LID: one conversation, one order, one pause, one end."""
    runner = runner_of(server, event_store)
    for number, names in enumerate(told):
        event = InboundEvent(event_id=f"{number}", aliases=names, text=f"{number}")
        runner.accept(event)
        next_millisecond()
    turn = runner.run(said("Hola"))

    assert turn.status == "answered"
    assert history(server) == [*(("user", text) for text in "012"), *spoken(["Hola"])]
    assert len({key_of(event_store, name) for name in NAMES}) == 1
    runner.pause(LID, seconds=60.0)
    assert [
        runner.run(said(f"{n}!", phone_number=name)).status for n, name in enumerate(NAMES)
    ] == ["paused"] * len(NAMES)
    runner.resume(NEW_BSUID)
    assert run(operators.forget(event_store, key_of(event_store, BSUID)))
    assert not any(
        run(event_store.view(run(operators.conversation_key_of(event_store, name)))).turns
        for name in NAMES
    )


@sync_and_async
def test_a_customer_whose_turn_runs_under_another_name_waits_for_it(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """A reply of one name never overtakes that of another."""
    begun(server, LID)
    meanwhile: list[str] = []
    runner = runner_of(server, event_store)
    later = said("¿Y ahora?", lid=LID)

    def thinks(messages: list[Any]) -> str:
        if not meanwhile:
            meanwhile.append(runner.accept(later).status)
        return f"re: {messages[-1].content}"

    slow = TurnRunner(RunnableLambda(thinks), client=server.client(), store=event_store)
    first = answer(slow, said("Hola", phone_number=None, lid=LID))

    assert (first.status, meanwhile) == ("answered", ["queued"])
    assert key_of(event_store, CUSTOMER) == key_of(event_store, LID)
    assert answer(slow, later).status == "answered"


def leased(store: EventStore, conversation_key: str) -> Lease:
    """A turn that runs elsewhere."""
    acquired = run(store.acquire("inbox", conversation_key, conversation_key=conversation_key))
    assert acquired is not None
    return acquired.lease


@pytest.mark.parametrize("writes", [False, True], ids=["a turn", "writes"])
def test_two_names_with_something_under_way_are_one_as_soon_as_they_can(
    server: ReferenceServer, event_store: EventStore, writes: bool
) -> None:
    """Nothing is answered beside what runs under the other name, and nothing waits for ever."""
    begun(server, LID)
    runner = runner_of(server, event_store)
    stuck = runner_of(server, event_store)
    vars(stuck._deliveries)["drain"] = lambda _: iter(())  # what it commits stays to be written
    runner.accept(said("1", phone_number=LID))
    by_lid = key_of(event_store, LID)
    busy = leased(event_store, by_lid)
    if writes:
        stuck.run(said("2"))
        runner.accept(said("3", lid=LID))
    else:
        runner.accept(said("2"))
        also = leased(event_store, key_of(event_store, CUSTOMER))
        runner.accept(said("3", lid=LID))
        run(event_store.release(also))
    waits = stuck.run(said("3", lid=LID), wait=0.0)
    view = run(event_store.view(key_of(event_store, CUSTOMER)))
    run(event_store.release(busy))
    turn = runner.run(said("3", lid=LID))

    assert waits.status == "queued"
    assert len(view.events) == (1 if writes else 3)
    if writes:
        assert view.inbox.why == "the customer's other conversation has something under way"
    assert turn.status == "answered"
    assert key_of(event_store, LID) == key_of(event_store, CUSTOMER)
    said_by_customer = [text for role, text in history(server) if role == "user"]
    assert sorted(said_by_customer) == ["1", "2", "3"]


def test_a_changed_bsuid_goes_on_with_the_conversation(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """Meta tells of it in a message of its own, which is no customer's."""
    begun(server, BSUID)
    runner = runner_of(server, event_store)
    runner.run(said("Hola", phone_number=BSUID))
    runner.accept(said("Soy yo", phone_number=NEW_BSUID))

    assert runner.link(BSUID, NEW_BSUID)
    assert asyncio.run(runner.alink(BSUID, NEW_BSUID))
    assert runner.run(said("¿Y?", phone_number=NEW_BSUID, aliases=(BSUID,))).status == "answered"
    assert history(server, BSUID) == [
        *spoken(["Hola"]),
        ("user", "Soy yo"),
        *spoken(["¿Y?"]),
    ]


@pytest.mark.parametrize("known", [BSUID, LID, OWN])
def test_a_server_that_knows_the_customer_by_another_id_finds_them(
    server: ReferenceServer, event_store: EventStore, known: str
) -> None:
    """And what is written is looked for under that id."""
    begun(server, known)
    event = said("Hola", phone_number="+51911111111", aliases=(BSUID, OWN), lid=LID)
    turn = runner_of(server, event_store).run(event)

    assert turn.status == "answered"
    assert history(server, known) == spoken(["Hola"])


@pytest.mark.parametrize(
    ("asked", "aliases", "answered", "is_told"),
    [
        (CUSTOMER, (BSUID,), BSUID, True),
        (CUSTOMER, (), BSUID, False),
        (CUSTOMER, (LID,), "+51911111111", False),
        (LID, (CUSTOMER,), "+51911111111", False),
        (BSUID, (), CUSTOMER, True),
        (BSUID, (), NEW_BSUID, False),
        (OWN, (), "cust_43", False),
        (OWN, (), LID, True),
        (BSUID, (), "120363400000000006@g.us", False),
    ],
)
def test_an_answer_about_another_customer_is_dropped(
    server: ReferenceServer,
    event_store: EventStore,
    asked: str,
    aliases: tuple[str, ...],
    answered: str,
    is_told: bool,
) -> None:
    """What the event tells of its customer is compared; an id alone proves nothing of others."""
    data = server.client().get_conversation(CUSTOMER).model_dump(by_alias=True, mode="json")
    with FaultyServer() as faulty:
        whole = {"type": "1", "message": "", "data": {**data, "userId": answered}}
        faulty.plays(answers(whole))
        client = server.client().__class__(faulty.url, max_retries=0)
        flow = client.api.get_conversation(asked, known_as=aliases)
        if is_told:
            assert run(flow).user_id == answered
        else:
            with pytest.raises(ConversationMismatchError):
                run(flow)
        client.close()


def test_an_id_of_two_tenants_is_two_customers(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """An API server's own ids are counted from one everywhere."""
    for customer in (OWN, LID):
        server.create_conversation(phone_number=customer, subdomain="other", bot_id="bot9")
        begun(server, customer)
    runner = runner_of(server, event_store)
    sides = [{"subdomain": "restaurant-abc", "bot_id": "bot123"}, {"bot_id": "bot9"}]
    for side in sides:
        runner.run(said("Hola", phone_number=OWN, lid=LID, **side))
    runner.pause(OWN, seconds=60.0, account="bot9")

    assert runner.run(said("¿Y?", phone_number=LID, **sides[0])).status == "answered"
    assert runner.run(said("¿Y?", phone_number=LID, **sides[1])).status == "paused"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("+5511987654321", "551187654321@c.us"),
        ("5491123456789@c.us", "+541123456789"),
        ("+54 11 15 2345-6789", "5491123456789:4@s.whatsapp.net"),
        ("+525512345678", "5215512345678@c.us"),
        ("51999999999:99@hosted", "+51999999999"),
        ("198300000000001:99@hosted.lid", LID),
        ("198300000000001@c.us", LID),
    ],
)
def test_spellings_of_a_name_are_one_conversation(
    server: ReferenceServer, event_store: EventStore, first: str, second: str
) -> None:
    """Whichever an engine writes: no second turn runs beside the first."""
    runner = runner_of(server, event_store)
    runner.accept(InboundEvent(event_id="1", chat_id=first, text="Hola"))
    runner.accept(InboundEvent(event_id="2", chat_id=second, text="¿Y?"))
    runner.pause(first, seconds=60.0)

    view = run(event_store.view(key_of(event_store, second)))
    assert len(view.events) == 2
    assert view.paused_until is not None


def delivery(chat: str, **key: str) -> dict[str, Any]:
    """What WAHA reports."""
    payload = {
        "id": f"false_{chat}_3AF0BB01",
        "timestamp": 1786400000,
        "from": chat,
        "fromMe": False,
        "body": "Oi",
        "_data": {"key": key},
    }
    return {"event": "message", "session": "loja", "payload": payload}


@pytest.mark.parametrize(
    ("told", "phone_number", "lid"),
    [
        (delivery("198300000000001@c.us"), None, LID),
        (delivery("5511987654321@c.us", remoteJid="5511987654321@lid"), None, "5511987654321@lid"),
        (delivery("198300000000001@hosted.lid", remoteJidAlt="51999999999@hosted"), CUSTOMER, LID),
        (delivery("51999999999:7@c.us", remoteJidAlt="198300000000001:7@lid"), CUSTOMER, LID),
    ],
)
def test_a_lid_is_a_lid_however_an_engine_writes_it(
    told: dict[str, Any], phone_number: str | None, lid: str
) -> None:
    """Its digits are no phone number, and a device is no other customer."""
    event = waha.parse_event(told)

    assert isinstance(event, InboundEvent)
    assert (event.phone_number, event.lid) == (phone_number, lid)


def test_a_reply_that_waha_cannot_send_is_a_dead_letter_with_its_reason(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """WAHA knows no BSUIDs; the next customers' replies go on."""
    begun(server, BSUID)
    chats = WahaChats()
    with waha_server(chats) as url:
        runner = runner_of(server, event_store, reply=WAHAReply(url, settle=0.0))
        runner.run(said("Hola", phone_number=BSUID, waha_session="loja"))
        runner.run(said("¿Y?", phone_number=BSUID, lid=LID, waha_session="loja"))
    (letter,) = run(event_store.dead_letters())

    assert "WAHA reaches phone numbers, LIDs and groups" in letter.reason
    assert [(chat, text) for _, chat, text in chats.sent] == [(LID, "re: ¿Y?")]


def test_a_message_that_meta_redelivers_under_another_id_is_one(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """Its id is the same everywhere; then the ids are known to be one customer's."""
    begun(server, BSUID)
    runner = runner_of(server, event_store)
    runner.run(said("Hola", event_id="wamid.1", phone_number=BSUID))
    again = runner.run(said("Hola", event_id="wamid.1"))

    assert again.status == "duplicate"
    assert key_of(event_store, CUSTOMER) == key_of(event_store, BSUID)


@pytest.mark.parametrize(
    ("customer", "told"),
    [
        (BSUID, "EG•••••••••••••••••••18 is found as a BSUID"),
        (LID, "is found as …@lid"),
        (OWN, "cu•••42 is found as an id of the server's own"),
        ("nobody", "a BSUID such as"),
    ],
)
def test_doctor_looks_up_any_customer(
    server: ReferenceServer, customer: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says what it would have taken."""
    monkeypatch.delenv("CONVSYNC_STORE_URL", raising=False)
    if customer != "nobody":
        begun(server, customer)
    asked = ["doctor", "--base-url", server.base_url, "--phone", customer, "--bot-id", "bot123"]

    assert told in CliRunner().invoke(command_line(), asked).stdout


@pytest.fixture
def linked(durable_store_url: str) -> Callable[..., Any]:
    """``convsync link``."""

    def call(*args: str) -> Any:
        found = CliRunner().invoke(
            command_line(), ["link", *args, "--store", durable_store_url, "--json"]
        )
        return found.exit_code, found.stdout, f"{found.stderr}{found.exception}"

    return call


def test_an_operator_links_two_ids(
    server: ReferenceServer, durable_store_url: str, linked: Callable[..., Any]
) -> None:
    """And is told what would do where it cannot be done."""
    store = open_store(durable_store_url)
    runner_of(server, store).run(said("Hola"))
    store.close()

    code, out, _ = linked(CUSTOMER, BSUID)
    assert (code, json.loads(out)["linked"]) == (0, True)
    code, _, told = linked(CUSTOMER, "nobody")
    assert code != 0
    assert "expected a phone number" in told


def test_two_phone_numbers_are_linked_by_who_says_so(
    server: ReferenceServer, durable_store_url: str, linked: Callable[..., Any]
) -> None:
    """They are mostly two customers, whose words would be one conversation's for ever."""
    store = open_store(durable_store_url)
    runner_of(server, store).run(said("Hola"))
    store.close()

    code, _, told = linked(CUSTOMER, "+51 900 000 001")
    assert code != 0
    assert "Are both numbers one customer's?" in told
    assert linked(CUSTOMER, "+51 900 000 001", "--yes")[0] == 0
