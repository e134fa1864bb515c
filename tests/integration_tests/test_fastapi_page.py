"""The webhook of the page for FastAPI, where things go wrong."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.pages import DOCS, blocks

STORE = 'SQLiteEventStore(":memory:")'


@contextmanager
def served(store: str, **settings: float) -> Iterator[dict[str, Any]]:
    """The application as it stands on the page, on another store."""
    [block] = blocks(DOCS / "build" / "fastapi.md")
    application = block.code.partition("with TestClient")[0]
    assert STORE in application
    given = ", ".join([store, *(f"{name}={value}" for name, value in settings.items())])
    pasted: dict[str, Any] = {"__name__": "pasted"}
    exec(compile(application.replace(STORE, given), block.page, "exec"), pasted)
    try:
        with TestClient(pasted["app"]) as pasted["waha_side"]:
            yield pasted
    finally:
        pasted["server"].stop()


def post(pasted: dict[str, Any], text: str) -> int:
    """What WAHA is answered when it delivers this text."""
    payload = {**pasted["payload"], "body": text, "id": f"false_{pasted['chat']}_{text}"}
    status: int = pasted["post"](pasted["waha_side"], {**pasted["message"], "payload": payload})
    return status


def test_a_message_is_accepted_as_soon_as_the_store_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WAHA is told to deliver it again, and then its customer gets the reply."""
    monkeypatch.chdir(tmp_path)
    with served('SQLiteEventStore("data/events.db")') as pasted:
        assert post(pasted, "Hola") == 503
        Path("data").mkdir()
        assert post(pasted, "Hola") == 200
        assert pasted["sent"].get(timeout=20) == (pasted["chat"], "Dijiste: Hola")


def test_a_message_that_finds_the_queue_full_is_to_come_again() -> None:
    """Nothing of it was recorded."""
    with served(STORE, max_queued=1, debounce=60.0, max_debounce=60.0) as pasted:
        assert post(pasted, "Hola") == 200
        assert post(pasted, "¿Hola?") == 503
        assert pasted["sent"].empty()


@pytest.mark.parametrize("raw", [b"", b"{", b"[NaN]", b"\xff"])
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    """Signed or not: never a server error."""
    with served(STORE) as pasted:
        waha_side: TestClient = pasted["waha_side"]
        assert waha_side.post("/webhook", content=raw).status_code == 401
        headers = {"X-Webhook-Hmac": signature(pasted["SECRETS"][0], raw)}
        assert waha_side.post("/webhook", content=raw, headers=headers).status_code == 400


def signature(secret: str, raw: bytes) -> str:
    """As WAHA signs."""
    return hmac.digest(secret.encode(), raw, "sha512").hex()
