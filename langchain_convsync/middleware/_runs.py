"""Which runs are one exchange with a customer: the outermost graph's, and everything in it.

An agent may be a node of a graph, a tool of another agent, or hand the customer over in the middle
of its run; its own hooks see no more than that. LangChain tells of every run and its parent to
handlers that a module registers once. This one only keeps who is below whom.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Self
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook
from langgraph.errors import GraphInterrupt

from langchain_convsync import _forks, telemetry
from langchain_convsync._flow import arun, run
from langchain_convsync.middleware._exchange import Exchange

#: Runs that are remembered at once; the oldest one that never ended is forgotten beyond.
MOST_RUNS = 100_000
#: Interrupted exchanges that a resumed run of this process finds again.
MOST_WAITING = 1_000


@dataclass(slots=True)
class _Run:
    """A run under way.

    ``graph`` is the one that it is a node of, or in a node of; ``given`` and ``thread`` are the
    input and the thread of what may turn out to be an outermost graph.
    """

    exchange: Exchange | None = None
    graph: UUID | None = None
    namespace: str | None = None
    given: object = None
    thread: str | None = None
    awaited: bool = False


class _Done:
    """What was done without waiting, awaited or not."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


class _Begun:
    """A beginning that learns whether its run is awaited."""

    def __init__(self, begun: _Run) -> None:
        self._run = begun

    def __await__(self) -> Generator[Any, Any, None]:
        self._run.awaited = True
        yield from ()


_DONE = _Done()


async def _awaitable() -> None: ...


class _Event(partial[Any]):
    """A handler's method that is called by blocking runs, and awaited by awaited ones.

    LangChain has plain methods, which block the event loop of an awaited run or cost it a thread
    for each event; and async ones, for which a blocking run makes an event loop each, and which
    cannot fail it. It awaits what ``inspect.iscoroutinefunction`` takes for async: a partial of an
    async function. A blocking run only calls, and lets an awaitable be.
    """

    def __new__(cls, method: Callable[..., Any]) -> Self:
        made = super().__new__(cls, _awaitable)
        made.method = method
        return made

    method: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.method(*args, **kwargs)


class Runs(BaseCallbackHandler):
    """All chain and tool runs of this process that are under way. Thread-safe."""

    run_inline = True
    raise_error = True  # where on_error="raise" fails a run, it fails the outermost one
    ignore_llm = ignore_chat_model = ignore_retriever = True

    def __init__(self) -> None:
        self._lock = _forks.lock()
        self._runs: OrderedDict[UUID, _Run] = OrderedDict()
        self._waiting: OrderedDict[str, Exchange] = OrderedDict()
        begin, end, fail = _Event(self._begin), _Event(self._end), _Event(self._fail)
        vars(self).update(
            on_chain_start=begin,
            on_tool_start=begin,
            on_chain_end=end,
            on_tool_end=end,
            on_chain_error=fail,
            on_tool_error=fail,
        )

    def of(self, run_id: UUID | None) -> tuple[Exchange, UUID | None]:
        """The exchange that a run belongs to, and the graph that it is in."""
        found = self._runs.get(run_id) if run_id else None
        if found is None or found.exchange is None:  # a run that began before this module
            return Exchange(None, given=()), None
        return found.exchange, found.graph

    def _begin(
        self,
        serialized: object,
        given: object,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> Any:
        about = metadata or {}
        namespace = about.get("langgraph_checkpoint_ns")
        with self._lock:
            above = self._runs.get(parent_run_id) if parent_run_id else None
            if above is None or namespace is None:
                begun = _Run(given=given, thread=about.get("thread_id"))
            elif namespace == above.namespace:
                begun = _Run(above.exchange, above.graph, namespace)
            else:  # a node, so the run above it is a graph
                if above.exchange is None:
                    above.exchange = self._new(parent_run_id, above, given)
                begun = _Run(above.exchange, parent_run_id, namespace)
            self._runs[run_id] = begun
            if begun.exchange is not None:
                begun.exchange.runs.add(run_id)
            while len(self._runs) > MOST_RUNS:
                telemetry.count("callback_runs_forgotten")
                self._runs.popitem(last=False)
        return _Begun(begun) if begun.exchange is None else _DONE

    def _new(self, root: UUID | None, graph: _Run, state: object) -> Exchange:
        exchange = Exchange(root, given=graph.given, state=state, thread=graph.thread)
        waiting = self._waiting.pop(graph.thread, None) if graph.thread else None
        if waiting is not None and exchange.goes_on:
            exchange.continue_from(waiting)
        return exchange

    def _end(self, output: object, *, run_id: UUID, **_: Any) -> Any:
        ended = self._forget(run_id)
        exchange = ended.exchange if ended else None
        if ended is None or exchange is None or exchange.root != run_id:
            return _DONE
        if not exchange.is_due:
            return _DONE
        if exchange.interrupted:
            with self._lock:
                if exchange.thread:
                    self._waiting[exchange.thread] = exchange
                while len(self._waiting) > MOST_WAITING:
                    self._waiting.popitem(last=False)
            return _DONE
        ending = exchange.finish(output)
        return arun(ending) if ended.awaited else run(ending)

    def _fail(self, error: BaseException, *, run_id: UUID, **_: Any) -> Any:
        ended = self._forget(run_id)
        exchange = ended.exchange if ended else None
        if (
            ended
            and exchange
            and ended.graph == exchange.root
            and isinstance(error, GraphInterrupt)
        ):
            exchange.interrupted = True
        return _DONE

    def _forget(self, run_id: UUID) -> _Run | None:
        with self._lock:
            ended = self._runs.pop(run_id, None)
            if ended is not None and (exchange := ended.exchange) is not None:
                exchange.runs.discard(run_id)
                if exchange.root == run_id:  # interrupted tools never end
                    for left in exchange.runs:
                        self._runs.pop(left, None)
        return ended


RUNS = Runs()
_handler: ContextVar[BaseCallbackHandler | None] = ContextVar("convsync_runs", default=RUNS)
register_configure_hook(_handler, inheritable=True)
