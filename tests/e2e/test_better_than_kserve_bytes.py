"""What KServe's agent gets wrong with archives, file names and redirects, and how it goes here.

The facts are those of kserve-contract §3; what concerns keys in buckets is in test_storage.py.
"""

import gzip
import io
import json
import tarfile
import zipfile

import pytest
from aiohttp import web

from tests.e2e.rig import started


def _tar(members: dict[str, bytes], *, links: dict[str, str] | None = None, mode: str = "w") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return made.getvalue()


def _zip(members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


MEMBERS = {"model.joblib": b"model", "deep/x..y": b"more"}
DOTTED = {"./": b"", **{f"./{name}": content for name, content in MEMBERS.items()}}
GOOD_ARCHIVES = {
    "a plain tar: gzip, invalid header": ("m.tar", _tar(MEMBERS)),
    "a tar with a leading dot: illegal file path": ("m.tgz", _tar(DOTTED, mode="w:gz")),
    "a zip said to be something else: not unpacked": ("m.zip", _zip(MEMBERS)),
    "a tar.gz said to be something else: not unpacked": ("m.tar.gz", _tar(MEMBERS, mode="w:gz")),
}


@pytest.mark.parametrize(("path", "raw"), GOOD_ARCHIVES.values(), ids=GOOD_ARCHIVES.keys())
async def test_archives_that_kserve_refuses_or_leaves_packed_are_unpacked(tmp_path, path, raw):
    async with started(tmp_path) as rig:
        rig.put(path, raw)
        rig.want(m=path)
        await rig.settled("m")
        folder = rig.model_dir / "m"
        files = {
            str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()
        }
        assert files == MEMBERS


async def test_an_archive_with_a_link_is_refused_whole(tmp_path):
    """KServe: links, devices and the like become empty files of the model."""
    async with started(tmp_path) as rig:
        rig.put("archive.tar", _tar({"model.joblib": b"x"}, links={"link": "/etc/passwd"}))
        rig.want(m="archive.tar")
        await rig.agent.wait(lambda status: status.reason("m") == "ArchiveRefused")
        assert rig.directories() == set()


async def test_a_lone_gz_file_is_a_file(tmp_path):
    """KServe: an error, where the server says gzip."""
    async with started(tmp_path) as rig:
        rig.put("weights.gz", gzip.compress(b"weights"))
        rig.want(m="weights.gz")
        await rig.settled("m")
        assert gzip.decompress((rig.model_dir / "m" / "weights.gz").read_bytes()) == b"weights"


async def test_a_url_that_ends_in_a_slash_never_becomes_a_file_in_place_of_the_folder(tmp_path):
    """KServe: the file is written as the model's folder itself."""
    async with started(tmp_path) as rig:
        rig.put("models/", "listing")
        rig.want(m="models/")
        await rig.settled("m")
        files = {each.name: each.read_text() for each in (rig.model_dir / "m").iterdir()}
        assert files == {"model": "listing"}


async def test_headers_for_one_host_do_not_follow_a_redirect_to_another(tmp_path):
    """KServe: custom headers are sent on to whoever is redirected to."""
    async with started(tmp_path, agent=False) as rig:
        rig.put("real", "one")
        rig.agent.environ["127.0.0.1-headers"] = json.dumps({"X-Api-Key": "s3cret-canary"})

        async def elsewhere(_: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": f"http://localhost:{rig.origin.port}/real"})

        rig.origin.scripts["/start"] = elsewhere
        rig.want(m="start")
        await rig.agent.start()
        await rig.settled("m")
        keys = {each.target: "x-api-key" in each.headers for each in rig.origin.received}
        assert keys == {"/start": True, "/real": False}
        assert "s3cret-canary" not in rig.agent.said() + json.dumps(await rig.agent.status())
