"""What sources tell of the two sides of a message: hashes that are compared, and never read.

Each is a text that :meth:`Keys.facts` made, one ``<kind>=<hash>`` per fact: of the receiving side
its bot (``b``), subdomain (``d``), own number (``n``), WAHA session (``s``) and configured name
(``a``), of the customer the phone number (``p``), BSUID (``u``), LID (``l``), the API server's own
id (``o``) or the group (``g``), and the words (``t``). The Redis scripts say the same in
``lua/_facts.lua``.
"""

from __future__ import annotations

#: Facts that no two receiving sides share, unless another fact tells them apart.
_TELLING = frozenset("bdn")


def agree(facts: str, other: str) -> bool:
    """Whether neither tells something else than the other."""
    known = _parsed(facts)
    return all(known.get(kind, value) == value for kind, value in _parsed(other).items())


def is_one_side(facts: str, other: str) -> bool:
    """Whether they are of the same receiving side for certain."""
    shared = _parsed(facts).items() & _parsed(other).items()
    return agree(facts, other) and any(kind in _TELLING for kind, _ in shared)


def joined(facts: str, other: str) -> str:
    """All that two that agree tell."""
    return " ".join(sorted({*facts.split(), *other.split()}))


def _parsed(facts: str) -> dict[str, str]:
    return {fact[0]: fact[2:] for fact in facts.split()}
