"""An event loop's default executor that a call which never comes back takes nothing from."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from langchain_convsync._flow import monotonic
from langchain_convsync.turns.stopping import running_stopper

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that calls which are under way get to end once no more are taken.
PATIENCE = 1.0


class OwnThreads(ThreadPoolExecutor):
    """Gives each call a thread of its own, which the end of the process does not wait for.

    LangChain runs plain tools and nodes on the default executor of the loop. The threads of a pool
    are so many: each call that hangs has one less for all others, and Python's exit joins them. It
    is no pool, but of a pool's class: asyncio demands that.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)  # which it never starts
        self._closed = False
        self._under_way = set[threading.Thread]()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin a call at once; a run that it belongs to knows its thread.

        Raises:
            RuntimeError: It is shut down, or the machine has no thread left.
        """
        if self._closed:
            message = "cannot schedule new futures after shutdown"
            raise RuntimeError(message)
        future = Future[T]()

        def work() -> None:
            try:
                if future.set_running_or_notify_cancel():
                    _settle(future, lambda: fn(*args, **kwargs))
            finally:
                self._under_way.discard(thread)

        thread = threading.Thread(target=work, name="convsync-call", daemon=True)
        self._under_way.add(thread)
        try:
            thread.start()
        except BaseException:
            self._under_way.discard(thread)
            raise
        if (stopper := running_stopper()) is not None:
            stopper.threads.append(thread)
        return future

    @property
    def is_idle(self) -> bool:
        """Whether no call is under way."""
        return not self._under_way

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; those under way are waited for a second at most."""
        del cancel_futures  # none of them waits
        self._closed = True
        until = monotonic() + PATIENCE if wait else 0.0
        for thread in tuple(self._under_way):
            if thread.is_alive():  # one that is just beginning is not yet
                thread.join(max(0.0, until - monotonic()))


def _settle(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets it
        future.set_exception(error)
    else:
        future.set_result(result)
