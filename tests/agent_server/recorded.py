"""A server that answers like LangGraph's, whose answers were recorded, on graphs of this process.

It speaks as much of the API as a turn does: run and stream, a thread's state, its history.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, Interrupt, StateSnapshot
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.agent_server import graphs

#: Errors of graphs that are told by name and text; of all others, only the name.
TOLD = (ValueError, TypeError, KeyError, RuntimeError)


class Recorded:
    """The graphs that the real one serves, in memory.

    Attributes:
        asked: Every request: method, path, and what was sent.
        busy: Threads that another run is working on.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.busy: set[str] = set()
        self._saver = InMemorySaver()
        self._threads: dict[str, str] = {}
        self.app = Starlette(
            routes=[
                Route("/threads", self._create, methods=["POST"]),
                Route("/threads/{thread}", self._delete, methods=["DELETE"]),
                Route("/threads/{thread}/state", self._state),
                Route("/threads/{thread}/history", self._history, methods=["POST"]),
                Route("/threads/{thread}/runs/stream", self._run, methods=["POST"]),
            ]
        )

    def _graph(self, name: str) -> Any:
        graph = getattr(graphs, name)
        graph = graph if hasattr(graph, "invoke") else graph()
        return graph.copy({"checkpointer": self._saver})

    async def _read(self, request: Request) -> tuple[str, Any]:
        body = json.loads(await request.body() or b"null")
        self.asked.append((request.method, request.url.path, body))
        return request.path_params.get("thread", ""), body

    async def _create(self, request: Request) -> Response:
        _, body = await self._read(request)
        self._threads.setdefault(body["thread_id"], "")
        return JSONResponse({"thread_id": body["thread_id"], "status": "idle", "values": None})

    async def _delete(self, request: Request) -> Response:
        thread, _ = await self._read(request)
        self._threads.pop(thread, None)
        self._saver.delete_thread(thread)
        return Response(status_code=204)

    async def _state(self, request: Request) -> Response:
        thread, _ = await self._read(request)
        if _is_no_uuid(thread):
            return _refusal(422, "Invalid thread ID: must be a UUID")
        if thread not in self._threads:
            return _refusal(404, f"Thread with ID {thread} not found")
        if not self._threads[thread]:  # made, and never run
            return JSONResponse({"values": {}, "next": [], "tasks": [], "checkpoint": None})
        graph = self._graph(self._threads[thread])
        return _json(_told(await graph.aget_state({"configurable": {"thread_id": thread}})))

    async def _history(self, request: Request) -> Response:
        thread, body = await self._read(request)
        states = self._graph(self._threads[thread]).aget_state_history(
            {"configurable": {"thread_id": thread}},
            filter=body.get("metadata"),
            limit=body.get("limit", 10),
        )
        return _json([_told(state) async for state in states])

    async def _run(self, request: Request) -> Response:
        thread, body = await self._read(request)
        config, context = body.get("config") or {}, body.get("context")
        if _is_no_uuid(thread):
            return _refusal(400, "badly formed hexadecimal UUID string")
        if config.get("configurable") and context:
            return _refusal(400, "Cannot specify both configurable and context.")
        if (name := body["assistant_id"]) not in graphs.GRAPHS:
            return _refusal(422, f"Invalid assistant: '{name}'.")
        if thread in self.busy:
            return _refusal(409, "Thread is already running a task.")
        self._threads[thread] = name
        return StreamingResponse(
            self._events(self._graph(name), thread, body), media_type="text/event-stream"
        )

    async def _events(self, graph: Any, thread: str, body: Any) -> AsyncIterator[bytes]:
        yield _event("metadata", {"run_id": str(uuid.uuid4()), "attempt": 1})
        given = body.get("input")
        if (command := body.get("command")) is not None:
            given = Command(resume=command["resume"])
        configurable = {**(body.get("context") or {}), "thread_id": thread}
        if (checkpoint := body.get("checkpoint_id")) is not None:
            configurable["checkpoint_id"] = checkpoint
        metadata = (body.get("config") or {}).get("metadata") or {}
        config = {"configurable": configurable, "metadata": metadata}
        streamed = graph.astream(
            given, config, context=body.get("context"), stream_mode=["values", "updates"]
        )
        try:
            async for mode, data in streamed:
                if mode == "values" or "__interrupt__" in data:
                    yield _event(mode, data)
        except Exception as error:  # noqa: BLE001 - whatever a graph raises ends a run
            text = str(error) if isinstance(error, TOLD) else "An internal error occurred"
            yield _event("error", {"error": type(error).__name__, "message": text})


def _is_no_uuid(thread: str) -> bool:
    try:
        uuid.UUID(thread)
    except ValueError:
        return True
    return False


def _told(state: StateSnapshot) -> dict[str, Any]:
    tasks = [{"name": task.name, "interrupts": list(task.interrupts)} for task in state.tasks]
    checkpoint = (state.config or {}).get("configurable")
    return {
        "values": state.values,
        "next": list(state.next),
        "tasks": tasks,
        "metadata": state.metadata,
        "created_at": state.created_at,
        "checkpoint": checkpoint,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Interrupt):
        return {"value": value.value, "id": value.id, "response_schema": None}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.model_dump() if isinstance(value, BaseModel) else str(value)


def _json(body: Any) -> Response:
    return Response(json.dumps(body, default=_plain), media_type="application/json")


def _refusal(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail}, status_code=status)


def _event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, default=_plain)}\n\n".encode()
