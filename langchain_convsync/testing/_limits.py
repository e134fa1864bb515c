"""What a fake WAHA does for an account that WhatsApp limits, or that is logged out."""

from __future__ import annotations

from typing import Any

from langchain_convsync.testing._loopback import Answer
from langchain_convsync.waha.limits import LimitKind

#: Sends that WhatsApp refuses for a lock or a cap before it bans the number.
TOLERATED = 3

_WORDS = {
    "timelock": (500, "2 UNKNOWN: server returned error 463"),
    "capping": (500, "2 UNKNOWN: server returned error 475"),
    "session": (422, "Session status is not as expected. Try again later or restart the session"),
}


class AccountLimits:
    """How WhatsApp limits one account, and how often it was tried all the same.

    Attributes:
        kind: What limits it now; None where nothing does.
        banned: Whether its number is banned, for ever.
    """

    def __init__(self) -> None:
        self.kind: LimitKind | None = None
        self.banned = False
        self._refused = 0

    def set(self, kind: LimitKind | None) -> None:
        """Limit it from now on, or no more."""
        self.kind, self._refused = kind, 0

    def refusal(self, *, known: bool) -> Answer | None:
        """The answer to a send; None where it is taken.

        Args:
            known: Whether the chat has had a message before.
        """
        if not self.banned and (self.kind is None or (self.kind == "capping" and known)):
            return None
        if self.kind in {"timelock", "capping"}:
            self._refused += 1
            self.banned = self.banned or self._refused > TOLERATED
        status, words = _WORDS["session" if self.banned or self.kind is None else self.kind]
        return Answer(status, {"statusCode": status, "exception": {"message": words}})

    @property
    def status(self) -> str:
        """The status of its session."""
        if self.banned:
            return "FAILED"
        return "SCAN_QR_CODE" if self.kind == "session" else "WORKING"

    @property
    def told(self) -> dict[str, dict[str, Any]]:
        """What WAHA tells of limits, by the last part of its route."""
        return {
            "timelock": {"isActive": self.kind == "timelock"},
            "capping": {"cappingStatus": "CAPPED" if self.kind == "capping" else "NONE"},
        }
