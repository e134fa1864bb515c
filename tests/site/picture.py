"""The picture of the README: the demo's chat, and beside it what the API server holds by then."""

from __future__ import annotations

import io
import re

from rich import box
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from langchain_convsync import Conversation, InboundEvent, Turn, waha
from langchain_convsync.cli import _restaurant as demo
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel

WIDTH, CHAT = 96, 50
#: rich would have browsers fetch a font from elsewhere.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def picture() -> str:
    """The scripted demo, played on a real reference server, as an SVG."""
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, legacy_windows=False
    )
    console.print(_played())
    return console.export_svg(title="convsync demo", code_format=FORMAT, unique_id="convsync")


def _played() -> Table:
    story = Table.grid(padding=(0, 2))
    story.add_column(width=CHAT)
    story.add_column(width=WIDTH - CHAT - 4)
    story.add_row(Text("WhatsApp", style="bold"), Text("what the API server holds", style="bold"))
    before: dict[str, str] = {}
    with ReferenceServer() as server, server.client() as client:
        runner = demo._runner(ScriptedChatModel(responses=demo._script()), client)
        for note, delivery in demo.DELIVERIES:
            server.deliver(delivery)
            event = waha.parse_event(delivery)
            assert isinstance(event, InboundEvent)
            turn = runner.run(event)
            after = _facts(server.conversation(demo.CUSTOMER))
            story.add_row(_chat(note, event, turn), _state(before, after, turn))
            before = after
    return story


def _facts(kept: Conversation) -> dict[str, str]:
    total = kept.context.get("orderTotal")
    return {
        "tenant": str(kept.subdomain),
        "intent": str(kept.current_intent),
        "step": str(kept.current_step),
        "orderTotal": "" if total is None else f"{total:.2f}",
        "messages": str(len(kept.messages)),
    }


def _chat(note: str, event: InboundEvent, turn: Turn) -> RenderableType:
    said = Text(event.text)
    if note:
        said.append(f"\n{note}", style="dim")
    bubbles = [Panel(said, title="Lucía", title_align="left", style="cyan", box=box.ROUNDED)]
    if turn.status == "answered":
        bubbles.append(Panel(turn.reply or "", title="Bot", title_align="right", style="green"))
    return Group(*bubbles)


def _state(before: dict[str, str], after: dict[str, str], turn: Turn) -> RenderableType:
    if before == after:
        return Text(f"\n{turn.status}: nothing is sent", style="yellow")
    rows = Table.grid(padding=(0, 2))
    for name, value in filter(all, after.items()):
        changed = before != {} and value != before[name]
        rows.add_row(Text(name, style="dim"), Text(value, style="bold green" if changed else ""))
    return Group(Text(), rows)
