"""A secret to look for, and everything that logs, terminals and crash reports show."""

from __future__ import annotations

import pickle
import pprint
import traceback
from typing import Any

#: Fits everywhere: a header, a URL, a JWT's secret.
CANARY = "canary-5d1c7e20aa914b6f83c2d9e41b7f0a65"


def told_by(error: BaseException) -> str:
    """All that can be read from an error and from what it is chained to, shown or not."""
    told = ["".join(traceback.format_exception(error))]
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found is not None and found not in seen:
            seen.append(found)
            told += [repr(found), str(found), repr(found.args), repr(vars(found))]
            waiting += [found.__cause__, found.__context__]
    return "\n".join(told)


def shown_of(thing: Any) -> str:
    """All that logs, terminals, debuggers and notebooks show of a thing."""
    in_a_notebook = getattr(thing, "_repr_html_", str)()
    return f"{thing!r} {thing!s} {in_a_notebook} {pprint.pformat(thing)}"


def pickled(thing: object) -> str:
    """What a pickle of it holds, or what the refusal says."""
    try:
        return pickle.dumps(thing).decode("latin-1")
    except (TypeError, AttributeError, pickle.PicklingError) as refusal:
        return told_by(refusal)
