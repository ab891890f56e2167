"""The two processes of a pod: neither carries what only the other one needs, nor what nobody asked for."""

import asyncio
import json
import os
import subprocess
import sys

import aiohttp
import pytest
import trustme

from agent.web.proxy_start import probes_by_tls
from agent.web.proxy_words import DRAIN, READY
from tests.fakes.tls import server_tls
from tests.servers.real import free_ports
from tests.web.test_proxy_health import answering

PROBE = {"httpGet": {"path": "/ready", "port": 1, "scheme": "HTTPS"}, "timeoutSeconds": 5, "periodSeconds": 1}


def loaded(code, **environ):
    """What a process has imported after *code*."""
    told = "import sys; print(*(name for name, module in sys.modules.items() if module))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{told}"], env={**os.environ, **environ},
        stdout=subprocess.PIPE, check=True, timeout=30,
    )  # fmt: skip
    return set(done.stdout.decode().splitlines()[-1].split())


PROXY = """
import sys
from agent.web import proxy_start
sys.argv[1:] = ["--help"]
try:
    proxy_start.main()
except SystemExit:
    pass
"""


def test_the_proxys_process_carries_no_tls_and_no_agent_where_no_probe_is_over_https():
    """Nor what looks the version up: 15 ms and 2 MiB that every pod would pay."""
    modules = loaded(PROXY, SERVING_READINESS_PROBE='{"tcpSocket": {"port": 8080}}')
    assert "agent.web.proxy" in modules
    assert not modules & {"ssl", "_ssl", "aiohttp", "agent.app", "agent.cli", "importlib.metadata"}


def test_the_agents_process_carries_neither_the_proxy_nor_what_only_an_option_needs():
    modules = loaded("import agent.entrypoint")
    assert "agent.app" in modules
    assert not modules & {"agent.web.proxy", "agent.web.proxy_main", "agent.kube", "yaml", "boto3", "rich"}


@pytest.mark.parametrize("probe", [PROBE, [{"periodSeconds": 1}, PROBE]])
def test_any_probe_over_https_asks_for_tls(probe):
    assert probes_by_tls({"SERVING_READINESS_PROBE": json.dumps(probe)})
    assert not probes_by_tls({})
    assert not probes_by_tls({"SERVING_READINESS_PROBE": json.dumps(probe).replace("HTTPS", "HTTP")})


async def test_a_server_that_is_probed_over_https_becomes_ready_behind_the_proxy():
    async with answering(200, server_tls(trustme.CA(), "elsewhere.test")) as (component, seen):
        (port,) = free_ports(1)
        probe = {**PROBE, "httpGet": {**PROBE["httpGet"], "port": component, "host": "127.0.0.1"}}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent.web.proxy_start", "--port", str(port),
            "--component-port", str(component), "--quiet", "0", stdin=asyncio.subprocess.PIPE,
            env={**os.environ, "SERVING_READINESS_PROBE": json.dumps(probe)},
        )  # fmt: skip
        process.stdin.write(READY)
        try:
            assert await probed(f"http://127.0.0.1:{port}/") == 200
        finally:
            process.stdin.write(DRAIN)
            assert await process.wait() == 0
        assert seen


async def probed(url):
    """Ask as the kubelet does until the answer is 200."""
    headers = {"User-Agent": "kube-probe/1.33", "K-Network-Probe": "queue"}
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url, headers=headers) as answer:
                    if answer.status == 200:
                        return answer.status
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)
