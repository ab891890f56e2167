"""FileProvider: the contract, and confinement to the allowed roots."""

import os
import socket
import stat
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.file import FileProvider, local_path
from tests.contracts.storage import CONTENT, FolderContract, files, read


class FileTree:
    """Files below a folder, replaced by rename as a careful writer does."""

    def __init__(self, root: Path, scheme: str = "file://") -> None:
        self._root = root
        self._scheme = scheme

    async def put(self, path: str, content: bytes) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._root.parent / "fresh"
        fresh.write_bytes(content)
        fresh.rename(target)

    async def remove(self, path: str) -> None:
        (self._root / path).unlink()

    def uri(self, path: str = "") -> str:
        return f"{self._scheme}{self._root / path}"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
async def provider(root, tmp_path):
    provider = FileProvider([root], pvc_root=tmp_path / "pvc")
    yield provider
    await provider.close()


class TestFileUri(FolderContract):
    hostile = ("back\\slash", "new\nline")

    @pytest.fixture
    def tree(self, root):
        return FileTree(root)


class TestAbsolutePath(FolderContract):
    @pytest.fixture
    def tree(self, root):
        return FileTree(root, scheme="")


class TestClaim(FolderContract):
    @pytest.fixture
    def tree(self, tmp_path):
        class ClaimTree(FileTree):
            def uri(self, path: str = "") -> str:
                return f"pvc://claim-1/{path}" if path else "pvc://claim-1"

        (tmp_path / "pvc/claim-1").mkdir(parents=True)
        return ClaimTree(tmp_path / "pvc/claim-1")


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def refusal(provider: FileProvider, uri: object) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await provider.resolve(str(uri))
    return caught.value


@pytest.fixture
def outside(tmp_path):
    secret = tmp_path / "outside"
    secret.mkdir()
    (secret / "secret").write_bytes(b"secret")
    return secret


async def test_a_path_beside_the_roots_is_forbidden_and_the_roots_are_named(provider, root, outside):
    for uri in (outside, f"file://{outside}/secret", "/etc/passwd", f"{root}2/x"):
        error = await refusal(provider, uri)
        assert error.reason is Reason.FORBIDDEN_PATH
        assert str(root) in error.message


@pytest.mark.parametrize(
    "uri", ["{root}/../outside", "file://{root}/a/../../outside", "pvc://claim/../../outside"]
)
async def test_dots_do_not_lead_out(provider, root, outside, uri):
    assert (await refusal(provider, uri.format(root=root))).reason is Reason.FORBIDDEN_PATH


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("m/file", "{outside}/secret"),
        ("m/file", "../../outside/secret"),
        ("m/file", "sub/../../../outside/secret"),
        ("m/chain", "hop"),
        ("m/passwd", "/etc/passwd"),
        ("m/folder", "{outside}"),
    ],
)
async def test_a_link_out_of_the_root_refuses_the_whole_listing(provider, root, outside, link, target):
    (root / "m/sub").mkdir(parents=True)
    (root / "m/good.bin").write_bytes(b"x")
    (root / "m/hop").symlink_to(outside / "secret")
    (root / link).symlink_to(target.format(outside=outside))
    for uri in (root / "m", root / link, f"{root}/{link}/secret"):
        assert (await refusal(provider, uri)).reason is Reason.FORBIDDEN_PATH


async def test_links_that_stay_inside_are_files_and_links_on_the_way_are_followed(provider, root):
    (root / "blobs").mkdir()
    (root / "blobs/abc").write_bytes(CONTENT)
    (root / "v3/deep").mkdir(parents=True)
    (root / "v3/model.bin").symlink_to("../blobs/abc")
    (root / "v3/deep/absolute.bin").symlink_to(root / "v3/model.bin")
    (root / "current").symlink_to("v3")
    listing = await provider.resolve(f"file://{root}/current")
    assert files(listing) == {"model.bin": len(CONTENT), "deep/absolute.bin": len(CONTENT)}
    for obj in listing.objects:
        assert await read(provider, obj, 10, 20) == CONTENT[10:20]
    assert (await provider.resolve(f"{root}/v3/model.bin")).single


async def test_a_link_to_a_folder_inside_a_folder_is_refused(provider, root):
    (root / "m/data").mkdir(parents=True)
    (root / "m/data/x").write_bytes(b"x")
    (root / "m/again").symlink_to("data")
    error = await refusal(provider, root / "m")
    assert error.reason is Reason.FORBIDDEN_PATH
    assert "again" in error.message


async def test_links_in_a_circle_are_refused(provider, root):
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    assert (await refusal(provider, root / "a")).reason is Reason.FORBIDDEN_PATH


async def test_a_dangling_link_is_not_found(provider, root):
    (root / "m").mkdir()
    (root / "m/gone").symlink_to("nowhere")
    assert (await refusal(provider, root / "m")).reason is Reason.NOT_FOUND


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
async def test_what_is_no_regular_file_is_refused_without_opening_it(provider, root, kind):
    (root / "m").mkdir()
    odd = root / "m/odd"
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "device":
        try:
            os.mknod(odd, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("making a device needs root")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(odd))
    for uri in (root / "m", odd):
        error = await refusal(provider, uri)
        assert error.reason is Reason.FORBIDDEN_PATH
        assert "regular" in error.message


async def test_a_file_replaced_by_a_fifo_or_a_link_does_not_hang_and_does_not_lead_out(
    provider, root, outside
):
    (root / "model").write_bytes(b"x")
    obj = (await provider.resolve(f"{root}/model")).objects[0]
    (root / "model").unlink()
    os.mkfifo(root / "model")
    with pytest.raises(TerminalError, match="fifo"):
        await read(provider, obj)
    (root / "model").unlink()
    (root / "model").symlink_to(outside / "secret")
    with pytest.raises(TerminalError) as caught:
        await read(provider, obj)
    assert caught.value.reason is Reason.FORBIDDEN_PATH


async def test_a_forged_key_reads_nothing_outside(provider, root, outside):
    (root / "model").write_bytes(b"x")
    obj = (await provider.resolve(f"{root}/model")).objects[0]
    with pytest.raises(TerminalError) as caught:
        await read(provider, replace(obj, key=str(outside / "secret")))
    assert caught.value.reason is Reason.FORBIDDEN_PATH


async def test_a_write_in_place_right_after_the_listing_is_another_identity(provider, root):
    model = root / "model"
    model.write_bytes(b"one")
    for number in range(10):
        obj = (await provider.resolve(str(model))).objects[0]
        with model.open("r+b") as file:
            file.write(b"%03d" % number)
        with pytest.raises(RetryableError) as caught:
            await read(provider, obj)
        assert caught.value.reason is Reason.SNAPSHOT_CHANGED


async def test_an_empty_folder_is_not_found_and_lost_and_found_is_no_file(provider, root):
    (root / "m/lost+found").mkdir(parents=True)
    (root / "m/lost+found/x").write_bytes(b"x")
    assert (await refusal(provider, root / "m")).reason is Reason.NOT_FOUND


async def test_a_root_that_is_a_link_is_known_by_both_its_names(tmp_path, root):
    (root / "x").write_bytes(b"x")
    (tmp_path / "alias").symlink_to("root")
    provider = FileProvider([tmp_path / "alias"])
    assert (await provider.resolve(f"{tmp_path}/alias/x")).single
    assert (await provider.resolve(f"{root}/x")).single
    await provider.close()


async def test_a_root_that_is_not_mounted_yet_is_not_found(tmp_path):
    provider = FileProvider([tmp_path / "later"])
    assert (await refusal(provider, tmp_path / "later/m")).reason is Reason.NOT_FOUND
    await provider.close()


def test_a_folder_the_agent_may_not_read_is_access_denied(root):
    provider = FileProvider([root])
    if os.geteuid() != 0:
        pytest.skip("needs to become another user")
    (root / "m").mkdir(mode=0o700)
    for parent in (root, *root.parents[:-2]):
        parent.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(TerminalError) as caught:
            provider._resolve(str(root / "m"))
    finally:
        os.seteuid(0)
    assert caught.value.reason is Reason.ACCESS_DENIED


async def test_a_tree_that_is_too_deep_is_refused_with_few_descriptors(provider, root):
    (root / "/".join(["d"] * 40)).mkdir(parents=True)
    error = await refusal(provider, root)
    assert error.reason is Reason.INVALID_OBJECT_KEY


async def test_no_descriptor_is_left_open(provider, root):
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/x").write_bytes(b"x")
    (root / "a/link").symlink_to("b/x")
    await provider.resolve(str(root))
    before = open_descriptors()
    for _ in range(20):
        listing = await provider.resolve(str(root))
        for obj in listing.objects:
            await read(provider, obj)
        await refusal(provider, root / "none")
    assert open_descriptors() == before


@given(st.text(alphabet=st.sampled_from("ab./~%?#é\\ ")))
def test_a_path_is_absolute_and_has_no_dots_or_it_is_refused(text):
    for uri in (f"/{text}", f"file:///{text}", f"pvc://claim/{text}", f"pvc://{text}", f"file://{text}"):
        try:
            path = local_path(uri)
        except TerminalError:
            continue
        assert path.is_absolute()
        assert ".." not in path.parts
        assert uri.startswith(("/", "file")) or path.is_relative_to("/mnt/pvc")
        assert len(path.parts) > 2 or not uri.startswith("pvc")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/mnt/models/a", "/mnt/models/a"),
        ("file:///mnt//models/./a/", "/mnt/models/a"),
        ("file://localhost/mnt/a", "/mnt/a"),
        ("FILE:///mnt/a%20b", "/mnt/a%20b"),
        ("pvc://claim", "/mnt/pvc/claim"),
        ("pvc://claim/a/b?c#d", "/mnt/pvc/claim/a/b?c#d"),
    ],
)
def test_paths_are_those_of_kserve(uri, path):
    assert local_path(uri) == PurePosixPath(path)


@pytest.mark.parametrize(
    "uri", ["file://host/a", "file://", "pvc://", "pvc:///a", "pvc://./a", "/a\0b", "/\ud800", "s3://b/a"]
)
def test_what_is_no_local_uri_is_refused(uri):
    with pytest.raises(TerminalError) as caught:
        local_path(uri)
    assert caught.value.reason is Reason.INVALID_STORAGE_URI
