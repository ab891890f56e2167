"""Law 10 from outside: a secret planted in every place that one can come from shows in no output at all."""

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.core.trainedmodels import trained_model
from tests.e2e.agent_process import ROOT, until
from tests.e2e.rig import started
from tests.fakes.apiserver import ApiServer
from tests.fakes.cluster import inference_service, pod
from tests.fakes.collector import Collector
from tests.fakes.origin import Origin

PLACES = (
    "userinfo", "query", "fragment", "header", "awssecret", "awstoken", "proxy", "servertoken", "gcpkey",
    "rejecteduserinfo", "rejectedquery", "redirect", "echo", "redirecteduserinfo", "memory",
    "statustoken", "otelheader", "otelbroken", "profile", "hftoken", "azurekey", "azuresecret", "kubetoken",
)  # fmt: skip


def canary(place: str) -> str:
    """Return a secret that names the place it was planted in."""
    return f"c4n4ry{PLACES.index(place):02}q9x7z"


async def bounce(_: web.BaseRequest) -> web.StreamResponse:
    """Redirect to a signed URL that does not work."""
    where = f"http://user:{canary('redirecteduserinfo')}@127.0.0.1:9/x?X-Amz-Signature={canary('redirect')}"
    return web.Response(status=302, headers={"Location": where})


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    """Fail with a body that tells what was asked, as debugging gateways do."""
    said = f"Authorization: {request.headers.get('Authorization')}; api_key={canary('echo')}"
    return web.Response(status=500, text=said, reason="Bad")


async def deny(request: web.BaseRequest) -> web.StreamResponse:
    """The same, in words after which nobody tries again."""
    return web.Response(status=403, text=f"<Error><Message>{dict(request.headers)}</Message></Error>")


def environment(folder: Path) -> dict[str, str]:
    key = folder / "gcp.json"
    pem = f"-----BEGIN PRIVATE KEY-----\n{canary('gcpkey')}\n-----END PRIVATE KEY-----\n"
    key.write_text(
        json.dumps(
            {
                "type": "service_account", "client_email": "a@b.example", "private_key_id": "1",
                "token_uri": "http://127.0.0.1:9/token",
                "private_key": pem,
            }
        )
    )  # fmt: skip
    return {
        "127.0.0.1-headers": json.dumps({"Authorization": f"Bearer {canary('header')}"}),
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": canary("awssecret"),
        "AWS_SESSION_TOKEN": canary("awstoken"),
        "AWS_REGION": "eu-central-1",
        "GOOGLE_APPLICATION_CREDENTIALS": str(key),
        "HTTPS_PROXY": f"http://user:{canary('proxy')}@127.0.0.1:9",
        "HF_TOKEN": canary("hftoken"),
        "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=a;AccountKey={canary('azurekey')};EndpointSuffix=x",
        "AZURE_CLIENT_SECRET": canary("azuresecret"),
    }


def kubeconfig(folder: Path, url: str) -> Path:
    """Return a kubeconfig with a token of its own."""
    path = folder / "kubeconfig"
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": canary("kubetoken")}}],
    }
    path.write_text(json.dumps(config))
    return path


def documents(port: int) -> list[dict[str, object]]:
    secret = f"?X-Amz-Signature={canary('query')}&token={canary('query')}#{canary('fragment')}"
    uris = {
        "good": f"http://127.0.0.1:{port}/good{secret}",
        "missing": f"http://127.0.0.1:{port}/missing{secret}",
        "user": f"http://user:{canary('userinfo')}@127.0.0.1:{port}/good",
        "usermissing": f"http://user:{canary('userinfo')}@127.0.0.1:{port}/missing",
        "bounce": f"http://127.0.0.1:{port}/bounce",
        "echo": f"http://127.0.0.1:{port}/echo",
        "s3": "s3://bucket/key",
        "hf": "hf://owner/model",
        "azure": "abfs://container/model",
        "gs": "gs://bucket/key",
        "tunnel": "https://127.0.0.1:9/x",
        "rejected": f"https://user:{canary('rejecteduserinfo')}@/no host?sig={canary('rejectedquery')}",
        "scheme": f"what://user:{canary('userinfo')}@host/x?sig={canary('query')}",
    }
    entries = [
        {"modelName": name, "modelSpec": {"storageUri": uri, "framework": "sklearn", "memory": "1Mi"}}
        for name, uri in uris.items()
    ]
    entries[-1]["modelSpec"]["password"] = canary("memory")
    return entries


async def events(url: str, headers: dict[str, str]) -> str:
    """Return the first of /events, with all models in it."""
    async with aiohttp.ClientSession(headers=headers) as session, session.get(f"{url}/events") as answer:
        mark = re.search(r"id: (\w+)-", (await answer.content.readuntil(b"data: ")).decode())[1]
        async with session.get(f"{url}/events", headers={"Last-Event-ID": f"{mark}-0"}) as again:
            return (await again.content.readuntil(b"\n\n")).decode() + (
                await again.content.readuntil(b"\n\n")
            ).decode()


def command(*words: object, environ: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "agent", *map(str, words)],
        capture_output=True, text=True, cwd=ROOT, check=False, timeout=60,
        env=None if environ is None else {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ},
    )  # fmt: skip
    return done.stdout + done.stderr


async def watched(*words: object, until: str) -> str:
    """Return what a command that goes on prints on a terminal of its own, until it has said *until*."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", *map(str, words), stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT,
        env={"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "200", "LINES": "60"},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    try:
        async with asyncio.timeout(30):
            while until.encode() not in said:
                said += await asyncio.to_thread(os.read, ours, 65536)
    finally:
        process.kill()
        await process.wait()
        os.close(ours)
    return said.decode(errors="replace")  # it was stopped in the midst of a word


def leaks(outputs: dict[str, str]) -> set[tuple[str, str]]:
    assert all(outputs.values()), "an output that is empty proves nothing"
    return {(place, where) for where, text in outputs.items() for place in PLACES if canary(place) in text}


async def tried(rig, count: int) -> None:
    """Wait until each model is ready or has failed."""
    await rig.agent.wait(
        lambda status: "good" in status.done and len(status.names) >= count and all(
            each["reason"] is None or each["attempts"] for each in status["models"]
        ),
        60,
    )  # fmt: skip


@asynccontextmanager
async def planted(folder: Path):
    """Yield a rig in which a secret is wherever one can be, its API server and its collector."""
    for name in ("server", "status"):
        (folder / f"{name}-token").write_text(canary(f"{name}token"))
    flags = {
        "log-level": "debug", "log-format": "json", "events": "true",
        "server-token-file": folder / "server-token", "status-token-file": folder / "status-token",
    }  # fmt: skip
    async with ApiServer() as server, Collector().serving() as collector:
        headers = f"x-key={canary('otelheader')},broken {canary('otelbroken')}"
        environ = environment(folder) | collector.environ() | {
            "OTEL_EXPORTER_OTLP_HEADERS": headers, "KUBECONFIG": str(kubeconfig(folder, server.url)),
            "POD_NAME": "pod", "POD_NAMESPACE": "default", "POD_UID": "u",
        }  # fmt: skip
        async with started(folder, flags=flags, environ=environ, agent=False) as rig:
            rig.agent.headers = {"Authorization": f"Bearer {canary('statustoken')}"}
            rig.put("good", "good")
            rig.origin.scripts |= {"/bounce": bounce, "/echo": echo, "/api/models/owner/model": echo}
            origin = f"http://127.0.0.1:{rig.origin.port}"
            rig.agent.environ |= {"AWS_ENDPOINT_URL": origin, "HF_ENDPOINT": origin}
            await rig.agent.start()
            yield rig, server, collector


async def test_a_planted_secret_appears_in_no_output(tmp_path):
    async with planted(tmp_path) as (rig, server, collector):
        document = documents(rig.origin.port)
        rig.kubelet.models(document)
        await tried(rig, 11)
        received = json.dumps([vars(each) for each in rig.origin.received])
        for used in ("header", "query", "hftoken"):
            assert canary(used) in received, "the secrets were really used"
        assert any(canary("otelheader") in json.dumps(each) for each in collector.headers)
        agent = rig.agent
        outputs = {"log": agent.said(), "events": await events(agent.url, agent.headers)}
        for path in ("/", "/status", "/metrics", "/readyz?verbose", "/openapi.json"):
            outputs[path] = (await agent.get(path))[1]
        for name in [each["name"] for each in json.loads(outputs["/status"])["models"]]:
            outputs[name] = (await agent.get(f"/status/{name}"))[1]
        outputs["argv"] = Path(f"/proc/{agent.pid}/cmdline").read_text()  # noqa: ASYNC240 - a pseudo file
        path = tmp_path / "models.json"
        path.write_text(json.dumps(document))
        asked = ("--url", agent.url, "--token-file", tmp_path / "status-token")
        said = {
            "status": asyncio.to_thread(command, "status", *asked),
            "status --json": asyncio.to_thread(command, "status", "--json", *asked),
            "status NAME": asyncio.to_thread(command, "status", "missing", *asked),
            "plan": asyncio.to_thread(command, "plan", path, *asked),
            "status --watch": watched("status", "--watch", *asked, until="usermissing"),
            "refused": asyncio.to_thread(command, "status", "--url", agent.url),
        }
        outputs |= dict(zip(said, await asyncio.gather(*said.values()), strict=True))
        code, _ = await agent.terminate()
        outputs["log to its end"] = agent.said()
        outputs["traces"] = repr(collector.spans)
        outputs["events of the pod"] = json.dumps(server.objects("Event"))
    assert code == 0
    assert "NotFound" in outputs["/status"]
    assert "NotFound" in outputs["traces"]
    assert "NotFound" in outputs["events of the pod"]
    assert leaks(outputs) == set()


async def test_nor_in_anything_that_the_control_plane_says(tmp_path):
    async with planted(tmp_path) as (rig, server, _):
        server.put(inference_service())
        server.put(pod("pod", port=rig.agent.port))
        for entry in documents(rig.origin.port):
            if entry["modelName"] not in {"rejected", "scheme"}:
                server.put(trained_model(entry["modelName"], entry["modelSpec"]["storageUri"], "1Mi"))
        log = tmp_path / "controller.log"
        words = (
            "controller", "--kubeconfig", tmp_path / "kubeconfig",
            "--agent-token-file", tmp_path / "status-token",
            "--probe-host", "127.0.0.1", "--probe-port", "0", "--log-level", "debug",
        )  # fmt: skip
        with log.open("wb") as output:
            controller = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "agent", *map(str, words), stdout=output, stderr=output, cwd=ROOT
            )
        try:
            await until(lambda: server.get("ConfigMap", "modelconfig-p-0"), 30)
            written = ""
            while (now := server.get("ConfigMap", "modelconfig-p-0")["data"]["models.json"]) != written:
                written = now
                rig.mount(written)
                await tried(rig, min(written.count("modelName"), 11))
            named = {"echo", "missing", "usermissing", "bounce"}
            await until(lambda: named <= failing(server), 40, "the conditions of what failed")
            models = [each["status"] for each in server.objects("TrainedModel")]
            outputs = {"status": json.dumps(models), "events": json.dumps(server.objects("Event"))}
            controller.terminate()
            assert await controller.wait() == 0
        finally:
            if controller.returncode is None:
                controller.kill()
        outputs["log"] = log.read_text()
    assert {event["source"]["component"] for event in json.loads(outputs["events"])} == {
        "model-agent", "model-agent-controller"
    }  # fmt: skip
    assert leaks(outputs) == set()


def failing(server: ApiServer) -> set[str]:
    """Return the models that are said to be stalled by what their agent said."""
    return {
        each["metadata"]["name"]
        for each in server.objects("TrainedModel")
        for condition in (each.get("status") or {}).get("conditions", ())
        if condition["type"] == "Loaded" and condition["status"] == "False"
    }


async def test_nor_in_what_pull_says(tmp_path):
    profile = tmp_path / "aws"
    profile.write_text(f"[p]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = {canary('profile')}\n")
    async with Origin().serving() as origin:
        url = f"http://127.0.0.1:{origin.port}"
        origin.scripts |= {"/bounce": bounce, "/echo": echo, "/api/models/owner/model": deny}
        origin.scripts |= {"/bucket": deny, "/bucket/key": deny}
        environ = environment(tmp_path) | {"HF_ENDPOINT": url, "AWS_ENDPOINT_URL": url, "HOME": str(tmp_path)}
        aws = {"AWS_SHARED_CREDENTIALS_FILE": str(profile), "AWS_PROFILE": "p", "AWS_REGION": "eu-central-1"}
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            del environ[name]
        uris = (
            "s3://bucket/key", "hf://owner/model", f"{url}/bounce",
            f"http://user:{canary('userinfo')}@127.0.0.1:{origin.port}/echo?sig={canary('query')}",
        )  # fmt: skip
        said = await asyncio.gather(
            *(
                asyncio.to_thread(command, "pull", uri, tmp_path / f"to{number}", environ=environ | aws)
                for number, uri in enumerate(uris)
            )
        )
        outputs = {f"pull {number}": text for number, text in enumerate(said)}
        received = json.dumps([vars(each) for each in origin.received])
    assert "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE" in received, "the profile was really used"
    assert canary("hftoken") in received
    assert leaks(outputs) == set()
