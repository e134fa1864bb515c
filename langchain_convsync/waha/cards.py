"""Cards that people send: vCards of WAHA or of an engine, or a name alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

from langchain_convsync.contents import Contact
from langchain_convsync.waha.wire import Folded, Json, as_list, as_text, at, first_text

#: ``item1.TEL;type=CELL;waid=51999999999:+51 999 999 999`` is a property, parameters and a value.
_LINE = re.compile(
    r"^(?:[\w-]+\.)?(FN|N|ORG|TEL|EMAIL)((?:;[^:\r\n]*)?):([^\r\n]*)\r?$",
    re.IGNORECASE | re.MULTILINE,
)
_FOLDING = re.compile(r"\r?\n[ \t]")
_WAID = re.compile(r";waid=([0-9]{5,20})(?:;|$)", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)")
_MOST, _LONGEST = 100, 100_000


def contacts_of(payload: Json, node: Folded) -> tuple[Contact, ...]:
    """Everybody whose card was sent.

    Args:
        payload: WAHA's own fields, with ``vCards``.
        node: The engine's field for cards, or all of WhatsApp Web's.
    """
    told = [read_card(card) for card in as_list(payload.get("vCards"))[:_MOST]]
    return tuple(card for card in told if card) or tuple(_listed(node))


def read_card(vcard: object) -> Contact | None:
    """The contact in a vCard; None where it tells of none."""
    told: dict[str, list[tuple[str, str]]] = {}
    text = _FOLDING.sub("", as_text(vcard)[:_LONGEST])
    for name, parameters, value in _LINE.findall(text):
        if plain := _ESCAPED.sub(r"\1", value).strip(" ;"):
            told.setdefault(name.upper(), []).append((parameters, plain))
    names = [value for key in ("FN", "N") for _, value in told.get(key, ())]
    numbers = [_number(parameters, value) for parameters, value in told.get("TEL", ())]
    contact = Contact(
        name=" ".join(names[0].replace(";", " ").split()) if names else None,
        phone_numbers=tuple(dict.fromkeys(numbers)),
        emails=tuple(value for _, value in told.get("EMAIL", ())),
        organization=next((value.replace(";", ", ") for _, value in told.get("ORG", ())), None),
    )
    return None if contact == Contact() else contact


def _number(parameters: str, value: str) -> str:
    """The number as WhatsApp knows it, where the card tells that, else as it is written."""
    known = _WAID.search(parameters)
    return f"+{known[1]}" if known else value


def _listed(node: Folded) -> Iterator[Contact]:
    several = as_list(node.get("contacts")) or as_list(node.get("vcardlist")) or [node]
    for each in several[:_MOST]:
        entry = Folded.of(each)
        name = first_text(at(entry, "displayname"))
        card = read_card(entry.get("vcard")) or read_card(entry.get("body"))
        if card is not None:
            yield card if card.name or not name else card.model_copy(update={"name": name})
        elif name:
            yield Contact(name=name)
