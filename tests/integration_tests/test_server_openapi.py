"""The OpenAPI description: complete, and true for whatever it allows to be sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import settings
from schemathesis.specs.openapi.checks import negative_data_rejection

from langchain_convsync.server import ApiKey, RateLimit
from langchain_convsync.server.api import create_reference_api, guard_of, reference_api
from langchain_convsync.server.service import Service
from tests.clocked_store import ABC, PHONE, ClockedStore

API = "/api/v1/whatsapp"
REFUSALS = {
    f"GET {API}/lookup/tenant/{{phoneNumber}}": {"404"},
    f"GET {API}/lookup/conversation/{{phoneNumber}}": {"404"},
    f"PUT {API}/agent/conversations/{{sessionId}}/sync": {"400", "404", "413", "415", "422"},
    f"POST {API}/agent/conversations/{{sessionId}}/messages": {"400", "404", "413", "415", "422"},
    f"GET {API}/health": set(),
    f"POST {API}/webhook/waha": {"400", "401", "413"},
}

store = ClockedStore()
app = reference_api(Service(store=store, tenants={}, waha_secrets=None))
schema = schemathesis.openapi.from_asgi("/openapi.json", app)

KEY = "openapi-key-0123456789"
locked_store = ClockedStore()
locked = reference_api(
    Service(
        store=locked_store,
        tenants={},
        waha_secrets=None,
        guard=guard_of([ApiKey.of(KEY, name="agent", tenants=[ABC.subdomain])], None, None),
    )
)
locked_schema = schemathesis.openapi.from_asgi("/openapi.json", locked)


@pytest.fixture(scope="session", autouse=True)  # workers may come back to this module
def closed_in_the_end() -> Iterator[None]:
    yield
    store.close()
    locked_store.close()


bounded = settings(max_examples=15, derandomize=True, database=None)


@schema.parametrize()
@bounded
def test_every_answer_is_as_described(case: schemathesis.Case[Any]) -> None:
    """Valid and invalid requests alike: status, headers and body are the documented ones."""
    case.call_and_validate()


@schema.parametrize()
@bounded
def test_every_answer_about_a_known_conversation_is_as_described(
    case: schemathesis.Case[Any],
) -> None:
    """The same for requests that find what they ask for."""
    known = {"phoneNumber": PHONE, "sessionId": store.begin()}
    case.path_parameters = {name: known[name] for name in case.path_parameters or {}}

    case.call_and_validate()


@pytest.mark.slow  # `test_server_openapi_tenants.py` goes through the same with one key of a tenant
@locked_schema.parametrize()
@bounded
def test_every_answer_behind_keys_is_as_described(case: schemathesis.Case[Any]) -> None:
    """The same with a key; without one, or with a wrong one, the agents' endpoints refuse."""
    locked_store.clock.advance(hours=24)
    locked_store.forget_keys()  # a caller's keys are forgotten: the next case repeats them
    known = {"phoneNumber": PHONE, "sessionId": locked_store.begin()}
    case.path_parameters = {name: known[name] for name in case.path_parameters or {}}

    # The key is put into requests that were made invalid by leaving it out: they are valid again.
    case.call_and_validate(
        headers={"Authorization": f"Bearer {KEY}"}, excluded_checks=[negative_data_rejection]
    )


def test_keys_and_limits_are_documented_where_they_count() -> None:
    """For the agents' endpoints of a server that has them, and nowhere else."""
    limited = create_reference_api(
        api_keys=[ApiKey.of(KEY, name="agent", tenants="*")], rate_limit=RateLimit(per_minute=1)
    )
    documented = {
        path: ("security" in operation, {"401", "429"} & set(operation["responses"]))
        for path, methods in limited.openapi()["paths"].items()
        for operation in methods.values()
    }

    assert documented == {
        f"{API}/lookup/tenant/{{phoneNumber}}": (True, {"401", "429"}),
        f"{API}/lookup/conversation/{{phoneNumber}}": (True, {"401", "429"}),
        f"{API}/agent/conversations/{{sessionId}}/sync": (True, {"401", "429"}),
        f"{API}/agent/conversations/{{sessionId}}/messages": (True, {"401", "429"}),
        f"{API}/health": (False, set()),
        f"{API}/webhook/waha": (False, {"401"}),
    }


def test_every_endpoint_documents_its_refusals() -> None:
    """Named where a client can act on them; everything else is in the same envelope."""
    documented = {
        f"{method.upper()} {path}": set(operation["responses"])
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    }

    assert documented == {name: {"200", "default", *codes} for name, codes in REFUSALS.items()}
