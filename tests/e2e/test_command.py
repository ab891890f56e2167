"""`model-agent run` as operators meet it: exit codes, mistakes, readiness."""

import asyncio
import json
import signal
import subprocess
import sys

import pytest

from tests.e2e.agent_process import ROOT, until
from tests.e2e.neighbours import Gate
from tests.e2e.rig import started
from tests.servers.real import free_ports


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command and wait for its end."""
    return subprocess.run(
        [sys.executable, "-m", "agent", *words],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def test_once_ends_with_0_when_all_is_ready(tmp_path):
    async with started(tmp_path, agent=False, flags={"once": "true"}) as rig:
        rig.put("one", "one")
        rig.want(a="one", b="one")
        rig.agent.launch()
        assert await rig.agent.ended() == 0
        assert (await rig.stats())["models"] == ["a", "b"]


async def test_once_ends_with_1_and_says_why(tmp_path):
    async with started(tmp_path, agent=False, flags={"once": "true", "memory-budget": "10Mi"}) as rig:
        rig.put("one", "one")
        rig.put("bad", "broken")
        rig.want(
            rig.entry("large", "one", memory="11Mi"),
            rig.entry("nameless", "one", memory="lots"),
            good="one",
            bad="bad",
            gone="nowhere",
        )
        rig.agent.launch()
        assert await rig.agent.ended() == 1
        said = rig.agent.said()
        for name in ("large", "nameless", "bad", "gone"):
            assert f"not done: {name}" in said
        assert "not done: good" not in said
        assert (await rig.stats())["models"] == ["good"]


@pytest.mark.parametrize(
    ("raw", "words"), [(b"[{", "not done: the document"), (None, "not done: the document")]
)
async def test_once_ends_with_1_for_a_document_that_is_bad_or_never_comes(tmp_path, raw, words):
    flags = {"once": "true", "timeout": "1s"}
    async with started(tmp_path, agent=False, server=False, mounted=False, flags=flags) as rig:
        if raw is not None:
            rig.mount(raw)
        rig.agent.launch()
        assert await rig.agent.ended() == 1
        assert words in rig.agent.said()


async def test_once_gives_up_when_its_time_is_over(tmp_path):
    async with started(tmp_path, agent=False, server=False, flags={"once": "true", "timeout": "1s"}) as rig:
        rig.put("one", "one")
        rig.want(a="one")
        rig.agent.launch()
        assert await rig.agent.ended() == 1
        assert "not done: a" in rig.agent.said()


def test_bad_flags_end_with_64_and_every_fault_is_named():
    ended = run(
        "run",
        "--memory-budget=lots",
        "--status-port=99999",
        "--model-dri=/x",
        "--update-policy=never",
        MODELAGENT_LOAD_TIMEOUT="soon",
        MODELAGENT_MODEL_DRI="/x",
    )
    assert ended.returncode == 64
    for word in (
        "--memory-budget",
        "'lots'",
        "--status-port",
        "--model-dri: there is no such flag; did you mean --model-dir?",
        "--update-policy",
        "MODELAGENT_LOAD_TIMEOUT",
        "MODELAGENT_MODEL_DRI: there is no such setting; did you mean MODELAGENT_MODEL_DIR?",
    ):
        assert word in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("words", [(), ("runn",), ("run", "now"), ("status", "a", "b")])
def test_other_mistakes_end_with_64_too(words):
    ended = run(*words)
    assert ended.returncode == 64
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("run", "--help")])
def test_help_and_version_end_with_0(words):
    assert run(*words).returncode == 0


async def test_a_port_in_use_is_said_with_no_traceback(tmp_path):
    async with started(tmp_path) as rig:
        ended = run("run", f"--status-port={rig.agent.port}", f"--model-dir={tmp_path / 'other'}")
        assert ended.returncode == 1
        assert str(rig.agent.port) in ended.stderr
        assert "in use" in ended.stderr
        assert "Traceback" not in ended.stderr


async def test_a_second_agent_on_one_volume_stands_by_until_the_first_ends(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.want(a="one")
        await rig.settled("a")
        (port,) = free_ports(1)
        second = type(rig.agent)(tmp_path, rig.agent.flags | {"status-port": port}, {})
        second.port, second.url, second.log = port, f"http://127.0.0.1:{port}", tmp_path / "second.log"
        try:
            await second.start()
            code, words = await second.get("/readyz?verbose")
            assert (code, words.split(":")[0]) == (503, "StoreInUse")
            second.signal(signal.SIGHUP)  # which ends no agent, whatever it waits for
            await until(lambda: "SIGHUP" in second.said())
            await rig.agent.terminate()
            await second.wait(lambda status: status.done == {"a"})
            assert await rig.loads() == 1
        finally:
            second.end()


async def test_ready_once_each_model_of_the_first_document_was_tried_once_and_then_for_good(tmp_path):
    async with started(tmp_path, mounted=False, flags={"memory-budget": "10Mi"}) as rig:
        rig.put("one", "one")
        rig.put("slow", b"x" * 100_000)
        gate = Gate(rig.origin, "slow")
        assert (await rig.agent.get("/readyz"))[0] == 503
        rig.want(rig.entry("waits", "one", memory="10Mi"), a="one", bad="nowhere", slow="slow")
        await gate.reached.wait()
        await rig.agent.wait(lambda status: status.done == {"a"} and status.reason("bad") == "NotFound")
        code, words = await rig.agent.get("/readyz?verbose")
        assert (code, words) == (503, "slow: Downloading\n")
        gate.opened.set()
        await rig.agent.wait(lambda status: "slow" in status.done)
        assert await rig.agent.get("/readyz") == (200, "ok\n")
        rig.want(later="nowhere")
        await rig.agent.wait(lambda status: status.reason("later") == "NotFound")
        rig.mount(b"[{")
        await rig.agent.wait(lambda status: status["config"]["error"])
        assert await rig.agent.get("/readyz") == (200, "ok\n")


async def test_ready_when_loaded_waits_for_each_of_the_first_document(tmp_path):
    async with started(tmp_path, mounted=False, flags={"ready-when": "loaded"}) as rig:
        rig.put("one", "one")
        rig.want(a="one", b="late")
        await rig.agent.wait(lambda status: status.done == {"a"} and status.reason("b") == "NotFound")
        assert (await rig.agent.get("/readyz?verbose")) == (503, "b: Failed\n")
        rig.put("late", "late")
        rig.want(a="one", b="late", c="one")
        rig.agent.signal(1)
        await rig.agent.wait(lambda status: "b" in status.done)
        assert (await rig.agent.get("/readyz"))[0] == 200


async def test_kserves_flags_are_taken(tmp_path):
    """What its injector writes, `--logger-tls-skip-verify false` as two words included."""
    async with started(tmp_path, agent=False) as rig:
        words = [
            "--enable-puller",
            "--log-url",
            "http://x",
            "--workers=3",
            "--logger-tls-skip-verify",
            "false",
        ]
        rig.agent.launch(*words)
        await rig.agent.up()
        await rig.settled()


async def test_the_status_command_shows_what_is_there(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.want(a="one")
        await rig.settled("a")
        good = await _status(rig)
        assert good.returncode == 0
        assert "a" in good.stdout
        assert json.loads((await _status(rig, "--json")).stdout)["apiVersion"] == "model-agent/v1"
        rig.want(a="one", b="nowhere")
        await rig.agent.wait(lambda status: status.reason("b") == "NotFound")
        bad = await _status(rig)
        assert (bad.returncode, "NotFound" in bad.stdout) == (1, True)
        await rig.agent.kill()
        assert (await _status(rig)).returncode == 2


async def _status(rig, *words: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(run, "status", f"--url={rig.agent.url}", *words, COLUMNS="200")
