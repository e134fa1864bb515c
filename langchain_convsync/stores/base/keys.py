"""Names for events and conversations that reveal nothing about people."""

from __future__ import annotations

import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self

from langchain_convsync import phone
from langchain_convsync._platform import token

SHARDS = 64
#: Hexadecimal digits of an event's or a conversation's hash: among a thousand million, two are the
#: same with a probability of 1 in 10^11.
DIGITS = 24
#: The account in the key of an event that is claimed by itself, outside every conversation.
NO_ACCOUNT = "0" * 12


class AccountKey(str):
    """``<shard>.<account>``, which the keys of an account begin with; no name of one."""

    __slots__ = ()

    def __new__(cls, key: str) -> Self:
        """The account key that the text is."""
        return super().__new__(cls, key)


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

    def account(self, name: str, facts: str = "") -> AccountKey:
        """The *account key*, which all keys of an account begin with.

        Args:
            name: The receiving side, as its source calls it; accounts of one name share a shard.
            facts: What else the source tells of it, see :meth:`facts`.
        """
        return _account(self.secret, name, facts)

    def event(self, account: str | AccountKey, customer: str, family: str, source_id: str) -> str:
        """The *event key*: one per message of a customer, whichever deliveries report it."""
        return self._key(account, "event", phone.canonical(customer), family, source_id)

    def conversation(self, account: str | AccountKey, customer: str) -> str:
        """The *conversation key*: it only orders the events of one customer of one account.

        A phone number's variants have one key.
        """
        return self._key(account, "conversation", phone.canonical(customer))

    def source(self, family: str, source_id: str) -> str:
        """Under which name deliveries find each other that may report one message."""
        return _hash(self.secret, "source", family, source_id)[:24]

    def facts(self, facts: Mapping[str, str]) -> str:
        """Facts as stores compare them: ``b=<hash> n=<hash> …``, see ``stores/facts.py``."""
        return " ".join(
            f"{kind}={_hash(self.secret, 'fact', kind, facts[kind])[:16]}" for kind in sorted(facts)
        )

    def server(self, address: str) -> str:
        """The name of an API server, by which a store knows whose conversations it holds."""
        return _hash(self.secret, "server", address)[:32]

    def claim(self, namespace: str, event_id: str) -> str:
        """Both the event key and the conversation key of an event that is claimed by itself.

        Only its claimer works on it: an acquire of any conversation never finds it.
        """
        hashed = _hash(self.secret, "claim", namespace, event_id)[:DIGITS]
        return f"{_shard(event_id)}.{NO_ACCOUNT}.{hashed}"

    def _key(self, account: str | AccountKey, *parts: str) -> str:
        key = account if isinstance(account, AccountKey) else self.account(account)
        return f"{key}.{_hash(self.secret, key, *parts)[:DIGITS]}"


@lru_cache(maxsize=128)
def _account(secret: bytes, name: str, facts: str) -> AccountKey:
    parts = (name, facts) if facts else (name,)
    return AccountKey(f"{_shard(name)}.{_hash(secret, *parts)[:12]}")


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
    return token()


def crc16(data: bytes) -> int:
    """CRC-16/XMODEM, the checksum that Redis Cluster hashes keys with."""
    return binascii.crc_hqx(data, 0)
