"""The OpenAPI description: complete, and true for whatever it allows to be sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import settings

from langchain_convsync.server.api import reference_api
from langchain_convsync.server.service import Service
from tests.clocked_store import PHONE, ClockedStore

API = "/api/v1/whatsapp"
REFUSALS = {
    f"GET {API}/lookup/tenant/{{phoneNumber}}": {"404"},
    f"GET {API}/lookup/conversation/{{phoneNumber}}": {"404"},
    f"PUT {API}/agent/conversations/{{sessionId}}/sync": {"400", "404", "413", "422"},
    f"POST {API}/agent/conversations/{{sessionId}}/messages": {"400", "404", "413", "422"},
    f"GET {API}/health": set(),
    f"POST {API}/webhook/waha": {"400", "401", "413"},
}

store = ClockedStore()
app = reference_api(Service(store=store, tenants={}, waha_secrets=None))
schema = schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.fixture(scope="module", autouse=True)
def closed_in_the_end() -> Iterator[None]:
    yield
    store.close()


bounded = settings(max_examples=30, derandomize=True, database=None)


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


def test_every_endpoint_documents_its_refusals() -> None:
    """Named where a client can act on them; everything else is in the same envelope."""
    documented = {
        f"{method.upper()} {path}": set(operation["responses"])
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    }

    assert documented == {name: {"200", "default", *codes} for name, codes in REFUSALS.items()}
