"""Names for events and conversations that reveal nothing about people."""

from __future__ import annotations

import binascii
import hmac
import secrets
from dataclasses import dataclass, field
from functools import lru_cache

SHARDS = 64
#: The account in the key of an event that is claimed by itself, outside every conversation.
NO_ACCOUNT = "0" * 12


@dataclass(frozen=True, slots=True)
class Keys:
    """Makes a store's event keys and conversation keys.

    A key is ``<shard>.<account>.<hash>``: keyed hashes, so neither a phone number nor an account
    name can be read from it or guessed without the store's secret. Everything of one account lies
    in one shard, hence in one slot of a Redis Cluster.

    Args:
        secret: Created once in the store.
    """

    secret: bytes = field(repr=False)

    def event(self, account: str, family: str, source_id: str) -> str:
        """The *event key*: one per message, whichever deliveries report it."""
        return self._key(account, "event", family, source_id)

    def conversation(self, account: str, customer: str) -> str:
        """The *conversation key*: it only orders the events of one customer of one account."""
        return self._key(account, "conversation", customer)

    def claim(self, namespace: str, event_id: str) -> str:
        """Both the event key and the conversation key of an event that is claimed by itself.

        Only its claimer works on it: an acquire of any conversation never finds it.
        """
        hashed = _hash(self.secret, "claim", namespace, event_id)[:32]
        return f"{_shard(event_id)}.{NO_ACCOUNT}.{hashed}"

    def _key(self, account: str, *parts: str) -> str:
        return f"{_account(self.secret, account)}.{_hash(self.secret, account, *parts)[:32]}"


@lru_cache(maxsize=128)
def _account(secret: bytes, account: str) -> str:
    return f"{_shard(account)}.{_hash(secret, account)[:12]}"


def _hash(secret: bytes, *parts: str) -> str:
    # Length-prefixed, so that no two lists of parts are the same bytes.
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    message = b"".join([len(part).to_bytes(8, "big") + part for part in encoded])
    return hmac.digest(secret, message, "sha256").hex()


def _shard(account: str) -> str:
    return f"{crc16(account.encode('utf-8', 'surrogatepass')) % SHARDS:02d}"


def is_claim(key: str) -> bool:
    """Whether the key is that of an event claimed by itself."""
    return key[3:15] == NO_ACCOUNT


def new_token() -> str:
    """A token for one acquire."""
    return secrets.token_hex(16)


def crc16(data: bytes) -> int:
    """CRC-16/XMODEM, the checksum that Redis Cluster hashes keys with."""
    return binascii.crc_hqx(data, 0)
