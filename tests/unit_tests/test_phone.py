"""One customer has one identity, in whatever spelling the number arrives."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

import httpx
import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_convsync import phone
from langchain_convsync.errors import ConfigurationError, ConvSyncError, InvalidPhoneNumberError

CANONICAL = re.compile(
    r"\+[1-9][0-9]{6,14}|[0-9]{1,20}@lid|[0-9]{1,20}(-[0-9]{1,20})?@g\.us"
    r"|[A-Za-z0-9][A-Za-z0-9._:~=-]{0,160}"
)

SPELLINGS = [
    "+51999999999",
    "51999999999",
    "0051999999999",
    "00 51 999 999 999",
    "+51 999 999 999",
    " +51 999 999 999 ",
    "+51-999-999-999",
    "+51.999.999.999",
    "(+51) 999-999-999",
    "+51 (999) 999–999",
    "+51\u00a0999\u202f999\u2009999",
    "\u202a+51 999 999 999\u202c",
    "+５１９９９９９９９９９",
    "＋５１（９９９）９９９−９９９",
    "+٥١٩٩٩٩٩٩٩٩٩",
    "۰۰۵۱۹۹۹۹۹۹۹۹۹",
    "51999999999@c.us",
    "51999999999@s.whatsapp.net",
    "51999999999:12@s.whatsapp.net",
    "51999999999.0:12@s.whatsapp.net",
    "51999999999:3@c.us",
    "+51999999999@c.us",
    "51999999999@C.US",
    "51999999999@hosted",
    "51999999999:99@hosted",
]

REJECTED = [
    "",
    " ",
    ".",
    "..",
    "...",
    "+",
    "@",
    "%2e%2e",
    "..%2f",
    "a/b",
    "/",
    "?x#y",
    "51999999999/../1",
    "51999999999?x=1",
    "51999999999#y",
    "%2B51999999999",
    "+51999999999\n",
    "+51999999999\r\nX-Injected: 1",
    "+51\t999999999",
    "+51999999999\0",
    "\0",
    "\ud800",
    "+5199999999\udfff",
    "123456",
    "+1234567890123456",
    "+0519999999",
    "0999999999",
    "++51999999999",
    "51+999999999",
    "+51 999 999 999 ext 5",
    "+44 (0)20 7946 0958 a/b",
    "+999 (0)12 345 678",
    "1-800-FLOWERS",
    "null",
    "status@broadcast",
    "120363000000000045@newsletter",
    "51999999999@broadcast",
    "51999999999@example.com",
    "51999999999@c.us@c.us",
    "0@c.us",
    "0@s.whatsapp.net",
    "@c.us",
    "@lid",
    "abc@lid",
    "1/2@g.us",
    "51999999999@c.us/..",
    pytest.param("9" * 1_000_000, id="1 MB"),
    "nobody",
    "999999999999999999",
    "two words 2",
    "EG.",
    "eg1/..",
    "cliente_ñ1",
    "51999999999ext5",
    "bot123_51999999999_1234567890_xyz",
    "07.0123456789ab",
    "07.0123456789ab.0123456789abcdef0123456789abcdef",
    "wamid.HBgLNTE5OTk5OTk5OTk5",
    "false_3EB0C767D097B7C5",
    "a1" * 65,
    "²³²³²³²³²³",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_every_spelling_of_a_number_is_one_identity(text: str) -> None:
    """A customer is found again, however a server, WAHA or a person writes the number."""
    assert phone.normalize(text) == "+51999999999"


@pytest.mark.parametrize("text", ["+15550001111", "+11111111111", "558580000002", "+1234567"])
def test_numbers_need_not_be_assigned(text: str) -> None:
    """Test numbers and new ranges work: the structure of E.164 decides."""
    assert phone.normalize(text) == f"+{text.removeprefix('+')}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("+44 (0)20 7946 0958", "+442079460958"),
        ("0049 (0) 89 1234567", "+49891234567"),
        ("+39 (0)6 1234 5678", "+390612345678"),
    ],
)
def test_a_trunk_zero_is_dropped_where_the_country_drops_it(text: str, expected: str) -> None:
    """The zero in parentheses is for callers inside the country; Italy keeps it."""
    assert phone.normalize(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("38000000000002@lid", "38000000000002@lid"),
        ("38000000000002:12@lid", "38000000000002@lid"),
        ("120363400000000006@g.us", "120363400000000006@g.us"),
        ("51999999999-1612345678@g.us", "51999999999-1612345678@g.us"),
        ("38000000000002@hosted.lid", "38000000000002@lid"),
        ("38000000000002:99@hosted.lid", "38000000000002@lid"),
    ],
)
def test_lids_and_groups_stay_chat_ids(text: str, expected: str) -> None:
    """What is no phone number is never turned into one."""
    assert phone.normalize(text) == expected


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("EG.13491208655302741918", "bsuid"),
        ("PE.1A2b3C", "bsuid"),
        ("US.ENT.11815799212886844830", "bsuid"),
        (f"BR.{'9z' * 64}", "bsuid"),
        ("cust_42", "opaque"),
        ("64f1c0ffee64f1c0ffee64f1", "opaque"),
        ("550e8400-e29b-41d4-a716-446655440000", "opaque"),
        ("web:visitor-8812", "opaque"),
        ("+51999999999", "phone"),
        ("38000000000002@lid", "lid"),
        ("120363400000000006@g.us", "group"),
    ],
)
def test_a_customer_without_a_number_has_an_id_too(text: str, kind: str) -> None:
    """Usernames leave a BSUID or a LID, and servers have ids of their own: all stay as they are."""
    assert phone.normalize(text) == text
    assert phone.kind_of(text) == kind
    assert phone.variants(text) == (text,)
    assert {phone.formatted(text, style) for style in ("digits", "jid")} >= (
        set() if kind == "phone" else {text}
    )
    assert phone.is_chat(text) == (kind in {"phone", "lid", "group"})


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("bot123_51999999999_1234567890_xyz", "a session id: pass the customer's"),
        ("07.0123456789ab.0123456789abcdef0123456789abcdef", "a conversation key"),
        ("wamid.HBgLNTE5OTk5OTk5OTk5", "a message id"),
        ("1-800-FLOWERS", "a number in words"),
        ("120363000000000045@newsletter", "have no customer"),
        ("51999999999@example.com", "ending in @c.us, @lid or @g.us"),
    ],
)
def test_what_was_given_instead_is_told(text: str, advice: str) -> None:
    """It is pasted from a log or an answer, most of the time."""
    with pytest.raises(InvalidPhoneNumberError, match=re.escape(advice)):
        phone.normalize(text)


def test_lids_are_told_from_numbers_by_what_no_mobile_number_is() -> None:
    """An engine that writes a LID under @c.us makes no other customer of it."""
    taken: set[str] = set()
    for code, regions in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.items():
        for region in regions:
            found = phonenumbers.PhoneMetadata.metadata_for_region_or_calling_code(code, region)
            for length in found.mobile.possible_length if found and found.mobile else ():
                number = f"{code}{'7' * length}"
                if 13 <= len(number) <= 15 and not phone.phone_of(f"{number}@c.us"):
                    taken.add(number)
    assert taken == set()
    assert phone.phone_of("5215512345678@c.us") == "+5215512345678"


@pytest.mark.parametrize(
    ("names", "people"),
    [
        (["+51999999999", "38000000000002@lid"], ["+51999999999", "38000000000002@lid"]),
        (["+5511987654321", "5511987654321:3@lid"], ["5511987654321@lid"]),
        (["51999999999@c.us", None, "+51999999999", "1203634@g.us"], ["+51999999999"]),
        (["EG.1a", "cust_42", "nobody"], ["EG.1a", "cust_42"]),
    ],
)
def test_what_names_one_person_is_told_once(names: list[str | None], people: list[str]) -> None:
    """A number with the digits of the person's LID is an engine's mistake, and no number."""
    assert phone.known_people(*names) == people


@pytest.mark.parametrize("text", REJECTED)
def test_anything_else_is_refused_without_repeating_it(text: str) -> None:
    """The error says what is expected; the input, which may be a number, stays out of logs."""
    with pytest.raises(InvalidPhoneNumberError, match="expected a phone number") as caught:
        phone.normalize(text)
    if len(text) > 5:
        assert text not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("value", [None, True, 51999999999, 5.1e10, b"51999999999", ["+51"]])
def test_only_text_is_an_identity(value: object) -> None:
    """A number that lost its plus in a spreadsheet is not guessed at."""
    with pytest.raises(InvalidPhoneNumberError):
        phone.normalize(value)  # type: ignore[arg-type]  # what a careless caller passes


@given(st.text() | st.from_regex(r"[+0-9().@:cuslidg -]{1,30}", fullmatch=True))
def test_normalizing_ends_in_a_canonical_identity_or_an_error(text: str) -> None:
    """Whatever comes out is safe to compare, hash and store, and stays as it is."""
    try:
        identity = phone.normalize(text)
    except InvalidPhoneNumberError:
        assert phone.identity_of(text) is None
    else:
        assert CANONICAL.fullmatch(identity)
        assert phone.normalize(identity) == identity


@pytest.mark.parametrize(
    ("identity", "chat_id"),
    [
        ("+51 999 999 999", "51999999999@c.us"),
        ("51999999999:12@s.whatsapp.net", "51999999999@c.us"),
        ("38000000000002@lid", "38000000000002@lid"),
        ("120363400000000006@g.us", "120363400000000006@g.us"),
    ],
)
def test_the_chat_id_is_waha_s_spelling(identity: str, chat_id: str) -> None:
    """A reply goes to the id that WAHA uses for the chat."""
    assert phone.chat_id(identity) == chat_id


@pytest.mark.parametrize(
    ("identity", "number", "lid"),
    [
        ("51999999999@c.us", "+51999999999", None),
        ("+51999999999", "+51999999999", None),
        ("38000000000002:1@lid", None, "38000000000002@lid"),
        ("120363400000000006@g.us", None, None),
        ("status@broadcast", None, None),
        (None, None, None),
        (51999999999, None, None),
    ],
)
def test_an_identity_tells_its_phone_or_its_lid(
    identity: object, number: str | None, lid: str | None
) -> None:
    """Asking is safe for any value; a LID's digits are never taken for a number."""
    assert (phone.phone_of(identity), phone.lid_of(identity)) == (number, lid)


SAME = [
    ("+51999999999", "51999999999@c.us"),
    ("51 999 999 999", "51999999999:12@s.whatsapp.net"),
    ("+5585980000002", "558580000002@c.us"),
    ("5511987654321", "+551187654321"),
    ("+5491123456789", "+541123456789"),
    ("+5215512345678", "525512345678@c.us"),
    ("38000000000002:3@lid", "38000000000002@lid"),
    ("38000000000002@lid", "38000000000002@c.us"),
    ("4639135154355:7@s.whatsapp.net", "4639135154355@lid"),
    ("+54 11 15 2345-6789", "5491123456789@c.us"),
    ("+541123456789", "0054 11 15-2345-6789"),
    (" EG.13491208655302741918 ", "EG.13491208655302741918"),
]
DIFFERENT = [
    ("+51999999999", "+51999999998"),
    ("+551133334444", "+5511933334444"),  # a landline never had a ninth digit
    ("+5511987654321", "+5521987654321"),
    ("+5491123456789", "+521123456789"),
    ("38000000000002@lid", "+38000000000002"),
    ("5511987654321@lid", "5511987654321@c.us"),  # as long as numbers in Brazil
    ("EG.13491208655302741918", "EG.13491208655302741919"),
    ("EG.1a", "EG.1A"),
    ("EG.51999999999", "+51999999999"),
    ("cust_42", "cust_43"),
    ("120363400000000006@g.us", "120363400000000006@lid"),
    ("", ""),
    ("..", ".."),
    ("+51999999999", None),
    (None, None),
    (51999999999, 51999999999),
    ("\ud800", "\ud800"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_one_subscriber_in_two_spellings_is_the_same(a: str, b: str) -> None:
    """Brazil's ninth digit, Argentina's 9 and Mexico's 1 make nobody a stranger."""
    assert phone.same_subscriber(a, b)
    assert phone.same_subscriber(b, a)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_two_subscribers_are_never_the_same(a: object, b: object) -> None:
    """Above all, a LID is no phone number, and what is no identity is nobody."""
    assert not phone.same_subscriber(a, b)
    assert not phone.same_subscriber(b, a)


@pytest.mark.parametrize(("a", "b"), SAME)
def test_one_subscriber_has_one_canonical_spelling(a: str, b: str) -> None:
    """Keys are made of it: whichever variant a message came under, its order is one."""
    assert phone.canonical(a) == phone.canonical(b)


numbers = st.from_regex(r"\+(55[1-9][0-9]9?|549?|521?|1|51)[1-9][0-9]{7,9}", fullmatch=True).filter(
    lambda text: len(text) <= 16
)


@given(numbers)
def test_variants_are_the_spellings_of_one_subscriber(number: str) -> None:
    """The exact number comes first, and every variant has the same variants."""
    found = phone.variants(number)
    assert found[0] == number
    assert len(found) == len(set(found))
    assert all(phone.same_subscriber(number, variant) for variant in found)
    assert {*phone.variants(found[-1])} == {*found}


@pytest.mark.parametrize(
    ("style", "expected"),
    [("e164", "+51999999999"), ("digits", "51999999999"), ("jid", "51999999999@c.us")],
)
def test_a_number_is_formatted_as_its_server_stores_it(
    style: phone.PhoneFormat, expected: str
) -> None:
    """Servers match exact strings; a LID has one spelling for all of them."""
    assert phone.formatted("51999999999@s.whatsapp.net", style) == expected
    assert phone.formatted("38000000000002:1@lid", style) == "38000000000002@lid"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("+51999999999", "%2B51999999999"),
        ("51999999999@c.us", "51999999999%40c.us"),
        ("bot123_51999999999_1234567890_xyz", "bot123_51999999999_1234567890_xyz"),
        ("a/b", "a%2Fb"),
        ("../admin", "..%2Fadmin"),
        ("%2e%2e", "%252e%252e"),
        ("?x#y", "%3Fx%23y"),
        ("a b;c\\d", "a%20b%3Bc%5Cd"),
        ("sesión", "sesi%C3%B3n"),
    ],
)
def test_a_path_segment_is_percent_encoded(text: str, expected: str) -> None:
    """Phone numbers and session ids stand in URLs exactly as they are stored."""
    assert phone.path_segment(text) == expected


@pytest.mark.parametrize(
    "value", ["", ".", "..", "a\0b", "a\nb", "\x7f", "\x85", "\ud800", "x" * 1025, None, 1, True]
)
def test_what_cannot_be_one_segment_is_refused(value: object) -> None:
    """`quote("..")` stays `..`, and URL libraries climb a level for it."""
    with pytest.raises(ConfigurationError) as caught:
        phone.path_segment(value)
    assert isinstance(caught.value, ConvSyncError | ValueError)


@given(st.text(min_size=1, max_size=40) | st.from_regex(r"[./%2eE\\;?#a-]{1,12}", fullmatch=True))
def test_a_path_segment_never_climbs_or_injects(text: str) -> None:
    """Between two segments it is always the one in the middle, for every URL library."""
    try:
        segment = phone.path_segment(text)
    except ConfigurationError:
        return
    url = f"https://api.example.com/lookup/{segment}/end?botId=1"
    assert httpx.URL(url).raw_path.decode() == f"/lookup/{segment}/end?botId=1"
    assert urlsplit(url).path.split("/") == ["", "lookup", segment, "end"]
    assert unquote(segment) == text


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ("+51999999999", "+51•••••••99"),
        ("51999999999@c.us", "+51•••••••99"),
        ("+1234567", "+12•••67"),
        ("38000000000002@lid", "38••••••••••02@lid"),
        ("9999@lid", "••••@lid"),
        ("EG.13491208655302741918", "EG•••••••••••••••••••18"),
        ("cust_42", "cu•••42"),
        ("51999999999-1612345678@g.us", "51••••••••••••••••••78@g.us"),
        ("", "•••"),
        ("no number", "•••"),
        (None, "•••"),
        (51999999999, "•••"),
        ("\ud800", "•••"),
    ],
)
def test_a_masked_identity_is_recognised_but_not_exposed(identity: object, expected: str) -> None:
    """Reports show enough for whoever knows the number, and nothing to anybody else."""
    assert phone.masked(identity) == expected


@given(st.from_regex(r"\+[1-9][0-9]{6,14}", fullmatch=True))
def test_a_mask_keeps_the_length_and_four_digits(number: str) -> None:
    """Nobody can dial it."""
    mask = phone.masked(number)
    assert len(mask) == len(number)
    assert sum(character.isdigit() for character in mask) == 4
