"""Who a conversation is with: *customer ids*, each in its one spelling.

A customer id is E.164 with ``+`` for a phone number (a direct chat id is just another spelling of
it), the chat id itself for a ``…@lid`` or a ``…@g.us``, a *BSUID* (``PE.1A2b3C``, which Meta's
Cloud API gives a customer without a number), or the API server's own id of the customer. Numbers
need not be assigned: the structure of E.164 decides, so test numbers work.

No message here repeats what it was given: errors end up in logs, and logs hold no customer ids.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal, TypeAlias
from urllib.parse import quote

from langchain_convsync.errors import ConfigurationError, InvalidPhoneNumberError

PhoneFormat: TypeAlias = Literal["e164", "digits", "jid"]
#: What a customer id is: ``opaque`` is the API server's own.
Kind: TypeAlias = Literal["phone", "bsuid", "lid", "group", "opaque"]

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_DIALLED = re.compile(r"(?:\+|00)?([1-9][0-9]{6,14})")
_TRUNK_ZERO = re.compile(r"\( ?0 ?\)")
_SEPARATORS = re.compile(r"[ ()-]|(?<=[0-9])\.(?=[0-9])")

# user[.agent][:device]@server, as whatsmeow and Baileys write the ids of linked devices.
_DEVICE = r"(?:\.[0-9]{1,3})?(?::[0-9]{1,5})?"
_DIRECT = re.compile(rf"\+?([1-9][0-9]{{6,14}}){_DEVICE}@(?:c\.us|s\.whatsapp\.net|hosted)")
_LID = re.compile(rf"([0-9]{{1,20}}){_DEVICE}@(?:lid|hosted\.lid)")
_GROUP = re.compile(r"[0-9]{1,20}(?:-[0-9]{1,20})?@g\.us")

# Engines write LIDs as direct chats, too. They have 13 digits and more, as have mobile numbers
# in these countries alone: Austria, Indonesia and satellites (14 and 15), and those with 13.
_NO_NUMBER = re.compile(
    r"(?!43|62[0-9]{12}$|870|882)[0-9]{14,15}"
    r"|(?!31|43|49|52|54|55|62|86|225|229|234|358|381|685|850|856|88[012]|964|977)[0-9]{13}"
)
# How Argentinians write a mobile number at home: 15 behind the area code, instead of 9 before it.
_DIALLED_AT_HOME = re.compile(r"(?=[0-9]{14}$)54[1-8][0-9]{1,3}15[0-9]{6,8}")

_BSUID = re.compile(r"[A-Z]{2}\.(?:ENT\.)?[A-Za-z0-9]{1,128}")
# Letters and digits, so that neither a mistyped number nor a word is taken for an id.
_OPAQUE = re.compile(r"(?=.*[A-Za-z])(?=.*[0-9])[A-Za-z0-9][A-Za-z0-9._:~=-]{0,127}")
#: What looks like the API server's own id of a customer, and is something else.
_OTHER_IDS = {
    "a session id: pass the customer's phone number or id instead": re.compile(
        r".+_[0-9]{5,20}_[0-9]{10,13}_\w+"
    ),
    "a conversation key: convsync's commands take one, a customer id it is not": re.compile(
        r"[0-9]{2}\.[0-9a-f]+(?:\.[0-9a-f]+)*"
    ),
    "a message id: pass the id of the customer who wrote it": re.compile(
        r"(?:wamid\.|evt_|true_|false_).*"
    ),
    "an example's session id: pass the customer's phone number or id instead": re.compile(
        r"abc-?123"
    ),
    "a number in words: pass digits, with the country code": re.compile(
        r"[0-9]{1,3}([-.])[0-9]{3}\1.*|[0-9]{7,15}[A-Za-z._:~=-]{1,5}[0-9]{0,5}"
    ),
}

# Head, the digit that is there or not, tail.
_SPELLINGS = (
    (re.compile(r"(\+55[1-9][0-9])(9?)([6-9][0-9]{7})"), "9"),  # Brazil: mobiles, never landlines
    (re.compile(r"(\+54)(9?)([1-9][0-9]{9})"), "9"),  # Argentina: mobiles as called from abroad
    (re.compile(r"(\+52)(1?)([1-9][0-9]{9})"), "1"),  # Mexico: mobiles until 2019
)

_FULLWIDTH = {"＋": "+", "−": "-", "（": "(", "）": ")", "．": ".", "＠": "@"}

_MAX_LENGTH = 160
_MAX_SEGMENT = 1024


def normalize(text: str) -> str:
    """The one spelling of a customer id that this package compares, hashes and stores.

    Args:
        text: A phone number as people write it (``+51 999-999-999``, ``0051…``, ``(+51) …``, digits
            of any script), as WhatsApp writes it (``51999999999``: international without plus),
            a chat id with or without a device suffix (``51999999999:12@s.whatsapp.net``), a BSUID
            (``PE.1A2b3C``), or an API server's own id: 1 to 128 letters and digits, at least one of
            each, and ``._:~=-``.

    Returns:
        ``+51999999999`` for every spelling of a phone number and of a direct chat; ``…@lid`` and
        ``…@g.us`` without device, a LID's digits under ``@c.us`` too; anything else as it is.

    Raises:
        InvalidPhoneNumberError: It is something else; channels, broadcasts and status included.
    """
    found = identity_of(text)
    if found is None:
        raise InvalidPhoneNumberError(EXPECTED + _mistaken(text))
    return found


EXPECTED = (
    "expected a phone number with its country code, such as +51999999999 (7 to 15 digits), "
    "a WhatsApp chat id ending in @c.us, @lid or @g.us, a BSUID such as PE.1A2b3C, or the API "
    "server's own id of the customer (letters and digits, no spaces)"
)


def _mistaken(text: object) -> str:
    """What was given instead of a customer id, where that can be told."""
    plain = text.strip() if isinstance(text, str) and len(text) <= _MAX_LENGTH else ""
    for what, pattern in _OTHER_IDS.items():
        if pattern.fullmatch(plain):
            return f"; this looks like {what}"
    if plain.endswith(("@newsletter", "@broadcast")):
        return "; channels, broadcasts and status have no customer"
    return ""


def identity_of(text: object) -> str | None:
    """What :func:`normalize` makes of it; None where that raises."""
    if not isinstance(text, str) or len(text) > _MAX_LENGTH:
        return None
    return _identity(text)


@lru_cache(maxsize=1024)  # a turn asks several times
def _identity(text: str) -> str | None:
    if _E164.fullmatch(text) and not _DIALLED_AT_HOME.fullmatch(text[1:]):
        return text
    plain = "".join(map(_plain, text))
    if "@" in plain:
        return _from_chat_id(plain.strip(" ").lower())
    if _TRUNK_ZERO.search(plain):
        return _without_trunk_zero(plain)
    if match := _DIALLED.fullmatch(_SEPARATORS.sub("", plain)):
        digits = match[1]
        return _as_from_abroad(digits) if _DIALLED_AT_HOME.fullmatch(digits) else f"+{digits}"
    plain = plain.strip(" ")
    if _BSUID.fullmatch(plain):
        return plain
    is_own = _OPAQUE.fullmatch(plain) and not any(
        other.fullmatch(plain) for other in _OTHER_IDS.values()
    )
    return plain if is_own else None


def chat_id(identity: str) -> str:
    """The chat id under which WAHA knows a customer: ``51999999999@c.us`` for a phone number.

    A BSUID or an API server's own id is none, and stays as it is: see :func:`is_chat`.

    Raises:
        InvalidPhoneNumberError: It is not a customer id.
    """
    identity = normalize(identity)
    return f"{identity[1:]}@c.us" if identity.startswith("+") else identity


def is_chat(identity: object) -> bool:
    """Whether WAHA can reach it: a phone number, a LID or a group, and no other id."""
    found = identity_of(identity)
    return found is not None and (found.startswith("+") or "@" in found)


def kind_of(identity: str) -> Kind:
    """What a customer id is.

    Raises:
        InvalidPhoneNumberError: It is not a customer id.
    """
    identity = normalize(identity)
    if identity.startswith("+"):
        return "phone"
    if identity.endswith("@lid"):
        return "lid"
    if identity.endswith("@g.us"):
        return "group"
    return "bsuid" if _BSUID.fullmatch(identity) else "opaque"


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


def canonical(identity: str) -> str:
    """The one of its :func:`variants` that stands for all of them: the longest; keys name it.

    What is not a customer id stays as it is.
    """
    return max(variants(identity), key=len) if identity_of(identity) else identity


def known_people(*names: object) -> list[str]:
    """The customer ids among what names one person, each once, in this order; groups left out.

    A number that has the digits of a LID among them is that LID, and no number.
    """
    found = [who for who in map(identity_of, names) if who and not is_group(who)]
    lids = {f"+{who.removesuffix('@lid')}" for who in found if who.endswith("@lid")}
    return list(dict.fromkeys(who for who in found if who not in lids))


def variants(identity: str) -> tuple[str, ...]:
    """Every spelling under which the same subscriber may be stored, the given one first.

    Brazil added a ninth digit, Argentina and Mexico have an extra digit for mobiles, and WhatsApp
    ids keep whichever form the account was registered with.

    Raises:
        InvalidPhoneNumberError: It is not a customer id.
    """
    identity = normalize(identity)
    for pattern, extra in _SPELLINGS:
        if match := pattern.fullmatch(identity):
            head, present, tail = match.groups()
            return (identity, f"{head}{'' if present else extra}{tail}")
    return (identity,)


def same_subscriber(a: object, b: object) -> bool:
    """Whether two texts name one subscriber, in any spelling; False when one names none.

    A LID or BSUID is never the same as a phone number: only WhatsApp knows which belong together.
    """
    first, second = identity_of(a), identity_of(b)
    return first is not None and second is not None and second in variants(first)


def formatted(identity: str, style: PhoneFormat) -> str:
    """A customer id as a server of that style stores it; only phone numbers have several.

    Args:
        identity: Any spelling.
        style: ``"e164"`` (``+51…``), ``"digits"`` (``51…``) or ``"jid"`` (``51…@c.us``).

    Raises:
        InvalidPhoneNumberError: It is not a customer id.
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
    """A customer id that its owner recognises and no other reader can dial: ``+51•••••••99``.

    Never raises; what is not a customer id becomes ``•••``.
    """
    found = identity_of(identity)
    if found is None:
        return "•••"
    if found.startswith("+"):
        return f"+{_masked_digits(found[1:])}"
    user, at, server = found.partition("@")
    return f"{_masked_digits(user)}{at}{server}"


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
        return f"{match[1]}@lid" if _NO_NUMBER.fullmatch(match[1]) else f"+{match[1]}"
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
    match = _DIALLED.fullmatch(_SEPARATORS.sub("", _TRUNK_ZERO.sub("0", text)))
    if match is None:  # phonenumbers overlooks anything that surrounds a number
        return None
    return _as_from_abroad(match[1])


def _as_from_abroad(digits: str) -> str | None:
    """A number without what is dialled inside its country only."""
    import phonenumbers  # only here: loading its tables takes longer than everything else

    try:
        number = phonenumbers.parse(f"+{digits}")
    except phonenumbers.NumberParseException:
        return None
    found = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return found if _E164.fullmatch(found) else None
