"""The kubelet's way with a mounted ConfigMap (atomic_writer.go, told in kserve-contract §1.1).

<dir>/..2026_11_22_10_00_00.000000001/models.json     the bytes
<dir>/..data        -> ..2026_11_22_10_00_00.000000001  renamed over with every change
<dir>/models.json   -> ..data/models.json               made after the first swap, removed after its key
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path


class Kubelet:
    """Writes payloads into `folder` as the kubelet does. `folder` appears with the first write.

    `between` is called between the steps of a swap, with the name of the step that comes next: a slow
    kubelet, or a reader in the middle of a swap.
    """

    def __init__(self, folder: Path, *, between: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self._between = between

    def models(self, entries: Iterable[Mapping[str, object]]) -> bytes:
        """Swap in a document as KServe's controller writes it: compact, no newline at the end."""
        raw = json.dumps(list(entries), separators=(",", ":")).encode()
        self.write({"models.json": raw})
        return raw

    def write(self, payload: Mapping[str, bytes]) -> None:
        """Make *payload* the whole content, one swap. Equal content is left alone, as the kubelet does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.payload() == dict(payload):
            return
        fresh = self._fresh_folder()
        for key, content in payload.items():
            (fresh / key).write_bytes(content)
            (fresh / key).chmod(0o644)
        old = self._target()
        self._between("link")
        (self.folder / "..data_tmp").symlink_to(fresh.name)
        self._between("rename")
        (self.folder / "..data_tmp").rename(self.folder / "..data")
        self._between("user links")
        for key in payload:
            if not (self.folder / key).is_symlink():
                (self.folder / key).symlink_to(f"..data/{key}")
        self._remove_links(payload)
        self._between("remove old")
        if old:
            shutil.rmtree(self.folder / old)

    def payload(self) -> dict[str, bytes] | None:
        """Return what is mounted now, None before the first write."""
        if (target := self._target()) is None:
            return None
        return {path.name: path.read_bytes() for path in (self.folder / target).iterdir()}

    def _fresh_folder(self) -> Path:
        stamp = datetime.now(UTC).strftime("..%Y_%m_%d_%H_%M_%S.")
        fresh = Path(tempfile.mkdtemp(prefix=stamp, dir=self.folder))
        fresh.chmod(0o755)
        return fresh

    def _target(self) -> str | None:
        try:
            return str((self.folder / "..data").readlink())
        except FileNotFoundError:
            return None

    def _remove_links(self, payload: Mapping[str, bytes]) -> None:
        for link in self.folder.iterdir():
            if link.is_symlink() and not link.name.startswith("..") and link.name not in payload:
                link.unlink()
