"""The storage contract: what `agent/storage/base.py` promises, asked of every provider alike.

Subclass `ObjectContract` (a scheme whose URIs name one object) or `FolderContract` (one that lists), and
supply two fixtures:

    provider   a StorageProvider, closed by the fixture
    tree       a `Tree`: puts bytes where the provider finds them; empty at the start of each test

and, where the provider was given any, a third one, `secrets`: strings that must never be shown.
Class attributes tell what a service cannot do; each is explained where it stands.
"""

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Protocol

import google_crc32c
import pytest

from agent.core.errors import AgentError, TerminalError
from agent.core.paths import relative_path
from agent.core.reasons import Reason
from agent.storage.base import Listing, RemoteObject, StorageProvider
from tests.contracts.reading import fetched, read_source

CONTENT = bytes(range(256)) * 300  # 76,800 bytes: more than one block of any reader
OTHER = CONTENT[::-1]  # as long, and different at every place
GONE = {Reason.SNAPSHOT_CHANGED, Reason.NOT_FOUND}


class Tree(Protocol):
    """A place that the provider reads and the test writes."""

    async def put(self, path: str, content: bytes) -> None:
        """Write or replace the object at *path*, folders included."""
        ...

    async def remove(self, path: str) -> None:
        """Delete the object at *path*."""
        ...

    def uri(self, path: str = "") -> str:
        """The storage URI of the object or folder at *path* (no slash at the end), of the whole at ``."""
        ...


async def one(provider: StorageProvider, uri: str) -> RemoteObject:
    """Resolve a URI that must name one object."""
    listing = await provider.resolve(uri)
    assert listing.single
    assert len(listing.objects) == 1
    return listing.objects[0]


async def read(
    provider: StorageProvider, obj: RemoteObject, start: int = 0, stop: int | None = None
) -> bytes:
    """Read a range of an object the way the provider says."""
    return await read_source(await provider.source(obj), obj.identity, start, stop)


def files(listing: Listing) -> dict[str, int | None]:
    """Paths and sizes of a listing."""
    return {obj.path: obj.size for obj in listing.objects}


def digest_of(algorithm: str, content: bytes) -> str:
    """The checksum of *content* as `RemoteObject.checksums` writes it."""
    if algorithm == "git-sha1":
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if algorithm == "crc32c":
        return f"{google_crc32c.value(content):08x}"
    return hashlib.new(algorithm, content).hexdigest()


class ObjectContract:
    """What holds for a URI that names one object."""

    unpinned = False  # true where the service has no validator, so that a replacement cannot be noticed
    names: tuple[str, ...] = (
        "model.joblib",
        "with space.bin",
        "plus+and&equals=.bin",
        "per%20cent%sign.bin",
        "ünï-日本語-🤖.bin",
    )

    @pytest.fixture
    def secrets(self) -> tuple[str, ...]:
        return ()

    async def test_a_single_object_gives_a_file_of_its_base_name(self, provider, tree):
        await tree.put("folder/model.joblib", CONTENT)
        obj = await one(provider, tree.uri("folder/model.joblib"))
        assert obj.path == "model.joblib"
        assert obj.size == len(CONTENT)

    async def test_any_name_that_the_service_takes_is_found_and_read(self, provider, tree):
        for number, name in enumerate(self.names):
            content = f"{number} {name}".encode()
            await tree.put(f"folder/{name}", content)
            obj = await one(provider, tree.uri(f"folder/{name}"))
            assert obj.path == relative_path(name)
            assert await read(provider, obj) == content

    async def test_a_zero_byte_object_is_a_file(self, provider, tree):
        await tree.put("empty.bin", b"")
        obj = await one(provider, tree.uri("empty.bin"))
        assert (obj.path, obj.size) == ("empty.bin", 0)
        assert await read(provider, obj) == b""

    async def test_nothing_there_is_not_found_and_terminal(self, provider, tree):
        await tree.put("present.bin", b"x")
        with pytest.raises(TerminalError) as caught:
            await provider.resolve(tree.uri("absent.bin"))
        assert caught.value.reason is Reason.NOT_FOUND
        assert "absent.bin" in caught.value.message

    async def test_the_whole_object_is_read_byte_for_byte(self, provider, tree):
        await tree.put("model.bin", CONTENT)
        obj = await one(provider, tree.uri("model.bin"))
        assert await read(provider, obj) == CONTENT

    @pytest.mark.parametrize(
        ("start", "stop"),
        [(0, 1), (1, 2), (255, 65537), (65536, 65537), (76799, 76800), (0, 76800), (1, None), (76000, None)],
    )
    async def test_a_range_is_read_byte_for_byte(self, provider, tree, start, stop):
        await tree.put("model.bin", CONTENT)
        obj = await one(provider, tree.uri("model.bin"))
        assert await read(provider, obj, start, stop) == CONTENT[start:stop]

    async def test_ranges_are_read_at_the_same_time_from_one_source(self, provider, tree):
        await tree.put("model.bin", CONTENT)
        obj = await one(provider, tree.uri("model.bin"))
        source = await provider.source(obj)
        starts = range(0, len(CONTENT), 9600)
        parts = await asyncio.gather(*(read_source(source, obj.identity, s, s + 9600) for s in starts))
        assert b"".join(parts) == CONTENT

    async def test_the_identity_stays_while_the_bytes_stay(self, provider, tree):
        await tree.put("model.bin", CONTENT)
        first = await one(provider, tree.uri("model.bin"))
        await read(provider, first)
        assert (await one(provider, tree.uri("model.bin"))).identity == first.identity

    async def test_other_bytes_of_the_same_length_are_another_identity(self, provider, tree):
        if self.unpinned:
            pytest.skip("the service has no validator")
        await tree.put("model.bin", CONTENT)
        first = await one(provider, tree.uri("model.bin"))
        await tree.put("model.bin", OTHER)
        second = await one(provider, tree.uri("model.bin"))
        assert first.pinned
        assert second.identity != first.identity

    @pytest.mark.parametrize(("start", "stop"), [(0, None), (1000, 70000)])
    async def test_a_replaced_object_never_gives_the_new_bytes_under_the_old_identity(
        self, provider, tree, start, stop
    ):
        if self.unpinned:
            pytest.skip("the service has no validator")
        await tree.put("model.bin", CONTENT)
        obj = await one(provider, tree.uri("model.bin"))
        await tree.put("model.bin", OTHER)
        try:
            seen = await read(provider, obj, start, stop)
        except AgentError as error:
            assert error.reason in GONE  # noqa: PT017 - reading the old version is right as well
        else:
            assert seen == CONTENT[start:stop]

    async def test_an_object_that_went_away_is_told_from_one_that_is_empty(self, provider, tree):
        await tree.put("model.bin", CONTENT)
        obj = await one(provider, tree.uri("model.bin"))
        await tree.remove("model.bin")
        try:
            seen = await read(provider, obj)
        except AgentError as error:
            assert error.reason in GONE  # noqa: PT017 - a versioned service may still have the bytes
        else:
            assert seen == CONTENT

    async def test_each_checksum_told_is_that_of_the_whole_object(self, provider, tree):
        await tree.put("model.bin", CONTENT)
        obj = await one(provider, tree.uri("model.bin"))
        for algorithm in obj.checksums.keys() - {"crc64nvme"}:
            assert obj.checksums[algorithm] == digest_of(algorithm, CONTENT)

    async def test_no_secret_is_in_what_is_shown(self, provider, tree, secrets):
        await tree.put("model.bin", CONTENT)
        listing = await provider.resolve(tree.uri("model.bin"))
        source = await provider.source(listing.objects[0])
        with pytest.raises(AgentError) as caught:
            await provider.resolve(tree.uri("absent.bin"))
        shown = [listing, *listing.objects, *(obj.identity for obj in listing.objects), source, provider]
        assert_hidden(secrets, [*shown, caught.value, caught.value.message])


class FolderContract(ObjectContract):
    """What holds for a URI that names a folder or a prefix, beside what holds for one object."""

    many = 120  # above the page size of the service, and enough for several to be asked for at once
    hostile: tuple[str, ...] = ()  # names the service stores and no file may have: `a/../../b`, `a//b`, …

    async def test_a_folder_is_listed_whole_and_sorted_with_its_sizes(self, provider, tree):
        wanted = {"m/b.bin": b"bb", "m/a/z/deep.bin": b"d", "m/a.bin": CONTENT, "m/B.bin": b"", "m/a/0": b"0"}
        for path, content in wanted.items():
            await tree.put(path, content)
        listing = await provider.resolve(tree.uri("m"))
        assert not listing.single
        assert files(listing) == {path[2:]: len(content) for path, content in wanted.items()}
        paths = [obj.path for obj in listing.objects]
        assert paths == sorted(paths)
        for obj in listing.objects:
            assert await read(provider, obj) == wanted[f"m/{obj.path}"]

    async def test_a_folder_of_one_file_is_no_single_object(self, provider, tree):
        await tree.put("m/only.bin", b"x")
        listing = await provider.resolve(tree.uri("m"))
        assert not listing.single
        assert files(listing) == {"only.bin": 1}

    async def test_a_slash_at_the_end_changes_nothing(self, provider, tree):
        await tree.put("m/sub/model.bin", CONTENT)
        await tree.put("m/other.bin", b"1")
        assert await provider.resolve(tree.uri("m")) == await provider.resolve(tree.uri("m") + "/")

    async def test_a_sibling_that_begins_alike_is_never_taken_in(self, provider, tree):
        for path in ("m1/model.bin", "m10/model.bin", "m1-v2/x.bin", "m1.txt", "m"):
            await tree.put(f"models/{path}", path.encode())
        assert files(await provider.resolve(tree.uri("models/m1"))) == {"model.bin": len("m1/model.bin")}

    async def test_a_beginning_of_a_name_is_not_found(self, provider, tree):
        await tree.put("models/m10/model.bin", b"x")
        for path in ("models/m1", "models/m10/model", "models/m1/"):
            with pytest.raises(TerminalError) as caught:
                await provider.resolve(tree.uri(path))
            assert caught.value.reason is Reason.NOT_FOUND

    async def test_zero_byte_files_and_odd_names_are_listed_and_read(self, provider, tree):
        wanted = {f"sub/{name}": name.encode() for name in self.names} | {
            "__init__.py": b"",
            "sub/empty": b"",
        }
        for path, content in wanted.items():
            await tree.put(f"m/{path}", content)
        listing = await provider.resolve(tree.uri("m"))
        assert files(listing) == {path: len(content) for path, content in wanted.items()}
        for obj in listing.objects:
            assert await read(provider, obj) == wanted[obj.path]

    async def test_all_pages_are_listed_and_every_file_of_them_comes(self, provider, tree, tmp_path):
        wanted = {f"{number:05}.bin": b"%d" % number for number in range(self.many)}
        for path, content in wanted.items():
            await tree.put(f"m/{path}", content)
        listing = await provider.resolve(tree.uri("m"))
        assert [obj.path for obj in listing.objects] == list(wanted)
        found, _ = await fetched(provider, tree.uri("m"), tmp_path / "fetched")
        assert found == wanted

    async def test_a_new_file_leaves_the_identities_of_the_others(self, provider, tree):
        await tree.put("m/a.bin", CONTENT)
        before = (await provider.resolve(tree.uri("m"))).objects[0]
        await tree.put("m/b.bin", CONTENT)
        after = {obj.path: obj for obj in (await provider.resolve(tree.uri("m"))).objects}
        assert after.keys() == {"a.bin", "b.bin"}
        assert after["a.bin"].identity == before.identity

    async def test_a_name_that_could_not_be_laid_down_refuses_the_whole_folder(self, provider, tree):
        for name in self.hostile:
            await tree.put("m/good.bin", b"x")
            await tree.put(f"m/{name}", b"x")
            with pytest.raises(TerminalError) as caught:
                await provider.resolve(tree.uri("m"))
            assert caught.value.reason is Reason.INVALID_OBJECT_KEY
            await tree.remove(f"m/{name}")

    async def test_no_secret_is_in_what_is_shown_of_a_folder(self, provider, tree, secrets):
        await tree.put("m/model.bin", CONTENT)
        listing = await provider.resolve(tree.uri("m"))
        source = await provider.source(listing.objects[0])
        with pytest.raises(AgentError) as caught:
            await provider.resolve(tree.uri("absent"))
        assert_hidden(secrets, [listing, *listing.objects, source, provider, caught.value])


def assert_hidden(secrets: Iterable[str], shown: Iterable[object]) -> None:
    """No secret is in the repr or str of anything, nor in the chain of an exception."""
    for thing in shown:
        chain = [thing]
        while isinstance(chain[-1], BaseException) and chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
        for secret in secrets:
            for link in chain:
                assert secret not in repr(link)
                assert secret not in str(link)
