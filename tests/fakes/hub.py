"""A small Hugging Face hub: what it answers to who lists and reads one model repository, as recorded.

As the real one (real-counterparts §2.5, and its answers in public reports of 2025 and 2026): text files come
from its own `resolve-cache`, by a relative redirect; all others, from LFS or Xet, from a bridge on another
host, by a signed URL, with their sha256 told on the way.
"""

import hashlib
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import quote

from aiohttp import web

from tests.fakes.origin import Origin, Received

TAG = "c" * 40  # looks like a commit, as whoever pins one writes it
TEXT = (".json", ".txt", ".md", ".py")


@dataclass
class Bridge(Origin):
    """The host that large files come from: needs a signature, and wants to hear of no other credentials."""

    issued: set[str] = field(default_factory=set)
    refused: int = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, if it is signed."""
        if "Authorization" in request.headers:
            return web.Response(status=400, text="<Code>InvalidArgument</Code>")
        if request.path not in self.scripts and request.rel_url.query.get("Signature") not in self.issued:
            self.refused += 1
            return web.Response(status=403, text="<Code>AccessDenied</Code>")
        return await super().handle(request)

    def sign(self, path: str) -> str:
        signature = f"s1gn4ture{len(self.issued)}"
        self.issued.add(signature)
        return (
            f"{path}?X-Xet-Cas-Uid=public&Expires=1781098782&Policy=eyJT&Signature={signature}&Key-Pair-Id=K"
        )

    def _validators(self, path: str, content: bytes) -> dict[str, str]:
        return {"ETag": f'"{path[-32:]}"'}


@dataclass
class Hub(Origin):
    """Serves `owner/model`. `token` is needed where it is set; `away` is the bridge as others see it.

    `files` are by path in the repository; each state of them that was asked about is a commit, and stays.
    `owner/old` is its name of before, and leads to it.
    """

    token: str | None = None
    revisions: set[str] = field(default_factory=lambda: {"main", TAG, "refs/pr/1"})
    page: int = 1000
    bridge: Bridge = field(default_factory=Bridge)
    away: str | None = None
    digests: dict[bytes, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self) -> str:
        """Return the id of the present state."""
        state = repr(sorted((path, self.digest(content)) for path, content in self.files.items()))
        commit = hashlib.sha1(state.encode(), usedforsecurity=False).hexdigest()
        self.commits.setdefault(commit, dict(self.files))
        return commit

    def digest(self, content: bytes) -> str:
        """Return the sha256, found once: bytes remember their own hash."""
        if content not in self.digests:
            self.digests[content] = hashlib.sha256(content).hexdigest()
        return self.digests[content]

    def put(self, path: str, content: bytes) -> None:
        super().put(path, content)
        self.bridge.put(self._bridged(content), content)

    @asynccontextmanager
    async def serving(self, ssl_context=None):
        async with super().serving(ssl_context), self.bridge.serving(ssl_context):
            yield self

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.path in self.scripts:
            return await super().handle(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.method, request.raw_path, headers))
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401, headers={"X-Error-Code": "GatedRepo"})
        path = request.path
        if "/owner/old" in path:
            target = request.raw_path.replace("/owner/old", "/owner/model", 1)
            return web.Response(status=307, headers={"Location": target})
        if path.startswith("/api/models/owner/model"):
            return self._api(request, path.removeprefix("/api/models/owner/model").strip("/"))
        if path.startswith("/owner/model/resolve/"):
            return self._resolve(request, path.removeprefix("/owner/model/resolve/"))
        if path.startswith("/api/resolve-cache/models/owner/model/"):
            return self._cached(path.removeprefix("/api/resolve-cache/models/owner/model/"))
        return web.Response(status=404, headers={"X-Error-Code": "RepoNotFound"})

    def _at(self, rest: str) -> tuple[str, str] | None:
        """Split `revision/path`, whatever slashes are in the revision, into the commit and the path."""
        for revision in sorted({*self.revisions, *self.commits}):
            if f"{rest}/".startswith(f"{revision}/"):
                commit = revision if revision in self.commits else self.commit()
                return commit, rest.removeprefix(revision).strip("/")
        return None

    def _api(self, request: web.BaseRequest, rest: str) -> web.Response:
        kind, _, below = rest.partition("/")
        found = self._at(below) if kind else (self.commit(), "")
        if found is None:
            return web.Response(status=404, headers={"X-Error-Code": "RevisionNotFound"})
        commit, folder = found
        files = self.commits[commit]
        if kind != "tree":
            siblings = [{"rfilename": path} for path in files]
            return web.json_response({"_id": "1", "id": "owner/model", "sha": commit, "siblings": siblings})
        deep = request.rel_url.query.get("recursive") == "true"
        entries = self._entries(files, f"{folder}/" if folder else "", deep=deep)
        if not entries and folder:
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        start = int(request.rel_url.query.get("cursor", 0))
        headers = {}
        if start + self.page < len(entries):
            url = request.url.update_query(cursor=start + self.page).with_host("hub.invalid")
            headers["Link"] = f'<{url}>; rel="next"'
        return web.Response(
            text=json.dumps(entries[start : start + self.page]),
            content_type="application/json",
            headers=headers,
        )

    def _entries(self, files: dict[str, bytes], folder: str, *, deep: bool) -> list[dict[str, object]]:
        below = {path for path in files if path.startswith(folder)}
        names = {folder + path[len(folder) :].partition("/")[0] for path in below}
        return [self._entry(name, files.get(name)) for name in sorted(names | below if deep else names)]

    def _entry(self, path: str, content: bytes | None) -> dict[str, object]:
        if content is None:
            return {"type": "directory", "oid": "d" * 40, "size": 0, "path": path}
        entry = {"type": "file", "oid": git_id(content), "size": len(content), "path": path}
        if path.endswith(TEXT):
            return entry
        digest = self.digest(content)
        lfs = {"oid": digest, "size": len(content), "pointerSize": 130}
        return entry | {"oid": digest[:40], "lfs": lfs, "xetHash": digest[::-1]}

    def _resolve(self, request: web.BaseRequest, rest: str) -> web.Response:
        commit, path = self._at(rest) or (self.commit(), "")
        content = self.commits[commit].get(path)
        if content is None:
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        said = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if path.endswith(TEXT):
            where = (
                f"/api/resolve-cache/models/owner/model/{commit}/{quote(path)}?etag=%22{git_id(content)}%22"
            )
            return web.Response(status=307, headers=said | {"Location": where})
        origin = self.away or f"http://127.0.0.1:{self.bridge.port}"
        digest = self.digest(content)
        auth = f"http://127.0.0.1:{self.port}/api/models/owner/model/xet-read-token/{commit}"
        said |= {
            "Location": origin + self.bridge.sign(self._bridged(content)),
            "X-Linked-Size": str(len(content)),
            "X-Linked-Etag": f'"{digest}"',
            "X-Xet-Hash": digest[::-1],
            "Link": f'<{auth}>; rel="xet-auth"',
        }
        return web.Response(status=302, headers=said)

    def _cached(self, rest: str) -> web.Response:
        commit, path = self._at(rest) or ("", "")
        content = self.commits[commit][path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_id(content)}"'}
        return web.Response(body=content, headers=headers)

    def _bridged(self, content: bytes) -> str:
        return f"/xet-bridge-us/65c0e0a2/{self.digest(content)}"


def git_id(content: bytes) -> str:
    """Return git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
