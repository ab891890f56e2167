"""Inference on a real MLServer goes on through twenty updates, five of them broken."""

import asyncio
import time

import aiohttp
import pytest

from tests.e2e.real_pod import pod

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

CLIENTS = 4
CLIENT_SECONDS = 30
BROKEN = {3, 7, 8, 13, 19}
ASKED = {"inputs": [{"name": "asked", "shape": [1, 1], "datatype": "FP64", "data": [0.0]}]}


class Hammer:
    """Clients that ask one model without a pause and note every answer, every failure and every wait."""

    def __init__(self, url: str) -> None:
        self.failures: list[str] = []
        self.waits: list[float] = []
        self.answers: list[int] = []
        self._url = url
        self._stop = asyncio.Event()

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=CLIENT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._ask(session), name=f"client-{number}")

    def stop(self) -> None:
        self._stop.set()

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                async with session.post(self._url, json=ASKED) as response:
                    document = await response.json(content_type=None)
                    if response.status == 200:
                        self.answers.append(int(document["outputs"][0]["data"][0]))
                    else:
                        self.failures.append(f"{response.status}: {document}")
            except (aiohttp.ClientError, TimeoutError) as error:
                self.failures.append(repr(error))
            self.waits.append(time.monotonic() - began)

    def told(self) -> str:
        waits = sorted(self.waits)
        p50, p99 = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
        return (
            f"{len(waits)} requests of {CLIENTS} clients, {len(self.failures)} failed; "
            f"p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, longest stall {waits[-1] * 1000:.0f} ms"
        )


async def test_no_request_fails_through_twenty_updates_five_of_them_broken(tmp_path, capsys):
    async with pod(tmp_path, "mlserver", beside=False) as it:
        rig = it.rig
        it.want(m=0)
        await rig.settled("m", seconds=60)
        hammer = Hammer(f"{rig.server.url}/v2/models/m/infer")
        async with asyncio.TaskGroup() as group:
            hammering = group.create_task(hammer.run())
            good = 0
            for number in range(1, 21):
                if number in BROKEN:
                    it.broken("m", number)
                    await rig.agent.wait(lambda status: status.reason("m") == "LoadRejected", 30)
                else:
                    good = number
                    it.want(m=number)
                    await rig.settled("m", seconds=30)
                asked = len(hammer.answers)
                while len(hammer.answers) < asked + 2 * CLIENTS:
                    await asyncio.sleep(0.01)
                assert set(hammer.answers[asked + CLIENTS :]) == {good}
            hammer.stop()
            await hammering
        with capsys.disabled():
            print(f"\nzero downtime: {hammer.told()}")
        assert hammer.failures == []
        assert set(hammer.answers) == set(range(21)) - BROKEN
        assert await rig.agent.get("/healthz") == (200, "ok\n")
