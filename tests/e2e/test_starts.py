"""Server and agent started together, again and again: the server never ends because a folder is half there.

It loads every folder that it finds at its start and ends if one is bad, as KServe's Python server does.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import time

import pytest

from tests.e2e.real_pod import pod
from tests.e2e.rig import started
from tests.servers import real

LAYOUTS = pytest.mark.parametrize("beside", [False, True], ids=["drop-in", "store-beside"])
TIMES = [3, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
PARTS, PART_BYTES = 8, 1 << 20
RATE = PARTS * PART_BYTES * 2  # a large model takes half a second


async def begin(rig):
    rig.agent.launch()
    await rig.server.start(wait=False)


async def end(rig):
    """Kill both at once, as a node that fails does; return what the server ended with."""
    rig.agent.signal(signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # it ended by itself
        os.killpg(rig.server.pid, signal.SIGKILL)
    await rig.agent.ended()
    return await rig.server.ended()


async def together(rig, times, large, broken, *, soon):
    """Start both *times*; return the server's exit codes.

    In turn: a new version of a large model, ended at any moment; and beside it a model that is refused.
    """
    chance, codes = random.Random(times), []  # noqa: S311 - the same moments each time
    for number in range(times):
        wanted = {"large": large(number)}
        if number % 2:
            wanted["bad"] = broken(number)
        rig.want(**wanted)
        await begin(rig)
        if number % 2:
            await rig.agent.up(30)
            await rig.agent.wait(
                lambda status: status.done == {"large"} and status.reason("bad") == "LoadRejected", 60
            )
            assert rig.directories() == {"large"}
        else:
            await asyncio.sleep(chance.uniform(0, soon))  # the moment of the end is what is tried here
        codes.append(await end(rig))
    return codes


@LAYOUTS
@pytest.mark.parametrize("times", TIMES)
async def test_a_server_started_with_the_agent_never_ends_for_want_of_a_file(tmp_path, beside, times):
    source = tmp_path / "source"

    def large(number):
        folder, sums = source / f"large-{number}", []
        folder.mkdir(parents=True)
        for part in range(PARTS):
            content = random.Random(number * PARTS + part).randbytes(PART_BYTES)  # noqa: S311
            (folder / f"{part}").write_bytes(content)
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {part}\n")
        (folder / "SHA256SUMS").write_text("".join(sums))
        return f"file://{folder}"

    def broken(number):
        rig.put(f"bad-{number}", f"broken {number}")
        return f"bad-{number}"

    flags = {"allowed-roots": source, "bandwidth-limit": RATE}
    rest = {"server_flags": ["--load-seconds", "0.2"], "server": False, "agent": False}
    async with started(tmp_path, beside=beside, flags=flags, **rest) as rig:
        codes = await together(rig, times, large, broken, soon=2.0)
    assert codes == [-signal.SIGKILL] * times


MAKE_LARGE = """
import sys, joblib, numpy
joblib.dump(numpy.random.default_rng(int(sys.argv[2])).bytes(8 << 20), sys.argv[1])
"""


@pytest.mark.real
@pytest.mark.soak
@pytest.mark.timeout(3600)
@LAYOUTS
async def test_kserves_own_server_started_with_the_agent_never_ends_for_want_of_a_file(tmp_path, beside):
    python = real.environment("kserve") / "bin" / "python"
    times = int(os.environ.get("MODELAGENT_TEST_STARTS", "100"))
    async with pod(tmp_path, "kserve", beside=beside, begin=False, **{"bandwidth-limit": RATE}) as it:

        def large(number):
            folder = tmp_path / "source" / f"large-{number}"
            folder.mkdir(parents=True)
            subprocess.run([python, "-c", MAKE_LARGE, folder / "model.joblib", str(number)], check=True)
            return f"file://{folder}"

        began = time.monotonic()
        codes = await together(it.rig, times, large, lambda number: it.version("bad", None, number), soon=8.0)
        print(f"{times} starts in {time.monotonic() - began:.0f} s")
    assert codes == [-signal.SIGKILL] * times
