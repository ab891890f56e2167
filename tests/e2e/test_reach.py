"""What a storageUri may reach, tried from outside with the agent as a process (faults X1, X13)."""

import asyncio
import hashlib
import subprocess
import sys

from tests.e2e.agent_process import ROOT
from tests.e2e.rig import started


async def test_a_uri_to_a_refused_address_asks_nothing_there_and_takes_nothing_away(tmp_path):
    flags = {"deny-address": "metadata,127.0.0.0/8", "allowed-roots": tmp_path / "source"}
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "model").write_text("good")
    async with started(tmp_path, flags=flags) as rig:
        rig.put("secret", "secret")
        rig.want(a=f"file://{tmp_path}/source/model")
        await rig.settled("a")
        rig.want(a="secret", b=f"http://localhost:{rig.origin.port}/secret")
        status = await rig.agent.wait(
            lambda status: status.reason("a") == status.reason("b") == "ForbiddenAddress"
        )
        assert status.ready == {"a"}
        assert "--deny-address" in status.model("a")["message"]
        assert rig.origin.received == []


async def test_a_uri_under_no_allowed_prefix_is_refused_before_anything_is_asked(tmp_path):
    async with started(tmp_path, agent=False) as rig:
        rig.put("team-a/model", "mine")
        rig.put("team-b/model", "theirs")
        rig.agent.flags["allow-uri"] = rig.uri("team-a")
        await rig.agent.start()
        rig.want(a="team-a/model", b="team-b/model", c="team-a/../team-b/model")
        await rig.agent.wait(
            lambda status: status.done == {"a"} and status.reason("b") == status.reason("c") == "ForbiddenUri"
        )
        assert rig.asked(path="team-b/model") == 0


async def test_with_a_token_the_status_port_tells_strangers_nothing_and_the_command_works(tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cr3t-token")
    async with started(tmp_path, flags={"status-token-file": token}) as rig:
        assert (await rig.agent.get("/status"))[0] == 401
        assert (await rig.agent.get("/metrics"))[0] == 401
        assert (await rig.agent.get("/healthz"))[0] == 200
        command = [sys.executable, "-m", "agent", "status", "--json", "--url", rig.agent.url]
        done = await asyncio.to_thread(
            subprocess.run, [*command, "--token-file", token], capture_output=True, cwd=ROOT, check=False
        )
        assert b'"apiVersion"' in done.stdout
        assert "s3cr3t-token" not in rig.agent.said()


async def test_bytes_that_are_not_the_declared_ones_never_replace_what_serves(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("v1", "first")
        rig.put("v2", "second")
        good = rig.entry("m", "v1")
        good["modelSpec"]["sha256"] = hashlib.sha256(b"first").hexdigest()
        rig.want(good)
        await rig.settled("m")
        bad = rig.entry("m", "v2")
        bad["modelSpec"]["sha256"] = hashlib.sha256(b"not second").hexdigest()
        rig.want(bad)
        status = await rig.agent.wait(lambda status: status.reason("m") == "IntegrityMismatch")
        assert status.model("m")["ready"]
        await rig.serves("m", "first")
        bad["modelSpec"]["sha256"] = hashlib.sha256(b"second").hexdigest()
        rig.want(bad)
        await rig.settled("m")
        await rig.serves("m", "second")
        assert await rig.unloads() == 0
