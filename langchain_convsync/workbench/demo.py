"""A pizzeria's bot for ``--demo``: a real agent loop with tools, on a model that follows rules.

With ``OPENAI_API_KEY`` set the model is ChatOpenAI; without, it costs nothing and needs no network.
"""

from __future__ import annotations

import os
import re
import time
from itertools import repeat
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from langchain_convsync.errors import MissingExtraError
from langchain_convsync.outbox import WAHAReply
from langchain_convsync.testing import ScriptedChatModel
from langchain_convsync.turns import TurnRunner

PROMPT = (
    "You answer for a pizzeria on WhatsApp, in one or two sentences, in the customer's language. "
    "Read the menu with the tool menu. Before each answer note with sync_state the intent (menu, "
    "order, payment), the step and what was ordered."
)
PRICES = {"margherita": 25.0, "pepperoni": 29.0, "veggie": 27.0}
_NUMBERS = {"a": 1, "an": 1, "one": 1, "una": 1, "two": 2, "dos": 2, "three": 3, "tres": 3}
#: Seconds that the model seems to think: enough to see it type, and to kill it.
THINKS = 0.5


@tool
def menu() -> str:
    """The pizzeria's menu, with prices in soles."""
    return ", ".join(f"{name.title()} S/ {price:.2f}" for name, price in PRICES.items())


def make_runner() -> TurnRunner:
    """The bot."""
    try:
        from langchain_convsync.middleware import ConvSyncMiddleware

        from langchain.agents import create_agent  # isort: skip
    except ImportError as error:
        raise MissingExtraError("The demo's agent", "agents") from error
    agent = create_agent(
        _model(), tools=[menu], system_prompt=PROMPT, middleware=[ConvSyncMiddleware()]
    )
    return TurnRunner(agent, reply=WAHAReply(seen=True, typing=1.0))


def _model() -> BaseChatModel:
    if not os.environ.get("OPENAI_API_KEY"):
        return ScriptedChatModel(repeat(_answer), model="rules")
    try:
        from langchain_openai import ChatOpenAI
    except ImportError as error:
        raise MissingExtraError("The demo with OPENAI_API_KEY", "openai") from error
    return ChatOpenAI(model_name=os.environ.get("OPENAI_MODEL", "gpt-4o-mini"))


def _answer(messages: list[BaseMessage]) -> AIMessage:
    """One step of the loop: first the menu, then the state, then words."""
    time.sleep(THINKS)
    last = max(n for n, each in enumerate(messages) if isinstance(each, HumanMessage))
    heard = str(messages[last].text).lower()
    done = {each.name for each in messages[last:] if isinstance(each, ToolMessage)}
    intent, ordered = _understood(heard, messages)
    if intent == "menu" and "menu" not in done:
        return _calls("menu")
    if "sync_state" not in done:
        steps = {"menu": "browsing", "order": "selecting", "payment": "processing_payment"}
        total = sum(PRICES[name] * number for name, number in ordered.items())
        context = {"items": ordered, "orderTotal": total} if ordered else {}
        return _calls("sync_state", intent=intent, step=steps[intent], context=context)
    return AIMessage(_words(intent, ordered))


def _understood(heard: str, messages: list[BaseMessage]) -> tuple[str, dict[str, int]]:
    ordered: dict[str, int] = {}
    for each in messages:
        if isinstance(each, HumanMessage):
            ordered = _pizzas(str(each.text).lower()) or ordered
    if re.search(r"\b(pay|card|cash|pago|yape)", heard) and ordered:
        return "payment", ordered
    return ("order", ordered) if _pizzas(heard) else ("menu", ordered)


def _pizzas(heard: str) -> dict[str, int]:
    number = next((_NUMBERS[w] for w in re.findall(r"\w+", heard) if w in _NUMBERS), 1)
    number = next((int(each) for each in re.findall(r"\b\d\b", heard)), number)
    named = [name for name in PRICES if name in heard]
    if not named and re.search(r"pizza", heard):
        named = ["margherita"]
    return dict.fromkeys(named, number)


def _words(intent: str, ordered: dict[str, int]) -> str:
    items = " and ".join(f"{number} {name.title()}" for name, number in ordered.items())
    total = sum(PRICES[name] * number for name, number in ordered.items())
    return {
        "menu": "Hi! Today we have Margherita (S/ 25), Pepperoni (S/ 29) and Veggie (S/ 27). "
        "What would you like?",
        "order": f"{items}: that makes S/ {total:.2f}. How would you like to pay?",
        "payment": f"Thank you! {items} will be at your door in 30 minutes. Total: S/ {total:.2f}",
    }[intent]


def _calls(name: str, **args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call_{name}"}])
