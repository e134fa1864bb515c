"""Who a conversation is with: phone numbers and WhatsApp chat ids.

An *identity* is E.164 with ``+`` for each customer whose number is known (a direct chat id is just
another spelling of it), and the chat id itself for a ``…@lid`` or a ``…@g.us``. Numbers need not
be assigned: the structure of E.164 decides, so test numbers work.

No message here repeats what it was given: errors end up in logs, and logs hold no phone numbers.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal, TypeAlias
from urllib.parse import quote

from langchain_convsync.errors import ConfigurationError, InvalidPhoneNumberError

PhoneFormat: TypeAlias = Literal["e164", "digits", "jid"]

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_DIALLED = re.compile(r"(?:\+|00)?([1-9][0-9]{6,14})")
_TRUNK_ZERO = re.compile(r"\( ?0 ?\)")
_SEPARATORS = re.compile(r"[ ()-]|(?<=[0-9])\.(?=[0-9])")

# user[.agent][:device]@server, as whatsmeow and Baileys write the ids of linked devices.
_DIRECT = re.compile(
    r"\+?([1-9][0-9]{6,14})(?:\.[0-9]{1,3})?(?::[0-9]{1,5})?@(?:c\.us|s\.whatsapp\.net)"
)
_LID = re.compile(r"([0-9]{1,20})(?:\.[0-9]{1,3})?(?::[0-9]{1,5})?@lid")
_GROUP = re.compile(r"[0-9]{1,20}(?:-[0-9]{1,20})?@g\.us")

# Head, the digit that is there or not, tail.
_SPELLINGS = (
    (re.compile(r"(\+55[1-9][0-9])(9?)([6-9][0-9]{7})"), "9"),  # Brazil: mobiles, never landlines
    (re.compile(r"(\+54)(9?)([1-9][0-9]{9})"), "9"),  # Argentina: mobiles as called from abroad
    (re.compile(r"(\+52)(1?)([1-9][0-9]{9})"), "1"),  # Mexico: mobiles until 2019
)

_FULLWIDTH = {"＋": "+", "−": "-", "（": "(", "）": ")", "．": ".", "＠": "@"}

_MAX_LENGTH = 128
_MAX_SEGMENT = 1024


def normalize(text: str) -> str:
    """The one spelling of an identity that this package compares, hashes and stores.

    Args:
        text: A phone number as people write it (``+51 999-999-999``, ``0051…``, ``(+51) …``, digits
            of any script), as WhatsApp writes it (``51999999999``: international without plus),
            or a chat id with or without a device suffix (``51999999999:12@s.whatsapp.net``).

    Returns:
        ``+51999999999`` for every spelling of a phone number and of a direct chat;
        ``…@lid`` and ``…@g.us`` as they are, without device.

    Raises:
        InvalidPhoneNumberError: It is something else; channels, broadcasts and status included.
    """
    found = identity_of(text)
    if found is None:
        message = (
            "expected a phone number with its country code, such as +51999999999 (7 to 15 digits), "
            "or a WhatsApp chat id ending in @c.us, @lid or @g.us"
        )
        raise InvalidPhoneNumberError(message)
    return found


def identity_of(text: object) -> str | None:
    """What :func:`normalize` makes of it; None where that raises."""
    if not isinstance(text, str) or len(text) > _MAX_LENGTH:
        return None
    return _identity(text)


@lru_cache(maxsize=1024)  # a turn asks several times
def _identity(text: str) -> str | None:
    if _E164.fullmatch(text):
        return text
    plain = "".join(map(_plain, text))
    if "@" in plain:
        return _from_chat_id(plain.strip(" ").lower())
    if _TRUNK_ZERO.search(plain):
        return _without_trunk_zero(plain)
    match = _DIALLED.fullmatch(_SEPARATORS.sub("", plain))
    return f"+{match[1]}" if match else None


def chat_id(identity: str) -> str:
    """The chat id under which WAHA knows an identity: ``51999999999@c.us`` for a phone number.

    Raises:
        InvalidPhoneNumberError: It is not an identity.
    """
    identity = normalize(identity)
    return f"{identity[1:]}@c.us" if identity.startswith("+") else identity


def phone_of(identity: object) -> str | None:
    """The phone number that the text is a spelling of; None for a LID, a group or anything else."""
    found = identity_of(identity)
    return found if found is not None and found.startswith("+") else None


def lid_of(identity: object) -> str | None:
    """The ``…@lid`` that the text is a spelling of; None for anything else."""
    found = identity_of(identity)
    return found if found is not None and found.endswith("@lid") else None


def is_group(identity: object) -> bool:
    """Whether the text is the chat id of a group."""
    found = identity_of(identity)
    return found is not None and found.endswith("@g.us")


def variants(identity: str) -> tuple[str, ...]:
    """Every spelling under which the same subscriber may be stored, the given one first.

    Brazil added a ninth digit, Argentina and Mexico have an extra digit for mobiles, and WhatsApp
    ids keep whichever form the account was registered with.

    Raises:
        InvalidPhoneNumberError: It is not an identity.
    """
    identity = normalize(identity)
    for pattern, extra in _SPELLINGS:
        if match := pattern.fullmatch(identity):
            head, present, tail = match.groups()
            return (identity, f"{head}{'' if present else extra}{tail}")
    return (identity,)


def same_subscriber(a: object, b: object) -> bool:
    """Whether two texts name one subscriber, in any spelling; False when one names none.

    A LID is never the same as a phone number: only WhatsApp knows which belong together.
    """
    first, second = identity_of(a), identity_of(b)
    return first is not None and second is not None and second in variants(first)


def formatted(identity: str, style: PhoneFormat) -> str:
    """An identity as a server of that style stores it; LIDs and groups have one style only.

    Args:
        identity: Any spelling.
        style: ``"e164"`` (``+51…``), ``"digits"`` (``51…``) or ``"jid"`` (``51…@c.us``).

    Raises:
        InvalidPhoneNumberError: It is not an identity.
    """
    identity = normalize(identity)
    if style == "jid":
        return chat_id(identity)
    return identity.removeprefix("+") if style == "digits" else identity


def path_segment(text: object) -> str:
    """One percent-encoded segment of a URL path that can neither climb, nor end, nor add to it.

    Serves phone numbers, chat ids and session ids: ``+51999999999`` becomes ``%2B51999999999``.

    Raises:
        ConfigurationError: No encoding makes it one segment: it is empty, ``.`` or ``..`` (which
            URL libraries resolve), holds control characters or lone surrogates, or is longer than
            1,024 characters.
    """
    segment = _segment(text) if isinstance(text, str) else None
    if segment is None:
        message = (
            "this phone number or session id cannot stand in a URL: it must be 1 to 1,024 "
            "printable characters and no dot segment"
        )
        raise ConfigurationError(message)
    return segment


@lru_cache(maxsize=1024)
def _segment(text: str) -> str | None:
    return quote(text, safe="") if _fits_in_a_segment(text) else None


def masked(identity: object) -> str:
    """An identity that its owner recognises and no other reader can dial: ``+51•••••••99``.

    Never raises; what is not an identity becomes ``•••``.
    """
    found = identity_of(identity)
    if found is None:
        return "•••"
    if found.startswith("+"):
        return f"+{_masked_digits(found[1:])}"
    user, _, server = found.partition("@")
    return f"{_masked_digits(user)}@{server}"


def _masked_digits(digits: str) -> str:
    if len(digits) < 7:
        return "•" * len(digits)
    return f"{digits[:2]}{'•' * (len(digits) - 4)}{digits[-2:]}"


def _fits_in_a_segment(text: str) -> bool:
    return (
        0 < len(text) <= _MAX_SEGMENT
        and text not in {".", ".."}
        and not any(unicodedata.category(character) in {"Cc", "Cs"} for character in text)
    )


def _from_chat_id(text: str) -> str | None:
    if match := _DIRECT.fullmatch(text):
        return f"+{match[1]}"
    if match := _LID.fullmatch(text):
        return f"{match[1]}@lid"
    return text if _GROUP.fullmatch(text) else None


def _plain(character: str) -> str:
    """Digits, plus signs, dashes and spaces of every script in their ASCII form."""
    if character.isascii():
        return character
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if character in _FULLWIDTH:
        return _FULLWIDTH[character]
    # Numbers copied from a contact card come wrapped in invisible direction marks (Cf).
    return {"Pd": "-", "Zs": " ", "Cf": ""}.get(unicodedata.category(character), character)


def _without_trunk_zero(text: str) -> str | None:
    """``+44 (0)20 …`` as dialled from abroad: most countries drop that zero, some keep it."""
    import phonenumbers  # only here: loading its tables takes longer than everything else

    match = _DIALLED.fullmatch(_SEPARATORS.sub("", _TRUNK_ZERO.sub("0", text)))
    if match is None:  # phonenumbers overlooks anything that surrounds a number
        return None
    try:
        number = phonenumbers.parse(f"+{match[1]}")
    except phonenumbers.NumberParseException:
        return None
    found = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return found if _E164.fullmatch(found) else None
