"""A small Hugging Face hub: the calls that huggingface_hub makes to list and read one model repository."""

import hashlib
import json
from dataclasses import dataclass, field

from aiohttp import web

from tests.fakes.origin import Origin

COMMIT = "c" * 40


@dataclass
class Hub(Origin):
    """Serves `owner/model`; every file is an LFS one, with its sha256. `token` is needed where it is set.

    `files` are by path in the repository. `owner/old` is its name of before, and leads to it.
    """

    token: str | None = None
    revisions: set[str] = field(default_factory=lambda: {"main", COMMIT, "refs/pr/1"})
    page: int = 1000

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401, headers={"X-Error-Code": "GatedRepo"})
        path = request.path
        if "/owner/old" in path:
            target = request.raw_path.replace("/owner/old", "/owner/model", 1)
            return web.Response(status=307, headers={"Location": target})
        if path.startswith("/api/models/owner/model"):
            return self._api(request, path.removeprefix("/api/models/owner/model").strip("/"))
        if path.startswith("/owner/model/resolve/"):
            return await self._resolve(request, path.removeprefix("/owner/model/resolve/"))
        return web.Response(status=404, headers={"X-Error-Code": "RepoNotFound"})

    def _api(self, request: web.BaseRequest, rest: str) -> web.Response:
        kind, _, below = rest.partition("/")
        revision = next((r for r in sorted(self.revisions) if f"{below}/".startswith(f"{r}/")), None)
        if kind and revision is None:
            return web.Response(status=404, headers={"X-Error-Code": "RevisionNotFound"})
        if kind != "tree":
            siblings = [{"rfilename": path} for path in self.files]
            return web.json_response({"_id": "1", "id": "owner/model", "sha": COMMIT, "siblings": siblings})
        folder = below.removeprefix(revision or "").strip("/")
        entries = self._entries(f"{folder}/" if folder else "")
        if not entries and folder:
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        start = int(request.rel_url.query.get("cursor", 0))
        headers = {}
        if start + self.page < len(entries):
            url = f"http://127.0.0.1:{self.port}{request.path}?cursor={start + self.page}"
            headers["Link"] = f'<{url}>; rel="next"'
        return web.Response(
            text=json.dumps(entries[start : start + self.page]),
            content_type="application/json",
            headers=headers,
        )

    def _entries(self, folder: str) -> list[dict[str, object]]:
        below = {path: content for path, content in self.files.items() if path.startswith(folder)}
        names = sorted({folder + path[len(folder) :].partition("/")[0] for path in below})
        return [self._entry(name) for name in names]

    def _entry(self, path: str) -> dict[str, object]:
        content = self.files.get(path)
        if content is None:
            return {"type": "directory", "oid": "d" * 40, "size": 0, "path": path}
        digest = hashlib.sha256(content).hexdigest()
        lfs = {"oid": digest, "size": len(content), "pointerSize": 130}
        return {"type": "file", "oid": digest[:40], "size": len(content), "path": path, "lfs": lfs}

    async def _resolve(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        revision = next((r for r in sorted(self.revisions) if rest.startswith(f"{r}/")), "")
        path = rest.removeprefix(f"{revision}/")
        if path not in self.files:
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        response = await self.send(request, path)
        response.headers["X-Repo-Commit"] = COMMIT
        return response
