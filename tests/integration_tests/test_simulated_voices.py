"""Voice messages in the simulator: at every crash point of their turn."""

from __future__ import annotations

from asyncio import sleep
from collections import Counter
from typing import Any

import pytest

from langchain_convsync._flow import Flow, Io
from langchain_convsync.client._exchange import Answer
from langchain_convsync.turns import TurnRunner
from tests.chaos.script import Said, Talk
from tests.simulation.hub import Point
from tests.simulation.world import Plan, Report, Strike, World


class Spoken(Talk):
    """One whose messages are voices."""

    def event(self, said: Said, *, by_lid: bool = False) -> dict[str, Any]:
        """Its file's name is what it says, as far as that is spoken."""
        event = super().event(said, by_lid=by_lid)
        words = said.text.removesuffix("\n[audio]")
        url = f"http://localhost:3000/api/files/default/{words.encode().hex()}"
        return {**event, "text": "", "media": {"url": url, "mimetype": "audio/ogg"}}


class Voices:
    """A WAHA that keeps them."""

    def file(self, path: str, *, most: int, timeout: float) -> Flow[Answer]:
        """One of them."""
        del most, timeout
        voice = b"OggS" + bytes.fromhex(path.rpartition("/")[2])
        answer = Answer(status=200, headers={}, body=voice)
        return (yield from Io(lambda: answer, lambda: sleep(0, answer)))


class ListeningWorld(World):
    """A world whose processes listen."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.heard: Counter[bytes] = Counter()

    def _runner(self) -> TurnRunner:
        runner = super()._runner()
        media = runner._media
        media._waha, media.is_needed, media._transcribe = Voices(), True, self._hear
        return runner

    def _hear(self, voice: bytes, _mimetype: str) -> str:
        self.heard[voice] += 1
        return voice[4:].decode()


@pytest.mark.slow  # `test_transcriptions.py` kills a process between the hearing and the answer
def test_wherever_its_process_dies_a_voice_is_heard_once() -> None:
    """Unless it dies while it listens; in the history are its words, once and in order."""
    bursts = ((Said("evt_0", "Hola\n[audio]"), Said("evt_1", "Quiero dos\n[audio]")),)
    talk = Spoken(
        session_id="b1_1",
        subdomain="restaurant-abc",
        bot_id="b1",
        phone_number="+51999999999",
        lid="381234567890123@lid",
        bursts=bursts,
    )

    def ran(death: tuple[int, bool] | None) -> tuple[Report, int, str]:
        died = ""

        def strikes(point: Point) -> Strike | None:
            nonlocal died
            if death != (point.number, point.before):
                return None
            died = f"{'before' if point.before else 'after'} {point.step}"
            return "dies"

        told: dict[str, Any] = {"strikes": strikes, "runner": {"debounce": 1.0}, "processes": 1}
        world = ListeningWorld(Plan(talks=[talk], **told))
        return world.run(), max(world.heard.values()), died

    smooth, times, _ = ran(None)
    assert (smooth.wrong, times) == ("", 1)
    wrong, again = [], []
    for death in ((number, before) for number in range(smooth.steps) for before in (True, False)):
        report, times, died = ran(death)
        wrong += [f"{died}: {report.wrong}"] if report.wrong else []
        again += [died] if times > 1 else []

    assert wrong == []
    assert len(again) == 4  # after listening, and before that is kept, of each message
    assert all("after _within" in died or "end_call" in died for died in again)
