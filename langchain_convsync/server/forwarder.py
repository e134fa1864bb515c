"""Sends the events that wait to an agent's webhook, signed as WAHA signs its own."""

from __future__ import annotations

import hmac
import logging
import threading
from dataclasses import dataclass, field

import httpx
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError

from langchain_convsync import telemetry
from langchain_convsync._checked import PositiveSeconds, checked
from langchain_convsync._forks import Unpicklable
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server.database import DatabaseAwayError
from langchain_convsync.server.forwards import Forward, ForwardQueue
from langchain_convsync.settings import (
    PLAIN_HTTP,
    may_be_plain,
    secret_bytes,
    url_parts,
)

SLOWEST = 60.0
#: No repetition makes a webhook accept these.
_HOPELESS = frozenset({400, 413, 422})

logger = logging.getLogger(__name__)


@checked
@dataclass(frozen=True, kw_only=True)
class Forwarding(Unpicklable):
    """The agent's webhook.

    Args:
        url: Where it is, e.g. that of ``create_app``; https, except on loopback, or to the hosts
            that ``CONVSYNC_ALLOW_HTTP`` names.
        secret: Signs what is sent: ``X-Webhook-Hmac`` is the HMAC-SHA512 of the raw body.
        timeout: Seconds that it may take to acknowledge an event.

    Raises:
        ConfigurationError: The URL is invalid, not encrypted or carries credentials, or the secret
            is empty.
    """

    url: str = field(repr=False)  # a path or a query may be a secret, too
    secret: str | SecretStr = field(repr=False)
    timeout: PositiveSeconds = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.url.strip())
        parts = url_parts(self.url)
        if parts is None:
            message = (
                "url of the forwarding is not a URL: pass one such as "
                "https://my-agent.example/webhook"
            )
            raise ConfigurationError(message)
        if parts.username is not None:
            message = "url of the forwarding must not carry credentials: the signature is enough"
            raise ConfigurationError(message)
        if parts.scheme == "http" and not may_be_plain(parts.hostname or ""):
            message = f"url of the forwarding must be https: {PLAIN_HTTP}"
            raise ConfigurationError(message)
        if not self._key:
            message = (
                "secret of the forwarding is empty: pass what the webhook checks signatures with"
            )
            raise ConfigurationError(message)

    @property
    def _key(self) -> bytes:
        return secret_bytes(self.secret, "secret of the forwarding")

    def headers(self, raw: bytes) -> dict[str, str]:
        """What goes along with a body."""
        return {
            "Content-Type": "application/json",
            "X-Webhook-Hmac": hmac.digest(self._key, raw, "sha512").hex(),
            "X-Webhook-Hmac-Algorithm": "sha512",
        }


class Forwarder:
    """Empties a queue, in a thread between :meth:`start` and :meth:`stop`.

    What the webhook does not accept is sent again, after 1, 2, 4, … up to 60 seconds, or as long as
    its ``Retry-After`` says; meanwhile that customer's later events wait. What it refuses is kept,
    and sent once more at the next start: an operator mends the agent in between.

    Args:
        queue: What waits.
        to: The webhook.
    """

    def __init__(self, queue: ForwardQueue, to: Forwarding) -> None:
        self._queue = queue
        self._to = to
        self._awake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; what was left over from last time goes first."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="convsync-forwarder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the event that is being sent; the others stay in the queue."""
        self._stopping = True
        self._awake.set()
        if self._thread is not None:
            self._thread.join()

    def wake(self) -> None:
        """There is something new."""
        self._awake.set()

    def send_due(self) -> float | None:
        """Send everything that is due.

        Returns:
            Seconds until there is more; None if nothing waits.
        """
        with httpx.Client(timeout=self._to.timeout, trust_env=False) as client:
            while not self._stopping and (forward := self._queue.acquire()) is not None:
                self._send(client, forward)
        return self._queue.pause()

    def _send(self, client: httpx.Client, forward: Forward) -> None:
        raw = forward.body.encode()
        headers, asked = self._to.headers(raw), 0.0
        try:
            with client.stream("POST", self._to.url, content=raw, headers=headers) as answer:
                status, asked = str(answer.status_code), _seconds(answer)
                accepted, hopeless = answer.is_success, answer.status_code in _HOPELESS
        except httpx.HTTPError as error:
            status, accepted, hopeless = type(error).__name__, False, False
        telemetry.count("forwards", status=status)
        if accepted:
            self._queue.done(forward)
        elif hopeless:
            self._queue.refused(forward)
        else:
            self._queue.later(forward, max(asked, min(SLOWEST, 2.0 ** min(forward.tries - 1, 10))))
        if not accepted:
            then = "it is sent again"
            if hopeless:
                then = "it is kept, and sent again when this server starts anew"
            logger.warning("The agent's webhook did not accept an event (%s): %s", status, then)

    def _run(self) -> None:
        away, refused = "", None
        while not self._stopping:
            self._awake.clear()
            try:
                if refused is None and (refused := self._queue.again()):
                    logger.info("%d events that the agent's webhook refused go once more", refused)
                pause, away = self.send_due(), ""
            except DatabaseAwayError as error:
                if not away:  # once, however often it is looked
                    logger.error("The events that wait cannot be read: %s", error)  # noqa: TRY400 - one line
                pause, away = 1.0, str(error)
            except SQLAlchemyError:
                logger.exception("The events that wait cannot be read")
                pause = 1.0
            if not self._stopping:
                self._awake.wait(pause)


def _seconds(answer: httpx.Response) -> float:
    """What ``Retry-After`` asks for, within reason."""
    asked = answer.headers.get("retry-after", "")
    return min(SLOWEST, float(asked)) if asked.isascii() and asked.isdigit() else 0.0
