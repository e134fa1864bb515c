"""What an inbox holds besides messages: an entry at its head, which tells its kind."""

from __future__ import annotations

import json
from typing import Self

from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json


class InboxEntry(BaseModel):
    """Something that a conversation's turns left in its inbox, to be gone on with.

    Attributes:
        kind: Tells it from what else an inbox may hold.
    """

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    kind: str

    @classmethod
    def read(cls, payload: str) -> Self | None:
        """What an event of the inbox stands for; None where it is another kind of event."""
        kind = cls.model_fields["kind"].default
        if f'"{kind}"' not in payload:  # nearly all
            return None
        try:
            stored = from_json(payload)
            if not isinstance(stored, dict) or stored.get("kind") != kind:
                return None
            return cls.model_validate_json(payload)
        except ValueError:  # its turn says that it cannot be read
            return None

    @property
    def stored(self) -> str:
        """As the store keeps it."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True) | {"kind": self.kind})
