"""Single parts of a message: places, polls, events, prices, mentions, and what led here."""

from __future__ import annotations

import math

from langchain_convsync import phone
from langchain_convsync.contents import Location, Referral
from langchain_convsync.waha.origin import moment, token
from langchain_convsync.waha.wire import Folded, Json, as_list, as_text, at, first_text

_MOST = 200


def context_of(message: Folded) -> Folded:
    """What a protobuf message refers to: ``contextInfo`` of whichever field has one."""
    nodes = (message.within(name) for name, node in message.items() if isinstance(node, dict))
    return next((found for node in nodes if (found := node.within("contextinfo"))), Folded({}))


def location_of(place: Json, node: Folded, *, is_live: bool = False) -> Location:
    """The place, as WAHA tells it or else its engine; it may be live by its kind alone."""
    told = Folded.of(place)
    degrees = (
        _degrees(told.get("latitude", node.get("degreeslatitude", node.get("lat"))), 90),
        _degrees(told.get("longitude", node.get("degreeslongitude", node.get("lng"))), 180),
    )
    latitude, longitude = degrees if None not in degrees else (None, None)
    name, address = (told.texts(key) or node.texts(key) for key in ("name", "address"))
    is_live = is_live or told.get("live") is True or node.get("islive") is True
    live_fields = {"sequencenumber", "accuracyinmeters", "timeoffset", "shareduration"}
    return Location(
        latitude=latitude,
        longitude=longitude,
        name=name or told.texts("description") or node.texts("loc") or None,
        address=address or None,
        url=told.texts("url") or node.texts("url") or None,
        live=is_live or not live_fields.isdisjoint(node) or node.get("type") == "live_location",
    )


def has_moved(node: Folded) -> bool:
    """Whether a live location is not the first one of those that are sent while it is shared."""
    seconds = _degrees(node.get("timeoffset"), 10**9)
    number = _degrees(node.get("sequencenumber"), 10**6)  # others are times
    return (seconds or 0) > 0 or (number or 0) > 1


def _degrees(value: object, limit: int) -> float | None:
    """WAHA reports text, engines report numbers."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        degrees = float(value)
    except (ValueError, OverflowError):
        return None
    return degrees if abs(degrees) <= limit else None  # not a number excluded


def mentions_of(payload: Json, context: Folded, data: Folded) -> tuple[str, ...]:
    """Who is mentioned, by phone number or LID."""
    told = (payload.get("mentionedIds"), context.get("mentionedjid"), data.get("mentionedjidlist"))
    listed = next((found for each in told if (found := as_list(each))), [])
    names = (phone.identity_of(as_text(at(jid, "_serialized")) or jid) for jid in listed[:_MOST])
    return tuple(dict.fromkeys(name for name in names if name))


def referral_of(context: Folded, data: Folded) -> Referral | None:
    """The ad, post or page that led here; None for a message of the customer's own making."""
    shown = context.within("externaladreply") or data.within("ctwacontext")
    older = context.within("quotedad")
    source = context.texts("entrypointconversionsource") or shown.texts("conversionsource")
    is_ad = source.startswith("ctwa") or bool(data.within("ctwacontext"))
    if not shown and not older and not is_ad:
        return None
    click = shown.texts("ctwaclid") or context.texts("ctwaclid") or None
    is_ad = is_ad or click is not None or bool(older) or shown.get("showadattribution") is True
    kind = token(shown.get("sourcetype"))
    referral = Referral(
        source_type=kind.lower() if kind else "ad" if is_ad else "link",
        source_id=shown.texts("sourceid") or None,
        source_url=shown.texts("sourceurl", "mediaurl") or None,
        title=shown.texts("title") or older.texts("advertisername") or None,
        body=shown.texts("body", "description") or older.texts("caption") or None,
        click_id=click,
    )
    return None if referral == Referral(source_type="link") else referral


def details_of_poll(node: Folded) -> str:
    """The question, and the options in brackets."""
    question = node.texts("name", "pollname")
    listed = as_list(node.get("options")) or as_list(node.get("polloptions"))
    options = [
        name
        for option in listed[:_MOST]
        if (name := first_text(at(option, "optionName"), at(option, "name"), option))
    ]
    return f"{question} ({', '.join(options)})" if options else question


def details_of_event(node: Folded) -> str:
    """What it is called, when and where it is, and what else is told of it."""
    begins = moment(node.get("starttime", node.get("eventstarttime")))
    told = (
        node.texts("name", "eventname"),
        f"{begins:%Y-%m-%d %H:%M} UTC" if begins else "",
        node.texts("location.name", "eventlocation.name"),
        node.texts("description", "eventdescription"),
    )
    return ", ".join(each for each in told if each)


def details_of_payment(node: Folded, *titles: str) -> str:
    """What is ordered or paid for, how many of it, and the price."""
    count = node.get("itemcount")
    items = f"{count} items" if isinstance(count, int) and 1 < count < 10**9 else ""
    told = (node.texts(*titles) if titles else "", items, _price(node))
    return ", ".join(each for each in told if each)


def _price(node: Folded) -> str:
    """WhatsApp tells thousandths, as numbers or as text."""
    for priced in node.nested(without=("contextinfo",)):
        found = (
            priced.get("totalamount1000"),
            priced.get("priceamount1000"),
            priced.get("amount1000"),
        )
        currency = priced.texts(
            "totalcurrencycode", "currencycode", "currencycodeiso4217", "currency"
        )
        for value in found:
            amount = _degrees(value, 10**15)
            if amount is not None and math.isfinite(amount) and currency.isalpha():
                return f"{amount / 1000:.2f} {currency}"
    return ""
