"""What a customer chose instead of writing: buttons, rows of lists, and the answers of forms."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from langchain_convsync.contents import Choice
from langchain_convsync.errors import InvalidEventError
from langchain_convsync.waha.wire import (
    Folded,
    Json,
    as_object,
    as_text,
    first_text,
    folded,
    parse_json,
)

#: The fields and types that tell of a choice, folded, and what was chosen from.
_KINDS = {
    "buttonsresponsemessage": "button",
    "buttonsresponse": "button",
    "templatebuttonreplymessage": "template",
    "templatebuttonreply": "template",
    "listresponsemessage": "list",
    "listresponse": "list",
    "interactiveresponsemessage": "button",
    "interactiveresponse": "button",
    "nativeflowresponsemessage": "button",
    "nativeflowresponse": "button",
}
_LISTS = frozenset({"menu_options", "single_select"})
_IDS = ("selectedrowid", "selectedbuttonid", "selectedid")
_TITLES = ("selecteddisplaytext", "selectedtext", "displaytext")
#: What names and labels a choice in its own parameters, folded; all else was filled in.
_LABELS = frozenset({"id", "title", "displaytext", "description", "rowid", "selectedid", "header"})
_PARAMS = ("paramsjson", "responsejson")
_ELSEWHERE = frozenset({"contextinfo", "messagecontextinfo", "quotedmsg", "quotedmessage"})
_LONGEST, _LARGEST = 65_536, 10**18


def choice_of(payload: Json, data: Folded, message: Folded, text: str) -> tuple[Choice | None, str]:
    """What was chosen, and the message's text, without the id that some WAHAs write behind it.

    Args:
        payload: WAHA's own fields; some versions tell ``interactiveResponse``.
        data: The engine's fields.
        message: The protobuf message.
        text: What the message says.
    """
    reported = Folded.of(payload.get("interactiveResponse"))
    name = next((name for name in message if name in _KINDS), None)
    kind = _KINDS.get(name or folded(as_text(data.get("type"))))
    if kind is None and not reported:
        return None, text
    node = message.within(name) if name else data
    told = [*node.nested(without=_ELSEWHERE), reported]
    params = _params(told, reported)
    labels = Folded(params)
    chosen = _first(told, _IDS) or _id_in(labels)
    said = _without_id(text, chosen)
    title = _first(told, _TITLES) or labels.texts("displaytext", "title")
    if kind == "list":
        title = title or node.texts("title", "listresponse.title")
        if description := node.texts("description", "listresponse.description"):
            params = {**params, "description": description}
    title = title or said or _offered(chosen, (data, message))
    if labels.keys() - _LABELS:
        kind = "flow"
    elif first_text(*(each.get("name") for each in told)) in _LISTS:
        kind = "list"
    if chosen is None and not title and not params:
        return None, text
    choice = Choice(id=chosen, title=title or None, kind=kind or "button", params=params)
    return choice, said or title or ("" if kind == "flow" else chosen or "")


def _id_in(labels: Folded) -> str | None:
    numbered = labels.get("id")
    if type(numbered) is int and 0 <= numbered < _LARGEST:
        return str(numbered)
    return labels.texts("id", "rowid", "selectedid") or None


def _first(nodes: Iterable[Folded], names: tuple[str, ...]) -> str:
    return next((text for node in nodes if (text := node.texts(*names))), "")


def _params(nodes: Iterable[Folded], reported: Folded) -> dict[str, Any]:
    """The parameters, with those that stand in one of them as JSON themselves."""
    written = _first(nodes, _PARAMS)
    if written.strip() not in {"", "{}", "null"} and not _parsed(written):  # somebody chose it
        return {"params": written[:_LONGEST]}
    params = _parsed(written) or _parsed(_written(reported.get("params")))
    inner = _parsed(Folded(params).texts(*_PARAMS))
    outer = {name: value for name, value in params.items() if folded(name) not in _PARAMS}
    return {**outer, **inner} if inner else params


def _parsed(text: str) -> Json:
    if not text or len(text) > _LONGEST:
        return {}
    try:
        return as_object(_plain(parse_json(text.encode())))
    except InvalidEventError:
        return {}


def _written(value: object) -> str:
    try:
        return json.dumps(value) if isinstance(value, dict) else ""
    except (RecursionError, ValueError):
        return ""


def _plain(value: Any) -> Any:
    """The same without halves of surrogate pairs, which nothing further on accepts."""
    if isinstance(value, dict):
        return {as_text(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return as_text(value) if isinstance(value, str) else value


def _without_id(text: str, chosen: str | None) -> str:
    """``Sí [btn_yes]`` is what some versions of WAHA write for a button ``Sí``."""
    if chosen is None:
        return text
    return text.removesuffix(f"[{chosen}]").rstrip() if text.endswith(f"[{chosen}]") else text


def _offered(chosen: str | None, places: Iterable[Folded]) -> str:
    """The title of what was chosen, as the message that offered it tells it."""
    if chosen is None:
        return ""
    for place in places:
        for node in place.nested():
            params = _parsed(node.texts("buttonparamsjson"))
            for option in (node, *(Folded.of(params).nested() if params else ())):
                if chosen in (option.get("id"), option.get("rowid"), option.get("buttonid")):
                    told = ("title", "displaytext", "buttontext.displaytext", "buttontext")
                    if title := option.texts(*told):
                        return str(title)
    return ""
