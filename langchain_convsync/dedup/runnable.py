"""A runnable that runs once per event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.utils import Input, Output

from langchain_convsync._checked import PositiveSeconds, Seconds, checked
from langchain_convsync._forks import Unpicklable
from langchain_convsync.dedup.claims import IN_PROGRESS, Claim, aonce, once
from langchain_convsync.errors import EventInProgressError
from langchain_convsync.stores import store_of
from langchain_convsync.stores.base import EventStore, StoreLike

EventId: TypeAlias = Callable[[Any, RunnableConfig], str]


@checked
def deduplicated(
    runnable: Runnable[Input, Output],
    store: StoreLike,
    *,
    event_id: EventId,
    wait: Seconds = 0.0,
    lease: PositiveSeconds = 30.0,
    namespace: str = "runnable",
) -> Runnable[Input, Output]:
    """The runnable, run once per event; later calls for the event get the stored result.

    ::

        chain = deduplicated(chain, store, event_id=lambda given, config: given["event_id"])

    It is :func:`once` around a run: a run that fails gives its event back, and one that dies with
    its process is begun again by the next call after the lease. Once the store keeps the result no
    longer (``replies_kept=``, an hour by default), later calls get None.

    Args:
        runnable: What to run. Its output is stored as :meth:`Claim.complete` tells; a message that
            was streamed in chunks is stored whole.
        store: Where claims and results are kept.
        event_id: The event's own id: (input, config) → text, the same for every delivery.
        wait: Seconds to wait for another caller's run of the same event.
        lease: Seconds after which a dead process loses the event.
        namespace: Keeps apart runnables that see the same events.

    Returns:
        A runnable that raises :class:`EventInProgressError` while another caller runs the event,
        :class:`InvalidEventError` if the result cannot be stored (to the caller that ran the event,
        which is done: later calls get None), and what :func:`once` raises.
    """
    return _Deduplicated(
        runnable, store_of(store), event_id, {"wait": wait, "lease": lease, "namespace": namespace}
    )


class _Deduplicated(Runnable[Input, Output], Unpicklable):
    def __init__(
        self,
        runnable: Runnable[Input, Output],
        store: EventStore,
        event_id: EventId,
        settings: dict[str, Any],
    ) -> None:
        self.name = runnable.get_name()
        self._runnable = runnable
        self._store = store
        self._event_id = event_id
        self._settings = settings

    def invoke(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> Output:  # noqa: A002 - LangChain's name
        event_id = self._event_id(input, ensure_config(config))
        with once(self._store, event_id, **self._settings) as claim:
            if claim.acquired:
                claim.complete(self._runnable.invoke(input, config, **kwargs))
        result: Output = _result(claim)
        return result

    async def ainvoke(
        self,
        input: Input,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Output:
        event_id = self._event_id(input, ensure_config(config))
        async with aonce(self._store, event_id, **self._settings) as claim:
            if claim.acquired:
                claim.complete(await self._runnable.ainvoke(input, config, **kwargs))
        result: Output = _result(claim)
        return result


def _result(claim: Claim) -> Any:
    if claim.status is IN_PROGRESS:
        message = "another caller is running this event: deliver it again later, or pass wait=…"
        raise EventInProgressError(message)
    return claim.result
