"""The webhook as an ASGI app: recorded at once, answered afterwards.

WAHA gives a slow receiver further copies of what it still works on, so a delivery is verified,
parsed, recorded durably and acknowledged; the runner's workers do the rest. Deliveries are WAHA's
own, or forwarded by the API server as ``{"event_id", "phone_number", "message"}``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import SecretStr

from langchain_convsync._checked import Seconds, checked
from langchain_convsync._lazy import module_on_first_use
from langchain_convsync.client import recommended
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.settings import required_setting
from langchain_convsync.turns import TurnRunner
from langchain_convsync.waha.groups import Groups
from langchain_convsync.waha.signature import Secrets, Signers

if TYPE_CHECKING:
    import fastapi
    from starlette import applications
else:  # the extra is needed by those who make an app
    applications = module_on_first_use("starlette.applications")
    fastapi = module_on_first_use("fastapi")

logger = logging.getLogger(__name__)

__all__ = ["create_app", "create_router"]

NO_GROUPS = (
    "groups= answers in groups, whose conversations this API server does not keep: its profile is "
    "ServerProfile(groups=False); leave groups= away, or use a server that keeps a conversation "
    "under a group's chat id (…@g.us)"
)
#: Seconds for which the agent is paused after a human wrote to the customer.
TAKEOVER = 3600.0


@checked
def create_app(
    runner: TurnRunner,
    *,
    waha_secrets: Secrets | Mapping[str, Secrets] | None = None,
    path: str = "/webhook",
    takeover: Seconds = TAKEOVER,
    api_takeover: Seconds = 0.0,
    groups: Groups = False,
) -> applications.Starlette:
    """An ASGI app with the webhook, ``GET /health``, ``GET /ready`` and ``GET /metrics``.

    ::

        app = create_app(TurnRunner(agent, reply=WAHAReply()), waha_secrets="…")

    Its lifespan is the runner's block: it starts the workers, and finishes at shutdown what they
    are at. Run it with ``uvicorn my_bot:app``, in as many processes as you like on one store.

    Args:
        runner: Answers the events; it needs ``reply=`` or ``on_reply=`` to send what it says. With
            ``record_only=True`` it records them for other processes.
        waha_secrets: The keys that WAHA's sessions sign with (``hmac.key``), several while one
            replaces another; else ``CONVSYNC_WAHA_SECRETS``, separated by commas. As
            ``{session: secret}``, or ``{session: [secrets]}``, each signs for its own WAHA session
            alone; one under ``"*"`` for any, and for what the API server forwards. An empty list
            accepts unsigned deliveries, which any client can send.
        path: Where WAHA, or the API server, delivers.
        takeover: Seconds for which a conversation is paused when a human writes to the customer
            from the business's own phone; 0 pauses nothing.
        api_takeover: The same where another program writes to the customer through WAHA; its words
            are recorded as the bot's, where the runner has ``reply=WAHAReply(…)``.
        groups: ``"mentions"`` answers in groups where the bot is mentioned, by its number or its
            LID, or one of its own messages is quoted; ``"all"`` answers every message there; False
            none. Each group is a conversation of its own, which the API server must know under the
            group's chat id (``ServerProfile(groups=…)``). True stands for ``"mentions"``.

    Raises:
        ConfigurationError: No secret is set, the runner sends no replies, or its API server keeps
            no conversations of groups.
        MissingExtraError: The ``server`` extra is not installed.
    """
    router = create_router(
        runner,
        waha_secrets=waha_secrets,
        path=path,
        takeover=takeover,
        api_takeover=api_takeover,
        groups=groups,
    )
    from langchain_convsync.app._webhook import app_with

    return app_with(router, runner)


@checked
def create_router(
    runner: TurnRunner,
    *,
    waha_secrets: Secrets | Mapping[str, Secrets] | None = None,
    path: str = "/webhook",
    takeover: Seconds = TAKEOVER,
    api_takeover: Seconds = 0.0,
    groups: Groups = False,
) -> fastapi.APIRouter:
    """The webhook for an app that is there already: ``app.include_router(create_router(runner))``.

    FastAPI runs the lifespan of an included router, which starts and ends the workers. (It does not
    run that of a mounted app, which then answers 503.) Arguments are those of :func:`create_app`.
    It brings the webhook alone: an app has probes of its own, and ``runner.ametrics()`` is the text
    for its ``/metrics``.

    Raises:
        ConfigurationError: No secret is set, the runner sends no replies, or its API server keeps
            no conversations of groups.
        MissingExtraError: The ``server`` extra is not installed.
    """
    from langchain_convsync.app._webhook import Webhook

    if not (runner.sends_replies or runner.is_record_only):
        message = (
            "the runner cannot send replies: give it reply=WAHAReply(…) or on_reply=…, or "
            "record_only=True where other processes answer"
        )
        raise ConfigurationError(message)
    if groups and not runner.profile.groups:
        raise ConfigurationError(NO_GROUPS)
    if advice := recommended(*runner.transports):
        logger.info("%s", advice)
    if not path.startswith("/"):
        message = f"path must begin with /, such as /webhook, and not be {path!r}"
        raise ConfigurationError(message)
    webhook = Webhook(
        runner,
        _signers(waha_secrets),
        takeover=takeover,
        api_takeover=api_takeover,
        groups=groups,
    )
    return webhook.router(path)


def _signers(given: Secrets | Mapping[str, Secrets] | None) -> Signers | None:
    """Who may sign; None where unsigned deliveries are accepted. Mistakes are errors now."""
    if given is None:
        setting = required_setting(None, argument="waha_secrets", variable="CONVSYNC_WAHA_SECRETS")
        given = [secret.strip() for secret in setting.split(",")]
    if not isinstance(given, str | SecretStr | Mapping):
        given = list(given)
        if not given:
            logger.warning(
                "The webhook accepts unsigned deliveries: any client can pose as a customer"
            )
            return None
    return Signers(given)
