"""Your runner, pointed at the workbench: nothing it builds leads to the servers it was written for.

A module that makes a runner says where API server, WAHA and store are: in the environment, or as
arguments. Both are answered here, in the bot's process and before the module is imported: the
environment names the workbench's, and whatever address, key, lent client or store an argument names
is replaced where every client and runner is made. So a bot with production's settings in its code
talks to nobody in production; its own tools are its own, and do what they do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from langchain_convsync.client._api import Api
from langchain_convsync.client._waha import Waha
from langchain_convsync.outbox import WAHAReply
from langchain_convsync.settings import DOCUMENTED_SERVER, ServerProfile
from langchain_convsync.turns import TurnRunner
from langchain_convsync.workbench.process import Place

#: Seconds after which a new process takes over from one that was killed: to be watched, not slept.
LEASE = 3.0
#: Seconds after which a request without an answer is looked for: all servers are on this machine.
SETTLE = 2.0


def point_at(place: Place, notice: Callable[[str], Any]) -> None:
    """Let this process know the workbench's servers only; for good, so a process of its own.

    Args:
        place: Where they are.
        notice: Told in a sentence what a runner was given that is not used here.
    """
    for name in [each for each in os.environ if each.startswith("CONVSYNC_")]:
        del os.environ[name]
    os.environ.update(place.environment)
    plain = {"transport": None, "allow_http": None, "trust_env": False, "http_client": None}

    def api(given: dict[str, Any]) -> dict[str, Any]:
        profile: ServerProfile = given.get("profile", DOCUMENTED_SERVER)
        like_theirs = replace(DOCUMENTED_SERVER, intents=profile.intents, settle=SETTLE)
        return given | plain | {"base_url": place.api, "api_key": None, "profile": like_theirs}

    def waha(given: dict[str, Any]) -> dict[str, Any]:
        return given | plain | {"base_url": place.waha, "api_key": None}

    def runner(given: dict[str, Any]) -> dict[str, Any]:
        if given.pop("on_reply", None) is not None:
            notice("on_reply= is not called: the workbench sends the replies itself")
        reply = given.get("reply") or WAHAReply()
        reply.settle = min(reply.settle, SETTLE)
        lease = min(given.get("lease", LEASE), LEASE)
        ours = {"store": place.store, "reply": reply, "lease": lease, "log_errors": True}
        if place.is_replay:
            ours["debounce"] = 0.0
            reply.typing, reply.pace = 0.0, None
        if given.get("agent") is not None:
            ours["record_only"] = False
        return given | ours

    _rewrite(Api, "base_url", api)
    _rewrite(Waha, "base_url", waha)
    _rewrite(TurnRunner, "agent", runner)


def _rewrite(
    kind: type[Any], first: str, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Change what objects of a class are made with; its one positional argument is named."""
    made = kind.__init__

    def init(self: Any, *given: Any, **named: Any) -> None:
        made(self, **change({**dict(zip((first,), given, strict=False)), **named}))

    kind.__init__ = init
