"""What happened, in numbers: every swallowed failure and every duplicate is counted here.

Labels are facts about the work (an operation, a status), never about people: no phone number, chat
id or session id belongs into a label.
"""

from __future__ import annotations

import threading
from collections import Counter

_lock = threading.Lock()
_counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()


def count(name: str, amount: int = 1, **labels: str) -> None:
    """Add ``amount`` to a counter, e.g. ``count("events", status="duplicate")``."""
    with _lock:
        _counts[name, tuple(sorted(labels.items()))] += amount


def counted(name: str, **labels: str) -> int:
    """The sum of a counter over all its labels that include ``labels``."""
    wanted = set(labels.items())
    with _lock:
        return sum(n for (key, has), n in _counts.items() if key == name and wanted <= set(has))
