"""OCI registries for tests: what a real one is sent, and a small one that asks for tokens.

The small one answers as the distribution project's token specification has it; its blobs may be on another
host, which wants to hear of no token.
"""

import base64
import hashlib
import io
import json
import tarfile
import urllib.request
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from tests.fakes.origin import Origin, Received

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TITLE = "org.opencontainers.image.title"
EMPTY = b"{}"
IMAGE = "application/vnd.oci.image.config.v1+json"
LOGIN = "reader:s3cret/pass"
SECRETS = (LOGIN, "s3cret", base64.b64encode(LOGIN.encode()).decode(), "t0ken", "s1gn")


def docker_config(folder: Path, host: str, **entry: str) -> dict[str, str]:
    """Write docker's config.json, by default with `LOGIN`; return the environment that names it."""
    file = folder / "config.json"
    file.write_text(json.dumps({"auths": {host: entry or {"auth": SECRETS[2]}}}))
    return {"KSERVE_OCI_DOCKER_CONFIG": str(file)}


def digest_of(content: bytes) -> str:
    """Return a blob's name."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def layer(content: bytes, title: str | None = None, kind: str = "application/octet-stream", **notes: str):
    """Return a descriptor."""
    annotations = ({TITLE: title} if title is not None else {}) | notes
    found = {"mediaType": kind, "digest": digest_of(content), "size": len(content)}
    return found | ({"annotations": annotations} if annotations else {})


def manifest(
    layers: list[object], config: str = "application/vnd.oci.empty.v1+json", **more: object
) -> bytes:
    """Return a manifest's bytes; its config is `EMPTY`."""
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": layer(EMPTY, kind=config)}
    return json.dumps(document | {"layers": layers} | more).encode()


def artifact(files: Mapping[str, bytes]) -> bytes:
    """Return the manifest of files, as `oras push` makes it."""
    return manifest([layer(content, title) for title, content in files.items()])


def packed(files: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    """Return a tar of files."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return raw.getvalue()


class Pushing:
    """Writes to a real registry of http; blocks."""

    def __init__(self, host: str) -> None:
        self.host = host

    def blob(self, repository: str, content: bytes) -> str:
        """Upload a blob in one piece."""
        _, headers = self._ask("POST", f"http://{self.host}/v2/{repository}/blobs/uploads/", b"")
        joint = "&" if "?" in headers["Location"] else "?"
        digest = digest_of(content)
        self._ask("PUT", f"{headers['Location']}{joint}digest={digest}", content)
        return digest

    def manifest(self, repository: str, tag: str, raw: bytes, kind: str = MANIFEST) -> str:
        """Give a manifest a tag."""
        self._ask("PUT", f"http://{self.host}/v2/{repository}/manifests/{tag}", raw, kind)
        return digest_of(raw)

    def artifact(self, repository: str, files: Mapping[str, bytes], tag: str = "latest") -> str:
        """Push files, as `oras push` does."""
        for content in (EMPTY, *files.values()):
            self.blob(repository, content)
        return self.manifest(repository, tag, artifact(files))

    def remove(self, repository: str, digest: str, kind: str = "manifests") -> None:
        """Delete a manifest or a blob."""
        self._ask("DELETE", f"http://{self.host}/v2/{repository}/{kind}/{digest}", None)

    def _ask(self, method: str, url: str, body: bytes | None, kind: str = "application/octet-stream"):
        request = urllib.request.Request(url, body, {"Content-Type": kind}, method=method)
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers


class Elsewhere(Origin):
    """Where blobs are, by signed URL; a token is an error there."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if "Authorization" in request.headers:
            return web.Response(status=400)
        return await super().handle(request)


@dataclass
class Registry(Origin):
    """Lets in who shows a token of `valid`, or by Basic where `basic`; tokens are for whom `login` names.

    `away`: the origin that blobs are redirected to. `realm` stands in the place of the true one.
    """

    login: str | None = LOGIN
    refresh: str | None = None
    basic: bool = False
    seconds: int | None = 300
    realm: str | None = None
    valid: set[str] = field(default_factory=set)
    issued: int = 0
    away: str | None = None
    elsewhere: Elsewhere = field(default_factory=Elsewhere)
    kinds: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """How a URI names it."""
        return f"127.0.0.1:{self.port}"

    @asynccontextmanager
    async def serving(self, ssl_context=None):
        async with super().serving(ssl_context), self.elsewhere.serving(ssl_context):
            yield self

    def push(self, repository: str, files: Mapping[str, bytes], tag: str = "latest") -> str:
        """Push files, as `oras push` does."""
        for content in files.values():
            self.blob(repository, content)
        return self.manifest(repository, tag, artifact(files))

    def blob(self, repository: str, content: bytes) -> None:
        """Hold a blob."""
        path = f"/v2/{repository}/blobs/{digest_of(content)}"
        self.put(path, content)
        self.elsewhere.put(path, content)

    def manifest(self, repository: str, tag: str, raw: bytes, kind: str = MANIFEST) -> str:
        """Give a manifest a tag."""
        for name in (tag, digest_of(raw)):
            self.put(f"/v2/{repository}/manifests/{name}", raw)
            self.kinds[f"/v2/{repository}/manifests/{name}"] = kind
        return digest_of(raw)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.path in self.scripts:
            return await super().handle(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.method, request.raw_path, headers))
        given = headers.get("authorization", "")
        if request.path == "/token":
            return await self._token(request, given)
        if given not in ({self._basic()} if self.basic else {f"Bearer {token}" for token in self.valid}):
            return web.Response(status=401, headers={"WWW-Authenticate": self._challenge(request.path)})
        if request.path in self.kinds:
            body = self.files[request.path]
            told = {"Content-Type": self.kinds[request.path], "Docker-Content-Digest": digest_of(body)}
            return web.Response(body=body, headers=told)
        if self.away and request.path in self.files:
            return web.Response(status=307, headers={"Location": f"{self.away}{request.path}?Signature=s1gn"})
        return await self.send(request, request.path)

    def _challenge(self, path: str) -> str:
        if self.basic:
            return 'Basic realm="the registry"'
        realm = self.realm or f"http://127.0.0.1:{self.port}/token?a=b"
        repository = path.removeprefix("/v2/").rpartition("/")[0].rpartition("/")[0]
        return f'Bearer realm="{realm}",service="the registry",scope="repository:{repository}:pull"'

    def _basic(self) -> str:
        return f"Basic {base64.b64encode((self.login or '').encode()).decode()}"

    async def _token(self, request: web.BaseRequest, given: str) -> web.Response:
        if request.method == "POST":
            body = (await request.read()).decode()
            if self.refresh is None or f"refresh_token={self.refresh}" not in body.split("&"):
                return web.Response(status=401)
        elif self.login and given != self._basic():
            return web.Response(status=401)
        self.issued += 1
        token = f"t0ken{self.issued}"
        self.valid.add(token)
        seconds = {} if self.seconds is None else {"expires_in": self.seconds}
        return web.json_response({"token": token, **seconds})
