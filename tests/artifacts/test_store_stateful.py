"""The store against a reference model of it: any order of steps, restarts and harm in between."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from agent.artifacts.manifest import Manifest
from agent.core.disk import DiskPolicy
from agent.core.errors import RetryableError
from agent.core.model import ModelName
from tests.artifacts.shelf import Clock, Shelf, fetch, manifest_of, plain, told, tree

URIS = st.sampled_from(["s3://b/one", "s3://b/two", "s3://b/three"])
NAMES = st.sampled_from(["x", "y"]).map(ModelName)
FILES = st.dictionaries(
    st.sampled_from(["a", "d/b", "d/c"]), st.sampled_from([b"1", b"22", b"333"]), min_size=1
)
LAYOUT = st.booleans()


class StoreMachine(RuleBasedStateMachine):
    """`complete` is (URI, revision) → manifest in the order of listing; `trees` what is published."""

    manifests = Bundle("manifests")

    @initialize(beside=LAYOUT)
    def start(self, beside: bool) -> None:
        self.top = Path(tempfile.mkdtemp())
        self.shelf = Shelf(self.top / "m", self.top / "s" if beside else None, Clock())
        self.store = self.shelf.open()
        self.complete: dict[tuple[str, str], Manifest] = {}
        self.trees: dict[str, dict[str, bytes]] = {}
        self.records: dict[str, Manifest] = {}

    @rule(target=manifests, uri=URIS, files=FILES)
    def commit(self, uri: str, files: dict[str, bytes]) -> Manifest:
        self.shelf.clock.now += 1
        manifest = manifest_of(self.store, uri, files, at=self.shelf.clock.now)
        assert self.store.commit(manifest).resolved_at == manifest.resolved_at
        self.complete.pop((uri, manifest.revision), None)
        self.complete[uri, manifest.revision] = manifest
        return manifest

    @rule(manifest=manifests)
    def touch(self, manifest: Manifest) -> None:
        self.shelf.clock.now += 1
        key = (manifest.uri, manifest.revision)
        try:
            self.store.touch(*key, self.shelf.clock.now)
        except RetryableError:
            assert key not in self.complete
        else:
            self.complete[key] = self.complete.pop(key)

    @rule(name=NAMES, manifest=manifests, overlay=st.none() | st.binary(max_size=3))
    def publish(self, name: ModelName, manifest: Manifest, overlay: bytes | None) -> None:
        layout = {**plain(manifest), **({"config": overlay} if overlay is not None else {})}
        whole = all(self.store.holds(entry.blob, entry.size) for entry in manifest.entries)
        contents = {e.path: self.store.blob_path(e.blob).read_bytes() for e in manifest.entries if whole}
        try:
            self.store.publish(name, manifest, layout)
        except RetryableError:
            assert not whole
        else:
            self.trees[name] = {**contents, **({"config": overlay} if overlay is not None else {})}
            assert self.store.stands(name, manifest, layout)

    @rule(name=NAMES)
    def withdraw(self, name: ModelName) -> None:
        self.store.withdraw(name)
        self.trees.pop(name, None)

    @rule(name=NAMES, manifest=st.none() | manifests)
    def record(self, name: ModelName, manifest: Manifest | None) -> None:
        self.store.record(name, told(manifest.uri, manifest.revision) if manifest else None)
        self.records.pop(name, None)
        if manifest:
            self.records[name] = manifest

    @rule(wanted=st.frozensets(URIS), hours=st.sampled_from([0, 2]))
    def collect(self, wanted: frozenset[str], hours: int) -> None:
        self.shelf.clock.now += hours * 3600
        self.store.collect(wanted, self.shelf.clock.now, DiskPolicy(keep_free_ratio=1.0))
        newest = dict(self.complete.keys())
        kept = {(each.uri, each.revision) for each in self.records.values()}
        kept |= {(uri, revision) for uri, revision in newest.items() if uri in wanted}
        self.complete = {key: each for key, each in self.complete.items() if key in kept}

    @rule(manifest=manifests)
    def spoil(self, manifest: Manifest) -> None:
        blob = manifest.entries[0].blob
        if self.store.blob_path(blob).exists():
            os.utime(self.store.blob_path(blob), ns=(0, 0))
            assert not self.store.holds(blob, manifest.entries[0].size)
            self.complete = {
                key: each
                for key, each in self.complete.items()
                if blob not in {entry.blob for entry in each.entries}
            }

    @rule(reboot=st.booleans())
    def reopen(self, reboot: bool) -> None:
        self.store.close()
        self.store = self.shelf.open(boot="ab" if reboot else "cd")

    @rule(content=st.binary(max_size=3))
    def fetch_only(self, content: bytes) -> None:
        fetch(self.store, b"loose" + content)

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        newest = {uri: (revision, each) for (uri, revision), each in self.complete.items()}
        seen = {uri: each.revision for uri, each in self.store.revisions().items()}
        assert seen == {uri: revision for uri, (revision, _) in newest.items()}
        for key, manifest in self.complete.items():
            assert self.store.has(*key)
            assert self.store.manifest(*key).entries == manifest.entries
        assert self.store.published() == self.trees.keys()
        assert {name: tree(self.shelf.model_dir / name) for name in self.trees} == self.trees
        assert self.store.told() == {n: told(m.uri, m.revision) for n, m in self.records.items()}
        assert self.shelf.names("tmp") == set()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.top)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
