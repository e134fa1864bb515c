"""The whole API behind keys, with every request that its description allows or forbids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from langchain_convsync.server import ApiKey, JwtRules
from langchain_convsync.server.api import guard_of, reference_api
from langchain_convsync.server.service import Service
from tests.clocked_store import ABC, PHONE, XYZ, ClockedStore
from tests.tokens import SECRET, token

KEY = "tenants-key-0123456789"
#: Only the other tenant has this customer.
ELSEWHERE = "+51988888888"
#: What everything of the other tenant holds.
MARK = "only-of-xyz"

store = ClockedStore()
keys = [ApiKey.of(KEY, name="abc", tenants=[ABC.subdomain])]
app = reference_api(
    Service(
        store=store,
        tenants={},
        waha_secrets="the session's hmac.key",
        guard=guard_of(keys, JwtRules(key=SECRET), None),
    )
)
schema = schemathesis.openapi.from_asgi("/openapi.json", app)
own = store.begin()


def begun_elsewhere(phone: str) -> str:
    """The session of a conversation that only the other tenant may see, for the next 24 hours."""
    session_id = store.begin(phone, XYZ, context={"mark": MARK}, intent=MARK)
    store.say(session_id, MARK)
    return session_id


bounded = settings(max_examples=10, derandomize=True, database=None)
#: Without the cases that `test_server_openapi.py` goes through anyway.
drawn = settings(bounded, phases=[Phase.generate])
CONFORMS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="session", autouse=True)  # workers may come back to this module
def closed_in_the_end() -> Iterator[None]:
    yield
    store.close()


def of_the_other_tenant() -> list[Any]:
    """Its conversations, past HTTP."""
    return [store.seen(phone, XYZ.bot_id) for phone in (PHONE, ELSEWHERE)]


@pytest.mark.parametrize(
    ("bearer", "phone"),
    [(KEY, "drawn"), pytest.param(token(), PHONE, marks=pytest.mark.slow), (KEY, ELSEWHERE)],
    ids=["whatever is drawn", "a shared customer, by JWT", "another's customer"],
)
@schema.parametrize()
@bounded
def test_no_request_reaches_another_tenant(
    case: schemathesis.Case[Any], phone: str, bearer: str
) -> None:
    """With a valid key: as described, no server error, and nothing of the other tenant's."""
    store.clock.advance(hours=24)
    store.forget_keys()  # the next case repeats them
    store.begin()
    foreign = {customer: begun_elsewhere(customer) for customer in (ELSEWHERE, PHONE)}
    if phone != "drawn":
        known = {"phoneNumber": phone, "sessionId": foreign[phone]}
        case.path_parameters = {name: known[name] for name in case.path_parameters or {}}
    before = of_the_other_tenant()

    # The key is put into requests that were made invalid by leaving it out: they are valid again.
    response = case.call_and_validate(
        headers={"Authorization": f"Bearer {bearer}"}, excluded_checks=[negative_data_rejection]
    )

    assert MARK not in response.text
    assert XYZ.subdomain not in response.text
    assert of_the_other_tenant() == before


@pytest.mark.parametrize(
    ("header", "session"),
    [
        (None, None),
        (None, own),
        ("", own),
        (f"Bearer {KEY}0", own),
        (f"Basic {KEY}", None),
        (f"Bearer {token('another secret of 32 bytes!!!!!!')}", own),
    ],
    ids=["none", "none, known", "empty", "a wrong key", "another scheme", "a forged JWT"],
)
@schema.include(path_regex="/(lookup|agent)/").parametrize()
@drawn
def test_nothing_is_told_without_a_key(
    case: schemathesis.Case[Any], session: str | None, header: str | None
) -> None:
    """Refused as described, before anything of the request is read."""
    if session is not None:
        known = {"phoneNumber": PHONE, "sessionId": session}
        case.path_parameters = {name: known[name] for name in case.path_parameters or {}}
    case.headers.pop("Authorization", None)
    before = store.seen(PHONE, ABC.bot_id)

    response = case.call(headers={} if header is None else {"Authorization": header})

    case.validate_response(response, checks=CONFORMS)
    assert response.status_code in {401, 403}
    assert store.seen(PHONE, ABC.bot_id) == before
