"""`model-agent controller`, `webhook`, `validate` and `render`: exit codes, standard input, signals."""

import asyncio
import contextlib
import json
import signal
import socket
import ssl
import sys
from contextlib import asynccontextmanager

import aiohttp
import pytest
import trustme
import yaml

from agent.cli import main
from agent.webhook.server import PATH
from tests.core.trainedmodels import trained_model
from tests.fakes.cluster import Cluster, inference_service
from tests.servers.real import free_ports

GOOD = yaml.safe_dump(trained_model("m"))
BAD = yaml.safe_dump(trained_model("m", uri="hf://o/m", memory="0"))
LARGE = yaml.safe_dump_all(
    [
        trained_model("m", memory="2Gi"),
        inference_service(memory="1Gi"),
    ]
)


@asynccontextmanager
async def running(*words, **environ):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", *map(str, words),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nowhere", **environ},
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def run(*words, stdin="", **environ):
    """Run a command to its end; return exit code, output and errors."""
    async with running(*words, **environ) as process, asyncio.timeout(30):
        out, err = await process.communicate(stdin.encode())
        assert b"Traceback" not in err, err.decode()
        return process.returncode, out.decode(), err.decode()


async def ended(process, number):
    """Send a signal; return the exit code and what was written to standard error."""
    process.send_signal(number)
    async with asyncio.timeout(15):
        _, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()
    return process.returncode


@pytest.mark.parametrize(
    ("command", "text", "code", "told"),
    [
        ("validate", GOOD, 0, "1 checked, 0 with faults"),
        ("validate", BAD, 1, "document 1 (m): spec.model.storageUri: the Trained Model"),
        ("validate", "a: [", 1, "no YAML or JSON"),
        ("validate", None, 1, "No such file or directory"),
        ("render", GOOD, 0, "modelconfig-p-0"),
        ("render", BAD, 1, "document 1 (m): spec.model.memory: memory must be above 0"),
        ("render", LARGE, 1, "default/m: MemoryResourceNotAvailable: "),
        ("render", None, 1, "No such file or directory"),
    ],
)
def test_files_are_judged_by_exit_code_and_in_words(tmp_path, capsys, command, text, code, told):
    path = tmp_path / "file.yaml"
    if text is not None:
        path.write_text(text)
    assert main([command, "-f", str(path)]) == code
    assert told in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["validate"], "--filename"),
        (["validate", "-f", "-", "more"], "what is 'more'?"),
        (["render", "--isvc"], "--isvc"),
        (["controller", "--probe-port", "99999"], "--probe-port"),
        (["controller", "--nonsense"], "--nonsense"),
        (["webhook"], "--cert-dir"),
        (["webhook", "--cert-dir", "/nowhere", "--port", "-1"], "--port"),
    ],
)
def test_a_slip_on_the_command_line_is_told_with_64(capsys, words, told):
    assert main(words) == 64
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["controller"], "--kubeconfig"),
        (["controller", "--kubeconfig", "/nowhere"], "/nowhere"),
        (["controller", "--kubeconfig", "/"], "cannot start"),
        (["webhook", "--cert-dir", "/nowhere"], "/nowhere/tls.crt"),
    ],
)
async def test_what_keeps_a_service_from_starting_is_told_with_1(words, told):
    code, _, err = await run(*words)
    assert (code, told in err) == (1, True), err


async def test_what_render_prints_from_standard_input_is_what_validate_takes_there():
    code, out, err = await run("render", "-f", "-", stdin=GOOD)
    assert (code, err) == (0, "")
    assert await run("validate", "-f", "-", stdin=out) == (0, "1 checked, 0 with faults\n", "")


def kubeconfig(folder, url):
    path = folder / "config"
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "namespace": "default"}}],
        "clusters": [{"name": "k", "cluster": {"server": url}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_controller_works_until_it_is_told_to_stop_and_gives_its_lease_up(tmp_path, number):
    async with Cluster() as cluster:
        cluster.server.put(inference_service())
        cluster.server.put(trained_model("m"))
        path = kubeconfig(tmp_path, cluster.server.url)
        words = ("controller", "--probe-host", "127.0.0.1", "--probe-port", 0)
        async with running(*words, KUBECONFIG=str(path)) as process:
            await cluster.until(lambda: cluster.models() == ["m"])
            assert await ended(process, number) == 0
        assert cluster.server.get("Lease", "model-agent-controller")["spec"]["holderIdentity"] == ""


async def test_a_port_that_is_taken_is_told_in_words(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        write(tmp_path)
        config = kubeconfig(tmp_path, "http://127.0.0.1:1")
        controller = ("controller", "--kubeconfig", config, "--probe-host", "127.0.0.1", "--probe-port", port)
        webhook = ("webhook", "--cert-dir", tmp_path, "--host", "127.0.0.1", "--port", port)
        for words in (controller, webhook):
            code, _, err = await run(*words)
            assert (code, "cannot start" in err, "in use" in err) == (1, True, True), err


def write(folder):
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(str(folder / "tls.key"))
    (folder / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    return ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


async def test_the_webhook_answers_until_it_is_told_to_stop(tmp_path):
    context, (port,) = write(tmp_path), free_ports(1)
    request = {"uid": "u", "operation": "CREATE", "object": trained_model("m", uri="hf://o/m")}
    asked = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    words = ("webhook", "--cert-dir", tmp_path, "--host", "127.0.0.1", "--port", port)
    async with running(*words) as process, aiohttp.ClientSession() as session, asyncio.timeout(20):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.post(f"https://127.0.0.1:{port}{PATH}", json=asked, ssl=context) as answer:
                    assert json.loads(await answer.text())["response"]["allowed"] is False
                    break
            await asyncio.sleep(0.05)
        await session.close()
        assert await ended(process, signal.SIGTERM) == 0
