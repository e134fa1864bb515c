"""Conversations and turns in a notebook: a small chat, harmless and without names."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any, cast

import pytest
from IPython.core.formatters import DisplayFormatter

from langchain_convsync import Conversation, StateUpdate, Turn

PHONE = "+51944333222"
SCRIPT = "<script>alert('x')</script><img src=x onerror=alert(1)>"


def conversation(*said: tuple[str, object], **fields: Any) -> Conversation:
    """A conversation in which this was said, (role, content) each."""
    history = [{"role": role, "content": content} for role, content in said]
    context = {"previousMessages": history, **fields.pop("context", {})}
    document = {
        "sessionId": f"bot123_{PHONE}",
        "userId": PHONE,
        "botId": "bot123",
        "subDomain": "restaurant-abc",
        "currentIntent": "order",
        "currentStep": "selecting",
        "context": context,
    }
    return Conversation.model_validate({**document, **fields})


def shown(value: object) -> dict[str, str]:
    """What IPython shows of a value, by MIME type."""
    formatter: Any = DisplayFormatter()
    formatted: dict[str, str] = formatter.format(value)[0]
    assert formatted["text/html"] == cast("Any", value)._repr_html_()  # for who asks that only
    return formatted


class Tags(HTMLParser):
    """Every tag of a page, and the names of its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.depth = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attrs)}
        self.depth += tag != "br"

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1


def test_a_conversation_is_shown_as_a_chat() -> None:
    """Tenant, bot, state, and who said what; in a terminal, too."""
    kept = conversation(
        ("user", "Quiero una pizza"),
        ("bot", "¿Cuál?"),
        previousIntent="menu",
        context={"orderTotal": 25.0},
    )

    page, text = shown(kept)["text/html"], shown(kept)["text/plain"]

    for told in ("restaurant-abc", "bot123", "menu → order", "selecting", "orderTotal"):
        assert told in page
        assert told in text
    assert page.index("Quiero una pizza") < page.index("¿Cuál?")
    assert text.splitlines()[1:] == ["  customer: Quiero una pizza", "  bot: ¿Cuál?"]


def test_a_closed_conversation_says_so() -> None:
    """And an open one does not."""
    assert "closed" in shown(conversation(isActive=False))["text/html"]
    assert "closed" not in shown(conversation())["text/html"]


@pytest.mark.parametrize(
    "value",
    [
        conversation(("user", SCRIPT), ("bot", SCRIPT), (SCRIPT, SCRIPT)),
        conversation(currentIntent=SCRIPT, currentStep=SCRIPT, previousIntent="<b>"),
        conversation(subDomain=SCRIPT, botId=SCRIPT, context={SCRIPT: 1}),
        Turn(status="answered", reply=SCRIPT, state=StateUpdate(intent=SCRIPT, step=SCRIPT)),
        Turn(status="answered", state=StateUpdate(context={SCRIPT: SCRIPT})),
    ],
)
def test_stored_text_stays_text(value: object) -> None:
    """Whoever writes to the bot cannot run anything in an engineer's browser."""
    tags = Tags(shown(value)["text/html"])

    assert tags.found <= {"div", "b", "i", "br", "bdi", "style"}
    assert tags.depth == 0


@pytest.mark.parametrize(
    "number",
    [
        PHONE,
        "+51 944 333 222",
        "51944333222@c.us",
        "(944) 333-222",
        "٩٤٤٣٣٣٢٢٢",
        "38111222333444@lid",
    ],
)
def test_no_phone_number_is_shown(number: str) -> None:
    """Notebooks are kept and shared; the customer is named by nothing, nor by their own words."""
    text = f"Mi número es {number}, gracias"
    kept = conversation(("user", text), ("bot", text), userId=number, context={number: 1})
    turn = Turn(status="answered", reply=text, events=(f"false_{number}_3A",), turn_id="t")

    for value in (kept, turn):
        for page in shown(value).values():
            assert "333" not in page
            assert "٣٣٣" not in page
            assert "gracias" in page


def test_what_is_no_phone_number_is_shown() -> None:
    """Prices, addresses, and ids of bots."""
    kept = conversation(("bot", "S/ 50.00, Av. Principal 123"), botId="64f0c2a51234567890abcdef")

    page = shown(kept)["text/html"]

    assert "S/ 50.00, Av. Principal 123" in page
    assert "64f0c2a51234567890abcdef" in page


def test_a_long_conversation_shows_its_end() -> None:
    """A notebook stays small; how much is missing is told."""
    kept = conversation(*(("user", f"número {number}.") for number in range(30)))

    page = shown(kept)["text/html"]

    assert "10 earlier messages" in page
    assert "número 9." not in page
    assert page.count("número") == 20


@pytest.mark.parametrize("content", ["x" * 10_000, "\ud83d", "\0", "\u202egnp", {"a": 1}, None, ""])
def test_whatever_was_stored_can_be_shown(content: object) -> None:
    """And sent to the browser as UTF-8, without drowning the page."""
    for page in shown(conversation(("user", content))).values():
        assert len(page.encode()) < 2_000


def test_stored_text_does_not_steer_a_terminal() -> None:
    """Nor does it turn around what stands beside it."""
    text = shown(conversation(("user", "\x1b[2J\x9b1m\u202eizzip\tsí\nno")))["text/plain"]

    assert text.endswith("  customer: �[2J�1m�izzip\tsí\n    no")


def test_a_turn_shows_what_became_of_its_events() -> None:
    """What to send, and what was said before."""
    state = StateUpdate(intent="order", step="selecting")
    turn = Turn(status="answered", reply="¿Cuál?", state=state, events=("a", "b"), turn_id="t")
    repeated = Turn(status="duplicate", reply="¿Cuál?", events=("a",))

    assert shown(turn)["text/plain"].splitlines() == [
        "answered · events 2 · intent order · step selecting",
        "  bot: ¿Cuál?",
    ]
    assert "said before" in shown(repeated)["text/html"]


def test_logs_and_traces_see_none_of_it() -> None:
    """`repr` is what they take; it quotes nobody."""
    kept = conversation(("user", "Quiero una pizza"))

    assert "pizza" not in f"{kept!r} {kept}"
