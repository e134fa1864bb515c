"""``convsync serve`` as a real process on a free port."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

COMMAND = [sys.executable, "-c", "from langchain_convsync.cli import main; main()"]


@dataclass
class Serving:
    """A running server: where it answers, its process, and what it says that it serves."""

    base_url: str
    process: subprocess.Popen[str]
    serves: dict[str, str] = field(default_factory=dict)


@contextmanager
def serving(*options: str) -> Iterator[Serving]:
    """A server that answers; killed in the end, if it still runs."""
    with subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            told = json.loads(line)
            yield Serving(told["base_url"], process, told["serves"])
        finally:
            process.kill()
