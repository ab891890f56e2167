"""Law 10 from outside: a secret planted in every place that one can come from shows in no output at all."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.e2e.agent_process import ROOT
from tests.e2e.rig import started

PLACES = (
    "userinfo", "query", "fragment", "header", "awssecret", "awstoken", "proxy", "servertoken", "gcpkey",
    "rejecteduserinfo", "rejectedquery", "redirect", "echo", "redirecteduserinfo", "memory",
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
    }


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


async def events(url: str) -> str:
    """Return the first of /events, with all models in it."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/events") as answer:
        mark = re.search(r"id: (\w+)-", (await answer.content.readuntil(b"data: ")).decode())[1]
        async with session.get(f"{url}/events", headers={"Last-Event-ID": f"{mark}-0"}) as again:
            return (await again.content.readuntil(b"\n\n")).decode() + (
                await again.content.readuntil(b"\n\n")
            ).decode()


def command(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "agent", *words], capture_output=True, text=True, cwd=ROOT, check=False
    )
    return done.stdout + done.stderr


async def test_a_planted_secret_appears_in_no_output(tmp_path):
    token = tmp_path / "server-token"
    token.write_text(canary("servertoken"))
    flags = {"log-level": "debug", "log-format": "json", "server-token-file": token}
    async with started(tmp_path, flags=flags, environ=environment(tmp_path)) as rig:
        rig.put("good", "good")
        rig.origin.scripts |= {"/bounce": bounce, "/echo": echo}
        rig.agent.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{rig.origin.port}"
        await rig.agent.restart()
        document = documents(rig.origin.port)
        rig.kubelet.models(document)
        await rig.agent.wait(
            lambda status: "good" in status.done and all(
                each["reason"] is None or each["attempts"] for each in status["models"]
            ) and len(status.names) >= 9,
            60,
        )  # fmt: skip
        received = json.dumps([vars(each) for each in rig.origin.received])
        assert canary("header") in received, "the secrets were really used"
        assert canary("query") in received
        outputs = {"log": rig.agent.said(), "events": await events(rig.agent.url)}
        for path in ("/", "/status", "/metrics", "/readyz?verbose", "/openapi.json"):
            outputs[path] = (await rig.agent.get(path))[1]
        for name in [each["name"] for each in json.loads(outputs["/status"])["models"]]:
            outputs[name] = (await rig.agent.get(f"/status/{name}"))[1]
        outputs["argv"] = Path(f"/proc/{rig.agent.pid}/cmdline").read_text()  # noqa: ASYNC240 - a pseudo file
        path = tmp_path / "models.json"
        path.write_text(json.dumps(document))
        for words in (("status",), ("status", "--json"), ("status", "missing")):
            outputs[" ".join(words)] = await asyncio.to_thread(command, *words, "--url", rig.agent.url)
        outputs["plan"] = await asyncio.to_thread(command, "plan", str(path), "--url", rig.agent.url)
        code, _ = await rig.agent.terminate()
        outputs["log to its end"] = rig.agent.said()
    assert code == 0
    assert "NotFound" in outputs["/status"]
    leaks = {(place, where) for where, text in outputs.items() for place in PLACES if canary(place) in text}
    assert leaks == set()
