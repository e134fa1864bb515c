"""WAHA, in memory: it sends whatever it is asked to, and tells of it as it likes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import httpx

from tests.chaos.oracle import Kept
from tests.chaos.script import Talk
from tests.simulation.hub import EPOCH, Simulation
from tests.simulation.servers import Call, Fault, Refusal, Server
from tests.simulation.whatsapp import WhatsApp

#: How our own message comes back by the webhook: not at all, soon, after a while, as a human's.
Echo: TypeAlias = Literal["none", "soon", "late", "as a colleague's"]
ECHOES: tuple[Echo, ...] = ("none", "soon", "late", "as a colleague's")
#: Seconds after which a late echo comes.
LATE = 40.0


class WahaServer(Server):
    """Sends texts, shows chats, knows no LIDs.

    Args:
        echo: How each message comes back.
        heard: What it tells by its webhook.
        whatsapp: What becomes of each send; None takes all of them.
    """

    name = "waha"

    def __init__(
        self,
        simulation: Simulation,
        goes_wrong: Callable[[Call], Fault | None],
        talks: Iterable[Talk],
        *,
        echo: Callable[[], Echo],
        heard: Callable[[dict[str, Any]], None],
        whatsapp: WhatsApp | None = None,
    ) -> None:
        super().__init__(simulation, goes_wrong)
        self._homes = {(talk.account, chat): talk for talk in talks for chat in talk.chats}
        self._chats: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._echo, self._heard = echo, heard
        self.whatsapp = whatsapp

    def _handle(self, request: httpx.Request) -> httpx.Response:
        answer = super()._handle(request)
        if self.whatsapp is not None and request.method == "POST" and answer.status_code >= 400:
            self.whatsapp.tell(json.loads(request.content)["session"], answer.text)
        return answer

    def answer(self, method: str, path: str, query: httpx.QueryParams, body: Any) -> Any:
        if self.whatsapp is not None:
            if (found := re.fullmatch(r"/api/sessions/([^/]+)/timelock", path)) is not None:
                return httpx.Response(200, json=self.whatsapp.timelock(found[1]))
            if method == "POST":
                talk = self._homes[body["session"], body["chatId"]]
                self.whatsapp.check(body["session"], talk.session_id)
        if (method, path) == ("POST", "/api/sendText"):
            return httpx.Response(201, json=self._send(**body))
        if (method, path) == ("POST", "/api/sendImage"):
            return httpx.Response(201, json=self._send_image(**body))
        if method == "GET" and (
            found := re.fullmatch(r"/api/([^/]+)/chats/([^/]+)/messages", path)
        ):
            chat = self._chats.get((found[1], found[2]), [])
            return httpx.Response(200, json=chat[::-1][: int(query["limit"])])
        if method == "GET" and "/lids/" in path:
            return httpx.Response(200, json={"lid": path.rpartition("/")[2], "pn": None})
        raise Refusal(404, "no such route")

    def _send_image(
        self,
        session: str,
        chatId: str,  # noqa: N803 - wire
        file: dict[str, str],
        caption: str = "",
    ) -> dict[str, Any]:
        return self._send(session, chatId, caption, is_file=bool(file))

    def _send(
        self,
        session: str,
        chatId: str,  # noqa: N803 - wire
        text: str,
        *,
        is_file: bool = False,
    ) -> dict[str, Any]:
        talk = self._homes[session, chatId]
        message = {
            "id": f"true_{chatId}_3EB0{len(self.kept):016X}",
            "timestamp": int(EPOCH.timestamp() + self.simulation.time),  # WhatsApp's own clock
            "fromMe": True,
            "source": "api",
            "to": chatId,
            "body": text,
            "hasMedia": is_file,
        }
        self._chats.setdefault((session, chatId), []).append(message)
        shown = f"{text} (a file)" if is_file else text
        self.simulation.note(f"waha: {talk.session_id} gets {shown}")
        self.kept.append(Kept(talk.session_id, "reply", shown))
        if (echo := self._echo()) != "none":
            self._tell(session, message, echo)
        return message

    def _tell(self, session: str, message: dict[str, Any], echo: Echo) -> None:
        source = "app" if echo == "as a colleague's" else "api"
        payload = {**message, "source": source}
        told = {"event": "message.any", "session": session, "payload": payload}

        def tell() -> None:
            self.simulation.rest(LATE if echo == "late" else 0.0)
            self._heard(told)

        self.simulation.begin(self.simulation.outside, tell, "waha: an echo")
