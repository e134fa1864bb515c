"""What costs a webhook nothing: unsigned bodies, bodies that never end, that break off."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from langchain_convsync import TurnRunner, create_app, telemetry
from langchain_convsync._bodies import LARGEST, BodyReader
from langchain_convsync._flow import run
from langchain_convsync.app import _webhook
from langchain_convsync.errors import ConfigurationError
from tests.forgeries import signed
from tests.integration_tests.test_app import by_hand, message
from tests.listening import Sender, listening
from tests.promises import CUSTOMER, recording
from tests.redis_topologies import until

SECRET, OTHERS = "the session's hmac.key", "another session's hmac.key"
BOUND: dict[str, Any] = {"ventas": SECRET, "soporte": ["an old one", OTHERS]}
#: In the form of a signature, and of nothing.
FORM = {"X_Webhook_Hmac": "0" * 128}


@pytest.fixture
def runner() -> Iterator[TurnRunner]:
    with recording() as runner:
        yield runner


def limited(monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
    reader = BodyReader
    monkeypatch.setattr(_webhook, "BodyReader", lambda **given: reader(**{**given, **limits}))


def refused(status: int) -> float:
    return telemetry.counted("deliveries", status=str(status))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X_Webhook_Hmac": "0" * 127},
        {"X_Webhook_Hmac": "Z" * 128},
        {"X_Webhook_Hmac": ""},
        {**FORM, "x-webhook-hmac": "1" * 128},
        {**FORM, "X-Webhook-Hmac-Algorithm": "sha256"},
    ],
    ids=["none", "short", "no hex", "empty", "two", "another algorithm"],
)
def test_without_a_signature_no_body_is_waited_for(
    runner: TurnRunner, headers: dict[str, str]
) -> None:
    """Its sender, who never sends it, is refused at once."""
    with listening(create_app(runner, waha_secrets=SECRET)) as port:
        sender = Sender(port)
        sender.head("/webhook", Content_Length=1000, **headers)
        told = sender.answer()

    assert told.startswith("HTTP/1.1 401 ")
    assert "connection: close" in told.lower()


def test_a_body_that_says_it_is_too_large_is_not_read(runner: TurnRunner) -> None:
    """A signature in form is no reason to."""
    with listening(create_app(runner, waha_secrets=SECRET)) as port:
        sender = Sender(port)
        sender.head("/webhook", Content_Length=LARGEST + 1, **FORM)
        told = sender.answer()

    assert told.startswith("HTTP/1.1 413 ")


@pytest.mark.parametrize("parts", [0, 3], ids=["nothing", "a trickle"])
def test_a_body_that_never_ends_is_given_up(
    runner: TurnRunner, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """The time is that of the whole, not that since the last byte."""
    limited(monkeypatch, longest=0.2)
    with listening(create_app(runner, waha_secrets=SECRET)) as port:
        sender = Sender(port)
        sender.head("/webhook", Content_Length=1000, **FORM)
        for _ in range(parts):
            sender.send(b" ")
        told = sender.answer()

    assert told.startswith("HTTP/1.1 408 ")


def test_so_many_bodies_are_read_at_once(
    runner: TurnRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further ones come again, and are read as soon as others are not."""
    limited(monkeypatch, at_once=3)
    raw = json.dumps(message("3EB0A1", "Hola")).encode()
    true = {"X_Webhook_Hmac": signed(raw, SECRET), "Connection": "close"}
    app = create_app(runner, waha_secrets=SECRET)
    before, aborted = refused(503), telemetry.counted("deliveries", status="aborted")

    with listening(app) as port:

        def delivered() -> str:
            sender = Sender(port)
            sender.head("/webhook", Content_Length=len(raw), **true)
            sender.send(raw)
            return sender.answer()

        half = [Sender(port) for _ in range(4)]
        for sender in half:
            sender.head("/webhook", Content_Length=1000, **FORM)
            sender.send(b"{")
        until(lambda: refused(503) == before + 1)
        told = delivered()
        for sender in half:
            sender.abort()
        until(lambda: telemetry.counted("deliveries", status="aborted") == aborted + 3)
        later = delivered()

    assert told.startswith("HTTP/1.1 503 ")
    assert "retry-after: 1" in told.lower()
    assert later.startswith("HTTP/1.1 200 ")


def test_senders_who_hang_up_leave_nothing_behind(
    runner: TurnRunner, caplog: pytest.LogCaptureFixture
) -> None:
    """No traceback, no line in the log: any client can do it, as often as it likes."""
    caplog.set_level(logging.INFO)
    before = telemetry.counted("deliveries", status="aborted")
    with listening(create_app(runner, waha_secrets=SECRET)) as port:
        for _ in range(20):
            sender = Sender(port)
            sender.head("/webhook", Content_Length=1000, **FORM)
            sender.send(b'{"event":')
            sender.abort()
        until(lambda: telemetry.counted("deliveries", status="aborted") == before + 20)

    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("spelled", ["/webhook", "/webhook/"])
@pytest.mark.parametrize("path", ["/webhook", "/webhook/"])
def test_a_slash_at_the_end_changes_nothing(runner: TurnRunner, path: str, spelled: str) -> None:
    """A redirect would make some senders deliver without the body."""
    raw = json.dumps(message("3EB0A1", "Hola")).encode()
    headers = {"X-Webhook-Hmac": signed(raw, SECRET)}
    with TestClient(create_app(runner, waha_secrets=SECRET, path=path)) as web:
        answer = web.post(spelled, content=raw, headers=headers, follow_redirects=False)

    assert (answer.status_code, answer.json()) == (200, {"status": "queued"})


def post(web: TestClient, body: object, secret: str = SECRET) -> tuple[int, str]:
    raw = json.dumps(body).encode()
    answer = web.post("/webhook", content=raw, headers={"X-Webhook-Hmac": signed(raw, secret)})
    return answer.status_code, answer.json().get("status", "")


def test_a_colleagues_words_that_come_again_silence_no_agent(runner: TurnRunner) -> None:
    """The conversation was given back since: a repeated delivery changes nothing."""
    key = run(runner.store.keys()).conversation("default", CUSTOMER)
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        first = post(web, by_hand("3EB0B1", "Le atiendo yo"))
        paused = run(runner.store.view(key)).paused_until
        runner.resume(CUSTOMER)
        again = post(web, by_hand("3EB0B1", "Le atiendo yo"))

    assert (first, again[0]) == ((200, "taken over"), 200)
    assert paused is not None
    assert run(runner.store.view(key)).paused_until is None


def test_a_colleagues_words_that_the_store_may_have_forgotten_pause_nothing(
    runner: TurnRunner,
) -> None:
    """A signature does not age; the record of what was done does."""
    then = datetime.now(UTC) - timedelta(seconds=runner.store.retention + 60)
    by_colleague = by_hand("3EB0B1", "Hola")
    by_colleague["payload"] |= {"timestamp": int(then.timestamp())}
    before = telemetry.counted("deliveries", status="too old")
    key = run(runner.store.keys()).conversation("default", CUSTOMER)
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        told = post(web, by_colleague)

    assert told == (200, "too old")
    assert telemetry.counted("deliveries", status="too old") == before + 1
    assert run(runner.store.backlog()).queued == 0
    assert run(runner.store.view(key)).paused_until is None


def test_a_secret_may_be_that_of_one_session(runner: TurnRunner) -> None:
    """Who knows it cannot write as another session's customers, nor as the API server."""
    ventas = {**message("3EB0A1", "Hola"), "session": "ventas"}
    soporte = {**message("3EB0A2", "Hola"), "session": "soporte"}
    nameless = {key: value for key, value in ventas.items() if key != "session"}
    forwarded = {"event_id": "evt_1", "phone_number": CUSTOMER, "message": "Hola"}
    pretended = {**forwarded, "waha_session": "ventas", "session": "ventas"}
    odd: list[object] = [nameless, forwarded, pretended, []]
    with TestClient(create_app(runner, waha_secrets=BOUND)) as web:
        own = [post(web, ventas)[0], post(web, soporte, OTHERS)[0]]
        crossed = [post(web, soporte)[0], post(web, ventas, OTHERS)[0]]
        others = [post(web, each)[0] for each in odd]

    assert own == [200, 200]
    assert crossed == [401, 401]
    assert others == [401] * 4


def test_one_secret_may_be_that_of_every_session(runner: TurnRunner) -> None:
    """The API server's: it forwards what all of them were told."""
    forwarded = {"event_id": "evt_1", "phone_number": CUSTOMER, "message": "Hola"}
    soporte = {**message("3EB0A2", "Hola"), "session": "soporte"}
    with TestClient(create_app(runner, waha_secrets=BOUND | {"*": "the API server's"})) as web:
        told = [post(web, each, "the API server's")[0] for each in (soporte, forwarded)]

    assert told == [200, 200]


@pytest.mark.parametrize("given", [{}, {"ventas": []}, {"ventas": ""}, {"": SECRET}, {None: "x"}])
def test_secrets_of_sessions_are_checked_at_the_start(runner: TurnRunner, given: Any) -> None:
    """An empty mapping is no request for unsigned deliveries."""
    with pytest.raises(ConfigurationError, match="waha_secrets"):
        create_app(runner, waha_secrets=given)
