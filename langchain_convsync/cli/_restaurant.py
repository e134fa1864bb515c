"""A restaurant's customer is answered, remembered and synced: what ``convsync demo`` plays."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from langchain_convsync import waha
from langchain_convsync._platform import now
from langchain_convsync.client import ConvSyncClient
from langchain_convsync.errors import MissingExtraError
from langchain_convsync.models import Conversation, InboundEvent
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.turns import Turn, TurnRunner

if TYPE_CHECKING:
    from langchain_convsync.testing import ReferenceServer

CUSTOMER, LID = "51999999999@c.us", "38000000000010@lid"
TENANT = {"subdomain": "restaurant-abc", "bot.id": "67890abcdef"}
PROMPT = (
    "Eres el asistente de WhatsApp de una pizzería en Lima. Responde en español, en una o dos "
    "frases. Consulta el menú con la herramienta menu. Antes de cada respuesta anota con "
    "sync_state la intención (menu, order, payment), el paso y los datos del pedido."
)
PIZZA = {"id": "item_123", "name": "Pizza Margherita", "price": 25.0}


def envelope(number: int, text: str, *, lid: bool = False) -> dict[str, Any]:
    """One WAHA webhook; with ``lid``, the second delivery of the same message as GOWS sends it."""
    chat, other = (LID, CUSTOMER) if lid else (CUSTOMER, LID)
    stanza = f"3AC22AE73E7976384{number:03d}"
    sent = int(now().timestamp())  # of now, or it would not be answered
    return {
        "id": f"evt_01kf3swbqgyssk8qevwzhf3{'l' if lid else 'c'}{number:02d}",
        "timestamp": sent * 1000,
        "event": "message",
        "session": "restaurant",
        "metadata": TENANT,
        "me": {"id": "51988888888@c.us", "pushName": "Restaurante ABC"},
        "payload": {
            "id": f"false_{chat}_{stanza}",
            "timestamp": sent,
            "from": chat,
            "fromMe": False,
            "source": "app",
            "to": None,
            "participant": None,
            "body": text,
            "hasMedia": False,
            "media": None,
            "_data": {
                "Info": {
                    "Chat": chat,
                    "ID": stanza,
                    "PushName": "Lucía",
                    "SenderAlt": other.replace("@c.us", "@s.whatsapp.net"),
                }
            },
        },
        "engine": "GOWS",
    }


#: What WAHA delivers, in order: the second message twice, the third once more under its LID.
DELIVERIES = [
    ("", envelope(1, "Hola")),
    ("", envelope(2, "Quiero una pizza")),
    ("the same delivery again", envelope(2, "Quiero una pizza")),
    ("", envelope(3, "Que sean dos. Pago con Yape, Av. Principal 123")),
    (
        "its twin under a LID",
        envelope(3, "Que sean dos. Pago con Yape, Av. Principal 123", lid=True),
    ),
]


def _calls(name: str, **args: Any) -> AIMessage:
    return AIMessage(content="", tool_calls=[{"name": name, "args": args, "id": f"call_{name}"}])


def _script() -> list[str | AIMessage]:
    """What the scripted model says: tool calls drive the agent's real loop."""
    return [
        _calls("sync_state", intent="menu", step="browsing"),
        "¡Hola! Bienvenida. ¿Qué te gustaría pedir?",
        _calls("menu"),
        _calls(
            "sync_state",
            intent="order",
            step="selecting",
            context={"selectedItems": [{**PIZZA, "quantity": 1}], "orderTotal": 25.0},
        ),
        "Tenemos Pizza Margherita a S/ 25.00. ¿Cuántas deseas?",
        _calls(
            "sync_state",
            intent="payment",
            step="processing_payment",
            context={
                "selectedItems": [{**PIZZA, "quantity": 2}],
                "orderTotal": 50.0,
                "paymentMethod": "yape",
                "deliveryAddress": {"street": "Av. Principal 123", "city": "Lima"},
            },
        ),
        "¡Perfecto! Tu pedido está confirmado. Total: S/ 50.00",
    ]


@tool
def menu() -> str:
    """The restaurant's menu with prices in soles."""
    return "Pizza Margherita: S/ 25.00"


@dataclass
class _Story:
    """What was delivered, and what became of it."""

    scripted: bool
    turns: list[tuple[InboundEvent, Turn]] = field(default_factory=list)

    @property
    def said(self) -> list[tuple[str, str]]:
        """What the history should hold."""
        return [
            line
            for event, turn in self.turns
            if turn.status == "answered"
            for line in (("user", event.text), ("bot", turn.reply or ""))
        ]


def play(*, as_json: bool = False) -> None:
    """Play the conversation and show it; exits with 1 where the state read back is wrong.

    Args:
        as_json: Print the state read back, too; everything else goes to standard error then.
    """
    from langchain_convsync.testing import ReferenceServer

    console = Console(stderr=as_json)
    model = _model()
    story = _Story(scripted=not os.environ.get("OPENAI_API_KEY"))
    with ReferenceServer() as server, ConvSyncClient(server.base_url) as client:
        runner = _runner(model, client)
        for note, delivery in DELIVERIES:
            _deliver(console, server, delivery)
            event = waha.parse_event(delivery)
            if isinstance(event, InboundEvent):
                turn = runner.run(event)
                story.turns.append((event, turn))
                _show(console, note, event, turn)
        kept = server.conversation(CUSTOMER)
    if as_json:
        typer.echo(json.dumps(kept.model_dump(mode="json", by_alias=True), ensure_ascii=False))
    _show_result(console, kept)
    wrong = list(_wrong(story, kept))
    for problem in wrong:
        console.print(f"[red]✗ {problem}")
    if wrong:
        raise typer.Exit(1)
    console.print("[green]✓ Every message is on the server once, in order, for the right tenant.")


def _model() -> BaseChatModel:
    if not os.environ.get("OPENAI_API_KEY"):
        from langchain_convsync.testing import ScriptedChatModel

        return ScriptedChatModel(responses=_script())
    try:
        from langchain_openai import ChatOpenAI
    except ImportError as error:
        raise MissingExtraError("The demo with OPENAI_API_KEY", "openai") from error
    return ChatOpenAI(model_name=os.environ.get("OPENAI_MODEL", "gpt-4o-mini"))


def _runner(model: BaseChatModel, client: ConvSyncClient) -> TurnRunner:
    from langchain_convsync.middleware import ConvSyncMiddleware  # names its extra if it is missing

    from langchain.agents import create_agent  # isort: skip

    agent = create_agent(
        model, tools=[menu], system_prompt=PROMPT, middleware=[ConvSyncMiddleware(client)]
    )
    return TurnRunner(agent, client=client, store=SQLiteEventStore(":memory:"))


def _deliver(console: Console, server: ReferenceServer, delivery: dict[str, Any]) -> None:
    """WAHA's webhook to the API server; the first one begins the conversation."""
    begun = not server.requests
    server.deliver(delivery)
    if begun:
        kept = server.conversation(CUSTOMER)
        console.print(
            f"[dim]A message arrives. Its phone number belongs to tenant [/]{kept.subdomain}[dim], "
            f"bot [/]{kept.bot_id}\n"
        )


def _show(console: Console, note: str, event: InboundEvent, turn: Turn) -> None:
    customer = Text(event.text)
    if note:
        customer.append(f"\n{note}", style="dim")
    console.print(Panel(customer, title="Lucía", title_align="left", style="cyan", width=64))
    if turn.status == "failed":
        failure = f"  ↳ the agent failed: {type(turn.error).__name__}: {turn.error}\n"
        console.print(Text(failure, style="red"))
        return
    if turn.status != "answered":
        console.print(f"  [yellow]↳ {turn.status}: answered before, nothing is sent[/]\n")
        return
    console.print(
        Panel(turn.reply or "", title="Bot", title_align="right", style="green", width=64)
    )
    console.print(f"  [dim]↳ intent {turn.state.intent}, step {turn.state.step}[/]\n")


def _show_result(console: Console, kept: Conversation) -> None:
    table = Table(title="Read back from the API server", title_justify="left")
    table.add_column("")
    table.add_column("")
    table.show_header = False
    for name, value in (
        ("tenant", f"{kept.subdomain}, bot {kept.bot_id}"),
        ("intent", f"{kept.previous_intent} → {kept.current_intent}"),
        ("step", f"{kept.previous_step} → {kept.current_step}"),
        ("context", ", ".join(kept.context)),
        ("messages", str(len(kept.messages))),
    ):
        table.add_row(name, value)
    console.print(table)


def _wrong(story: _Story, kept: Conversation) -> Iterator[str]:
    """What is not as it should be on the server."""
    answered = [turn for _, turn in story.turns if turn.status == "answered"]
    if len(answered) != 3:
        yield f"3 messages were to be answered, {len(answered)} were"
    if [(message.role, message.content) for message in kept.messages] != story.said:
        yield "the server's history is not what was said"
    if kept.subdomain != TENANT["subdomain"]:
        yield f"the tenant is {kept.subdomain}"
    if not story.scripted:
        return  # what a real model decides is its own business
    if (kept.current_intent, kept.current_step) != ("payment", "processing_payment"):
        yield f"intent and step are {kept.current_intent}, {kept.current_step}"
    if kept.context.get("orderTotal") != 50.0:
        yield f"the order's total is {kept.context.get('orderTotal')}"
