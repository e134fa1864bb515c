"""LangGraph's Agent Server as an agent: its ``RemoteGraph`` acts as the graph it stands for."""

from __future__ import annotations

import sys
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from langchain_core.messages import messages_from_dict
from langchain_core.runnables import Runnable, RunnableConfig, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_convsync._flow import Flow, Io, arun, run
from langchain_convsync.errors import AgentServerError, ConfigurationError, ConvSyncError, LoopError
from langchain_convsync.surfaces.context import ConversationRef, current_turn

if TYPE_CHECKING:  # the agents are langgraph's own, so it is loaded where there is one
    from langgraph.types import StateSnapshot

Client: TypeAlias = Literal["client", "sync_client"]

#: LangGraph's server names threads by UUIDs: ours are derived from the turn's own thread id.
_THREADS = uuid.UUID("6f0f4a52-6c1f-5bd0-9c1c-0f6d1d3e7a11")
#: What to do about an answer of the server.
_ADVICE = {
    400: "a run takes context or configurable, not both: take configurable out of the agent",
    401: "give RemoteGraph an api_key=, or headers= that it accepts",
    403: "give RemoteGraph an api_key=, or headers= that it accepts",
    404: "mend RemoteGraph(url=…), which needs the server's prefix, if it has one",
    409: "its thread is busy with another run: leave multitask_strategy at enqueue",
    422: "it must be the name of a graph in its langgraph.json, and take {'messages': […]}",
    429: "it has too much to do",
}


def layers(agent: Runnable[Any, Any]) -> Iterator[Runnable[Any, Any]]:
    """The agent, what it binds, and what that binds: outermost first, without the alternatives."""
    while True:
        yield agent
        if isinstance(agent, RunnableWithFallbacks):
            agent = agent.runnable
        elif isinstance(agent, RunnableWithMessageHistory):
            return  # what it binds is its own business
        elif isinstance(agent, RunnableBindingBase | RemoteAgent):
            agent = agent.bound
        else:
            return


def is_a(agent: Runnable[Any, Any], module: str, name: str) -> bool:
    """Whether an agent is of a class of langgraph's, which is not loaded to find out."""
    kind = getattr(sys.modules.get(f"langgraph.pregel.{module}"), name, None)
    return kind is not None and isinstance(agent, kind)


def at_home(agent: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """The agent, where it runs on LangGraph's server as if it ran here."""
    return RemoteAgent(agent) if any(map(_is_remote, layers(agent))) else agent


def _is_remote(agent: Runnable[Any, Any]) -> bool:
    return is_a(agent, "remote", "RemoteGraph")


class RemoteAgent(Runnable[Any, Any]):
    """An agent on LangGraph's server, with what a compiled graph has: messages, state, interrupts.

    Each conversation is a thread there, which its first run makes. Messages keep their ids, so one
    that is sent again after a crash stands there once.

    Args:
        bound: The ``RemoteGraph``, with what its user bound to it.
    """

    def __init__(self, bound: Runnable[Any, Any]) -> None:
        self.bound = bound
        self.checkpointer = self  # the server's own, as far as turns need one
        self.graph: Any = next(each for each in layers(bound) if _is_remote(each))

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - LangChain's name
        """The final state, its messages those of LangChain.

        Raises:
            AgentServerError: The server did not run the agent, or the run failed.
            LoopError: It took more steps than it may.
            ConfigurationError: A phone number would leave in ``context``, or there is no client.
        """
        self._client("sync_client")
        with self._explained():
            away = _away(config, kwargs)
            return local(self.bound.invoke(input, away, **_place(config), **kwargs))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """:meth:`invoke` on the running event loop."""
        self._client("client")
        with self._explained():
            away = _away(config, kwargs)
            return local(await self.bound.ainvoke(input, away, **_place(config), **kwargs))

    def get_state(self, config: RunnableConfig) -> StateSnapshot:
        """The state of the thread; an empty one before the first run."""
        return run(self._state(config))

    async def aget_state(self, config: RunnableConfig) -> StateSnapshot:
        """:meth:`get_state` on the running event loop."""
        return await arun(self._state(config))

    def get_state_history(
        self,
        config: RunnableConfig,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        limit: int = 100,
    ) -> Iterator[StateSnapshot]:
        """The states of the thread, newest first."""
        yield from run(self._history(config, filter, limit))

    async def aget_state_history(
        self,
        config: RunnableConfig,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        limit: int = 100,
    ) -> AsyncIterator[StateSnapshot]:
        """:meth:`get_state_history` on the running event loop."""
        for state in await arun(self._history(config, filter, limit)):
            yield state

    def update_state(self, config: RunnableConfig, values: Any, as_node: str) -> None:
        """Change the state of the thread, as one of its nodes does."""
        self._client("sync_client")
        with self._explained():
            self.graph.update_state(_placed(config), values, as_node)

    async def aupdate_state(self, config: RunnableConfig, values: Any, as_node: str) -> None:
        """:meth:`update_state` on the running event loop."""
        self._client("client")
        with self._explained():
            await self.graph.aupdate_state(_placed(config), values, as_node)

    def delete_thread(self, thread: str) -> None:
        """Forget a conversation, by the turn's own thread id."""
        run(self._delete(thread))

    async def adelete_thread(self, thread: str) -> None:
        """:meth:`delete_thread` on the running event loop."""
        await arun(self._delete(thread))

    def _state(self, config: RunnableConfig) -> Flow[StateSnapshot]:
        thread, place = _thread(config), _place(config)
        at = {"checkpoint": {"checkpoint_ns": "", **place}} if place else {}
        read = self._read(lambda threads: threads.get_state(thread, **at))
        return _snapshot((yield from read) or {})

    def _delete(self, thread: str) -> Flow[None]:
        there = _thread({"configurable": {"thread_id": thread}})
        yield from self._read(lambda threads: threads.delete(there))

    def _history(
        self, config: RunnableConfig, wanted: dict[str, Any] | None, limit: int
    ) -> Flow[list[StateSnapshot]]:
        thread = _thread(config)

        def ask(threads: Any) -> Any:
            return threads.get_history(thread, limit=limit, metadata=wanted)

        return [_snapshot(state) for state in (yield from self._read(ask)) or ()]

    def _read(self, ask: Callable[[Any], Any]) -> Flow[Any]:
        """What the server knows, or makes, of a thread; None before its first run.

        Asked without ``RemoteGraph``, which cannot read the state of a thread whose run is queued.
        """
        with self._explained():
            try:
                return (
                    yield from Io(
                        lambda: ask(self._client("sync_client").threads),
                        lambda: ask(self._client("client").threads),
                    )
                )
            except Exception as error:
                if _status(error) == 404:
                    return None
                raise

    def _client(self, name: Client) -> Any:
        client = getattr(self.graph, name)
        if client is None:
            call = "run()" if name == "sync_client" else "arun()"
            message = f"RemoteGraph has no {name}, which {call} needs: give it url=, or {name}="
            raise ConfigurationError(message)
        return client

    @contextmanager
    def _explained(self) -> Generator[None, None, None]:
        """Failures of the server's, told without a word of the customer's."""
        try:
            yield
        except ConvSyncError:
            raise
        except Exception as error:
            if _cause(error) == "GraphRecursionError":
                message = (
                    f"{self.graph.assistant_id!r} came to no end in the steps that it may take: if "
                    "it needs more, give the RemoteGraph with_config(recursion_limit=…)"
                )
                raise LoopError(message) from error
            reason = self._reason(error)
            if reason is None:
                raise
            raise AgentServerError(reason) from error

    def _reason(self, error: Exception) -> str | None:
        graph, kind = self.graph, type(error)
        server = f"LangGraph's server{_address(graph)}"
        if (status := _status(error)) is not None:
            advice = _ADVICE.get(status, "its log says why")
            return f"{server} did not take the run of {graph.assistant_id!r} ({status}): {advice}"
        if kind.__module__.partition(".")[0] in {"httpx", "httpx2", "httpcore"}:
            what = f"{server} did not answer ({kind.__name__})"
            return f"{what}: start it, or mend RemoteGraph(url=…)"
        if (cause := _cause(error)) is not None:
            return f"{graph.assistant_id!r} failed with {cause} on {server}: its log says why"
        return None


def _away(config: RunnableConfig | None, kwargs: Mapping[str, Any]) -> RunnableConfig:
    """The config of a run as the server takes it: nothing configurable but the thread.

    Raises:
        ConfigurationError: ``context`` names the customer; the server copies it into its traces.
    """
    context = kwargs.get("context")
    fields = context if isinstance(context, Mapping) else getattr(context, "__dict__", {})
    holds_ref = any(isinstance(each, ConversationRef) for each in (context, *fields.values()))
    if holds_ref or _is_named_in(context):
        held = "a ConversationRef" if holds_ref else "the customer's number"
        message = (
            f"context= holds {held}, and LangGraph's server copies what it is told, phone number "
            "and all, into metadata that tracers export: pass a sealed handle"
        )
        raise ConfigurationError(message)
    given: RunnableConfig = {**(config or {})}
    placed = _placed(given)["configurable"]
    given["configurable"] = placed
    given["metadata"] = {**(given.get("metadata") or {}), "thread_id": placed["thread_id"]}
    return given


def _is_named_in(context: object) -> bool:
    """Whether it tells the number of the turn's customer, with or without its plus."""
    turn = current_turn.get()
    if turn is None:
        return False
    return turn.ref.phone_number.lstrip("+").partition("@")[0] in str(context)


def _placed(config: RunnableConfig) -> RunnableConfig:
    """The thread there, and the checkpoint of it that is meant, if one is."""
    named = config.get("configurable") or {}
    place: dict[str, Any] = {
        name: named[name] for name in ("checkpoint_id", "checkpoint_ns") if name in named
    }
    return {"configurable": {**place, "thread_id": _thread(config)}}


def _thread(config: Mapping[str, Any]) -> str:
    return str(uuid.uuid5(_THREADS, config["configurable"]["thread_id"]))


def _place(config: RunnableConfig | None) -> dict[str, str]:
    """Where in the thread, if not at its end."""
    checkpoint = ((config or {}).get("configurable") or {}).get("checkpoint_id")
    return {"checkpoint_id": checkpoint} if checkpoint else {}


def _cause(error: Exception) -> str | None:
    """The name of what a run on the server failed with; None for failures of other kinds."""
    if type(error).__name__ != "RemoteException":
        return None
    told = error.args[0] if error.args else None
    cause = str(told.get("error")) if isinstance(told, Mapping) else ""
    return cause if cause.isidentifier() and len(cause) < 80 else "an error"


def _status(error: BaseException) -> int | None:
    """The HTTP status of an answer that was no success."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _address(graph: Any) -> str:
    """Where the server is, without what authenticates there."""
    http = getattr(graph.sync_client or graph.client, "http", None)
    url = getattr(getattr(http, "client", None), "base_url", None)
    return "" if url is None else f" at {url.scheme}://{url.netloc.decode()}"


def _snapshot(state: Mapping[str, Any]) -> StateSnapshot:
    """The state of a thread as a compiled graph tells it, as far as turns look at it."""
    from langgraph.types import PregelTask, StateSnapshot

    tasks = tuple(
        PregelTask(
            id=str(task.get("id")),
            name=task["name"],
            path=(),
            interrupts=tuple(_interrupts(task["interrupts"])),
        )
        for task in state.get("tasks") or ()
    )
    return StateSnapshot(
        values=local(state.get("values") or {}),
        next=tuple(state.get("next") or ()),
        config={"configurable": dict(state.get("checkpoint") or {})},
        metadata=state.get("metadata"),
        created_at=state.get("created_at"),
        parent_config=None,
        tasks=tasks,
        interrupts=tuple(each for task in tasks for each in task.interrupts),
    )


def local(output: Any) -> Any:
    """A run's output, or a state, with LangChain's messages and interrupts for those in JSON."""
    if isinstance(output, list):
        return [local(each) for each in output]
    if not isinstance(output, Mapping):
        return output
    if "type" in output and "content" in output:
        return _message(output)
    found = dict(output)
    if isinstance(output.get("messages"), list):
        found["messages"] = [_message(each) for each in output["messages"]]
    if "__interrupt__" in output:
        found["__interrupt__"] = _interrupts(output["__interrupt__"])
    return found


def _message(told: Any) -> Any:
    """A message; one that LangChain does not know stays as it is, and says nothing."""
    try:
        return messages_from_dict([{"type": told["type"], "data": told}])[0]
    except (KeyError, TypeError, ValueError):
        return told


def _interrupts(told: Any) -> list[Any]:
    from langgraph.types import Interrupt

    # Not all of its fields: a newer server tells some that this langgraph does not take.
    return [Interrupt(value=each["value"], id=each["id"]) for each in told]
