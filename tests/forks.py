"""Real children of this process, which all begin at the same moment."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence

from langchain_convsync.errors import ConvSyncError


def forked(*tasks: Callable[[], str], meanwhile: Callable[[], object] = lambda: None) -> list[str]:
    """What each task says in a child of its own; of an error, its class.

    Args:
        tasks: What the children do, all at once.
        meanwhile: What the parent does at the same time.
    """
    gate, opened = os.pipe()
    children = [_child(task, gate, opened) for task in tasks]
    os.write(opened, b"x" * len(tasks))
    meanwhile()
    said = [_ended(*child) for child in children]
    os.close(gate)
    os.close(opened)
    return said


def _child(task: Callable[[], str], gate: int, opened: int) -> tuple[int, int]:
    told, tell = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a process with threads forks
        process = os.fork()
    if process:
        os.close(tell)
        return process, told
    os.close(opened)
    try:
        os.read(gate, 1)
        os.write(tell, _said(task).encode())
    finally:
        os._exit(0)


def _said(task: Callable[[], str]) -> str:
    try:
        return task()
    except ConvSyncError as error:
        return type(error).__name__
    except BaseException as error:  # noqa: BLE001 - the test shows it
        return repr(error)


def _ended(process: int, told: int) -> str:
    parts: list[bytes] = []
    while part := os.read(told, 4096):
        parts.append(part)
    os.close(told)
    os.waitpid(process, 0)
    return b"".join(parts).decode()


def alike(task: Callable[[int], str], number: int) -> Sequence[Callable[[], str]]:
    """So many tasks that differ in their number."""
    return [lambda number=each: task(number) for each in range(number)]  # type: ignore[misc]
