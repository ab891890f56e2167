"""FsspecProvider: the contract on two filesystems, and what is refused."""

import asyncio
import socket
import threading
import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.fsspec_files import (
    OURS,
    REFUSED,
    base_of,
    checked_scheme,
    validator_of,
)
from agent.storage.fsspec_provider import FsspecProvider
from tests.contracts.storage import CONTENT, FolderContract, assert_hidden, files, one, read


@pytest.fixture
async def provider():
    provider = FsspecProvider()
    yield provider
    await provider.close()


class MemoryTree:
    def __init__(self) -> None:
        self._files = fsspec.filesystem("memory")
        self._base = f"/{uuid.uuid4().hex}"

    async def put(self, path: str, content: bytes) -> None:
        self._files.pipe_file(f"{self._base}/{path}", content)

    async def remove(self, path: str) -> None:
        self._files.rm_file(f"{self._base}/{path}")

    def uri(self, path: str = "") -> str:
        return f"memory:/{self._base}/{path}".rstrip("/")


@pytest.fixture
def memory():
    tree = MemoryTree()
    yield tree
    tree._files.rm(tree._base, recursive=True) if tree._files.exists(tree._base) else None


class TestMemory(FolderContract):
    hostile = ("back\\slash", "new\nline")

    @pytest.fixture
    def tree(self, memory):
        return memory


# --- what is refused


@pytest.mark.parametrize("scheme", sorted(REFUSED | OURS))
async def test_local_and_wrapping_schemes_are_refused(provider, scheme):
    with pytest.raises(TerminalError) as caught:
        await provider.resolve(f"{scheme}:///etc/passwd")
    assert caught.value.reason is Reason.UNSUPPORTED_SCHEME


@pytest.mark.parametrize(
    "uri",
    [
        "simplecache::file:///etc/passwd",
        "sftp://a/b::file:///etc/passwd",
        "memory::file:///x",
        "memory://x::y",
        "sftp",
    ],
)
async def test_chains_of_filesystems_are_refused(provider, uri):
    with pytest.raises(TerminalError) as caught:
        await provider.resolve(uri)
    assert caught.value.reason is Reason.INVALID_STORAGE_URI


async def test_an_unknown_scheme_says_what_is_supported(provider):
    with pytest.raises(TerminalError) as caught:
        await provider.resolve("nosuch://x/y")
    assert caught.value.reason is Reason.UNSUPPORTED_SCHEME
    assert "s3" in caught.value.message


async def test_a_package_that_is_not_installed_is_named(provider):
    with pytest.raises(TerminalError, match="install fsspec's package for smb") as caught:
        await provider.resolve("smb://u:CANARY@h/p")
    assert caught.value.reason is Reason.MISSING_DEPENDENCY
    assert_hidden(["CANARY"], [caught.value])


async def test_a_registered_filesystem_that_is_local_is_refused_under_any_name(provider):
    from fsspec.implementations.local import LocalFileSystem  # noqa: PLC0415 - the very thing refused

    fsspec.register_implementation("disguised", LocalFileSystem)
    try:
        with pytest.raises(TerminalError) as caught:
            await provider.resolve("disguised:///etc")
    finally:
        fsspec.registry._registry.pop("disguised") if hasattr(fsspec.registry, "_registry") else None
    assert caught.value.reason is Reason.UNSUPPORTED_SCHEME


# --- filesystems that misbehave


class Odd(MemoryFileSystem):
    """A filesystem that can be told to misbehave."""

    protocol = "odd"
    failure: BaseException | None = None
    extra: list[dict[str, object]] = []  # noqa: RUF012 - set by each test, on a subclass of its own
    ignores_ranges = False

    def ls(self, path, detail=True, **kwargs):
        if self.failure:
            raise self.failure
        return [*super().ls(path, detail=detail, **kwargs), *self.extra]

    def cat_file(self, path, start=None, end=None, **kwargs):
        if self.ignores_ranges:
            start = end = None
        return super().cat_file(path, start, end, **kwargs)

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("odd://", "memory://"))


@pytest.fixture
def odd(memory):
    kind = type("OddHere", (Odd,), {})
    fsspec.register_implementation("odd", kind, clobber=True)
    kind.base = memory.uri("m").replace("memory://", "odd://")
    return kind


class RefusedError(Exception):
    """As a library raises it."""

    def __init__(self, status: int) -> None:
        super().__init__("the token CANARY is wrong")
        self.status_code = status


@pytest.mark.parametrize(
    ("failure", "kind", "reason"),
    [
        (PermissionError("CANARY"), TerminalError, Reason.ACCESS_DENIED),
        (TimeoutError("CANARY"), RetryableError, Reason.STORAGE_TIMEOUT),
        (ConnectionRefusedError(111, "CANARY"), RetryableError, Reason.STORAGE_UNAVAILABLE),
        (socket.gaierror(-2, "CANARY"), RetryableError, Reason.STORAGE_UNAVAILABLE),
        (OSError(24, "CANARY"), RetryableError, Reason.RESOURCE_EXHAUSTED),
        (ImportError("CANARY"), TerminalError, Reason.MISSING_DEPENDENCY),
        (RefusedError(403), TerminalError, Reason.ACCESS_DENIED),
        (RefusedError(429), RetryableError, Reason.STORAGE_THROTTLED),
        (RuntimeError("CANARY"), RetryableError, Reason.STORAGE_ERROR),
        (FileNotFoundError("CANARY"), TerminalError, Reason.NOT_FOUND),
    ],
)
async def test_what_a_library_raises_is_translated_and_not_quoted(
    provider, memory, odd, failure, kind, reason
):
    await memory.put("m/x", b"x")
    odd.failure = failure
    with pytest.raises(AgentError) as caught:
        await provider.resolve(odd.base)
    assert (type(caught.value), caught.value.reason) == (kind, reason)
    assert_hidden(["CANARY"], [caught.value])


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "/elsewhere/x", "type": "file", "size": 1},
        {"name": "{root}/../../etc/passwd", "type": "file", "size": 1},
        {"name": "{root}/link", "type": "link", "size": 1},
        {"name": "{root}0/x", "type": "file", "size": 1},
    ],
)
async def test_a_listing_with_a_name_beside_the_folder_or_of_another_kind_is_refused(
    provider, memory, odd, entry
):
    await memory.put("m/x", b"x")
    odd.extra = [entry | {"name": entry["name"].format(root=memory.uri("m").removeprefix("memory:/"))}]
    with pytest.raises(TerminalError) as caught:
        await provider.resolve(odd.base)
    assert caught.value.reason is Reason.INVALID_OBJECT_KEY


async def test_placeholders_of_folders_are_no_files_and_a_file_without_version_is_not_pinned(
    provider, memory, odd
):
    await memory.put("m/x", b"x")
    root = memory.uri("m").removeprefix("memory:/")
    odd.extra = [
        {"name": root + "/", "type": "file", "size": 0},
        {"name": root + "/empty/", "type": "file", "size": 0},
        {"name": root + "/bare", "type": "file", "size": None},
    ]
    listing = await provider.resolve(odd.base)
    assert files(listing) == {"bare": None, "x": 1}
    assert [obj.pinned for obj in listing.objects] == [False, True]


async def test_a_filesystem_that_ignores_ranges_is_found_out(provider, memory, odd):
    await memory.put("m/x", CONTENT)
    odd.ignores_ranges = True
    obj = (await provider.resolve(odd.base)).objects[0]
    with pytest.raises(TerminalError) as caught:
        await read(provider, obj, 10, 20)
    assert caught.value.reason is Reason.INTEGRITY_MISMATCH


async def test_a_uri_with_a_password_keeps_it_out_of_key_and_identity(provider, memory, odd):
    await memory.put("m/x", CONTENT)
    path = memory.uri("m/x").removeprefix("memory://")
    odd._strip_protocol = classmethod(
        lambda cls, uri: "/" + uri.rpartition("@")[2].removeprefix("odd://").strip("/")
    )
    obj = await one(provider, f"odd://user:CANARY@{path}")
    assert_hidden(["CANARY"], [obj, await provider.source(obj)])
    assert await read(provider, obj, 3, 9) == CONTENT[3:9]
    fresh = FsspecProvider()
    with pytest.raises(RetryableError):
        await fresh.source(obj)
    await fresh.close()


async def test_a_source_of_a_listing_long_ago_is_found_again(provider, memory):
    await memory.put("m/x", CONTENT)
    obj = await one(provider, memory.uri("m/x"))
    fresh = FsspecProvider()
    assert await read(fresh, obj, 3, 9) == CONTENT[3:9]
    await fresh.close()


# --- pure parts


@given(st.text(alphabet=st.characters()))
def test_any_text_has_a_scheme_to_try_or_is_refused(text):
    for uri in (text, f"sftp://{text}"):
        try:
            scheme = checked_scheme(uri)
        except TerminalError:
            continue
        assert scheme not in REFUSED | OURS
        assert base_of(uri)
        assert "::" not in uri


@given(st.text(alphabet=st.characters(min_codepoint=33, exclude_categories=["Cs"]), min_size=1))
def test_what_names_a_filesystem_has_no_secret_and_tells_uris_apart(tail):
    secret = f"sftp://user:CANARY@host/{tail}"
    assert "CANARY" not in base_of(secret)
    assert "#" not in base_of(secret)
    assert base_of(secret) != base_of(f"sftp://user:other@host/{tail}")


@given(
    st.dictionaries(
        st.sampled_from(["etag", "mtime", "size", "md5", "sha256", "created"]), st.none() | st.text()
    )
)
def test_a_validator_is_always_text_of_a_field_that_is_there(info):
    found = validator_of(info)
    assert found is None or (found[1] and found[0] in info)


async def test_a_library_that_hangs_is_left_behind_and_its_threads_are_counted():
    provider = FsspecProvider(patience_seconds=0.1)
    never = threading.Event()

    class Hanging(MemoryFileSystem):
        protocol = "hanging"

        def info(self, path, **options):
            never.wait(30)
            return super().info(path, **options)

    fsspec.register_implementation("hanging", Hanging, clobber=True)
    for count in (1, 2):
        with pytest.raises(RetryableError) as caught:
            await provider.resolve("hanging://x/y")
        assert caught.value.reason is Reason.STORAGE_TIMEOUT
        assert provider.hanging == count
    never.set()
    async with asyncio.timeout(5):
        while provider.hanging:
            await asyncio.sleep(0.01)
    await provider.close()
