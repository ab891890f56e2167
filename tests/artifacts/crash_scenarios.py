"""What is killed at every mutating system call: how it starts, what is done, and what may be seen after.

Imported by the child that is killed too, so nothing but the standard library and the store is needed.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from agent.artifacts.manifest import blob_id
from agent.artifacts.store import Store
from agent.core.disk import DiskPolicy
from agent.core.model import ModelName
from tests.artifacts.shelf import BOOT, M, fetch, manifest_of, plain, stored, told, tree

URI = "s3://bucket/wanted"
OTHER = "s3://bucket/other"
OLD = {"a": b"old a", "d/b": b"shared"}
NEW = {"a": b"new a", "d/b": b"shared", "d/c": b"new c"}
OVERLAY = {"config": b"overlay"}
LONG_AGO = time.time() - 7200


@dataclass(frozen=True)
class Place:
    """One model dir and store dir."""

    model_dir: Path
    store_dir: Path | None

    def open(self) -> Store:
        return Store.open(self.model_dir, self.store_dir, boot_id=BOOT)

    @property
    def flat(self) -> Path:
        return self.store_dir or self.model_dir


@dataclass(frozen=True)
class Scenario:
    """`act` is killed; with `at_open` the opening before it too. `seen` tells if a reader may see this."""

    prepare: Callable[[Place, Store], None]
    act: Callable[[Store], None]
    seen: Callable[[Place], bool]
    kept: Callable[[Store], bool]
    at_open: bool = False
    without_exchange: bool = False


def shows(*allowed: dict[str, bytes] | None) -> Callable[[Place], bool]:
    """The model's directory is one of these, byte for byte."""
    return lambda place: tree(place.model_dir / M) in allowed


def has(uri: str, *allowed: dict[str, bytes] | None) -> Callable[[Store], bool]:
    """The newest revision of *uri* is one of these, byte for byte; None: there may be none."""

    def check(store: Store) -> bool:
        short = store.revisions().get(uri)
        manifest = store.manifest(uri, short.revision) if short else None
        content = {e.path: store.read(manifest, e.path) for e in manifest.entries} if manifest else None
        return content in allowed

    return check


def publish(store: Store, files: dict[str, bytes]) -> None:
    manifest = stored(store, URI, files, at=1.0 if files == OLD else 2.0)
    store.publish(M, manifest, {**plain(manifest), "config": OVERLAY["config"]})


def both_stored(place: Place, store: Store) -> None:
    stored(store, URI, OLD)
    stored(store, URI, NEW, at=2.0)


def old_published(place: Place, store: Store) -> None:
    stored(store, URI, NEW, at=2.0)
    publish(store, OLD)
    cache = place.model_dir / M / "__pycache__"
    cache.mkdir()
    (cache / "left by the server").write_bytes(b"")


def file_in_the_way(place: Place, store: Store) -> None:
    stored(store, URI, NEW, at=2.0)
    (place.model_dir / M).write_bytes(b"a file")


def act_publish(store: Store) -> None:
    manifest = store.manifest(URI, manifest_of(store, URI, NEW).revision)
    store.publish(M, manifest, {**plain(manifest), "config": OVERLAY["config"]})


def partly_fetched(place: Place, store: Store) -> None:
    publish(store, OLD)
    blob = blob_id(NEW["a"].hex())
    store.partial_path(blob).write_bytes(NEW["a"])
    store.journal_path(blob).write_bytes(b"journal")


def act_commit(store: Store) -> None:
    stored(store, URI, NEW, at=2.0)


def litter(place: Place, store: Store) -> None:
    publish(store, OLD)
    bad = stored(store, OTHER, {"a": b"bad", "b": b"alone"})
    os.truncate(store.blob_path(bad.entries[0].blob), 1)
    stale = fetch(store, b"stale")
    os.utime(store.blob_path(stale), (LONG_AGO, LONG_AGO))
    for name in ("part-01", "journal-01", "journal-02", "manifest-03", "told-04", "tmp-05", "boot-06"):
        (place.flat / f".agent-{name}").write_bytes(b"?")
        os.utime(place.flat / f".agent-{name}", (LONG_AGO, LONG_AGO))
    (place.flat / ".agent-tmp-07" / "d").mkdir(parents=True)
    os.link(place.model_dir / M / "a", place.flat / ".agent-tmp-07" / "d" / "a")


def unwanted(place: Place, store: Store) -> None:
    publish(store, OLD)
    stored(store, OTHER, {"a": b"unwanted", "b": b"shared"})
    stored(store, "s3://bucket/third", {"x": b"unwanted", "y": b"third"})


def act_collect(store: Store) -> None:
    later = time.time() + 7200  # what a killed collection left without a manifest goes after an hour
    store.collect([URI], later, DiskPolicy(keep_free_ratio=1.0))


def told_of(*revisions: str | None) -> Callable[[Store], bool]:
    return lambda store: (store.told()[M].revision if M in store.told() else None) in revisions


def any_seen(place: Place) -> bool:
    return True


OLD_TREE, NEW_TREE = {**OLD, **OVERLAY}, {**NEW, **OVERLAY}
CACHED = {**OLD_TREE, "__pycache__/left by the server": b""}

SCENARIOS = {
    "publish": Scenario(both_stored, act_publish, shows(None, NEW_TREE), has(URI, NEW)),
    "replace": Scenario(old_published, act_publish, shows(CACHED, NEW_TREE), has(URI, NEW)),
    "replace-a-file": Scenario(
        file_in_the_way,
        act_publish,
        lambda place: (place.model_dir / M).is_file() or shows(NEW_TREE)(place),
        has(URI, NEW),
    ),
    "replace-without-exchange": Scenario(
        old_published, act_publish, shows(CACHED, NEW_TREE, None), has(URI, NEW), without_exchange=True
    ),
    "withdraw": Scenario(old_published, lambda s: s.withdraw(M), shows(CACHED, None), has(URI, NEW)),
    "record": Scenario(
        lambda place, store: store.record(M, told(URI, "1")),
        lambda store: store.record(M, told(URI, "2", confirmed=False)),
        any_seen,
        told_of("1", "2"),
    ),
    "forget": Scenario(
        lambda place, store: store.record(M, told(URI, "1")),
        lambda store: store.record(M, None),
        any_seen,
        told_of("1", None),
    ),
    "commit": Scenario(partly_fetched, act_commit, shows(OLD_TREE), has(URI, OLD, NEW)),
    "remember": Scenario(
        lambda place, store: store.remember_document(b"[1]" * 5000),
        lambda store: store.remember_document(b"[2]" * 5000),
        any_seen,
        lambda store: store.accepted_document() in (b"[1]" * 5000, b"[2]" * 5000),
    ),
    "sweep": Scenario(litter, lambda store: None, shows(OLD_TREE), has(URI, OLD), at_open=True),
    "collect": Scenario(unwanted, act_collect, shows(OLD_TREE), has(URI, OLD)),
    "first-start": Scenario(
        lambda place, store: None, lambda store: None, shows(None), has(URI, None), at_open=True
    ),
}


def many_records(store: Store) -> None:
    for number in range(100):
        store.record(ModelName(f"m{number}"), told(URI, "1"))


NEVER = Scenario(lambda place, store: None, lambda store: None, any_seen, lambda store: True)
FULL = {
    "large-document": replace(NEVER, act=lambda store: store.remember_document(bytes(2 << 20))),
    "many-records": replace(NEVER, act=many_records),
}
