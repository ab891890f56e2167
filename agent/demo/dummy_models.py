"""What the dummy model server holds, and what it is told to do wrong.

The law here: a model that is served is the files as they were when it was loaded, told by their
digests, so that a test can tell which revision answered.
"""

import fnmatch
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path

HEAD = 32
_INLINE = 1024 * 1024


class Dialect(StrEnum):
    """Whose manners the dummy takes on."""

    KSERVE = "kserve"
    MLSERVER = "mlserver"
    TRITON = "triton"


@dataclass(frozen=True, slots=True)
class Faults:
    """What to do wrong. Names are matched by shell patterns; an empty pattern matches nothing.

    `load_seconds`, `seconds_per_mib`  a load takes at least this long.
    `fail`       loads of these names are refused. (So is any folder with a file called or holding `broken`.)
    `hang`       loads of these names are never answered and load nothing.
    `deaf`       no request at all is answered, but for `/_faults` and `/_stats`.
    `crash`      the process ends in the middle of loading these names.
    `drop`       these names are loaded, but instead of an answer the connection breaks.
    `blocking`   while a load runs nothing else is answered, as with servers that load on their event loop.
    `unready`    these names load, but say for ever that they are not ready.
    `forgetful`  every model is lost so many seconds after its load, as by a server that restarts unseen.
    `unload_seconds`  Triton only: how long an unloaded model stays UNLOADING.
    """

    load_seconds: float = 0.0
    seconds_per_mib: float = 0.0
    fail: str = ""
    hang: str = ""
    deaf: bool = False
    crash: str = ""
    drop: str = ""
    blocking: bool = False
    unready: str = ""
    forgetful: float = 0.0
    unload_seconds: float = 0.02

    def changed(self, document: Mapping[str, object]) -> "Faults":
        """Return these faults with some replaced; raises ValueError for unknown ones and wrong types."""
        kinds = {item.name: type(getattr(self, item.name)) for item in fields(self)}
        values: dict[str, object] = {}
        for key, value in document.items():
            kind = kinds.get(key)
            if kind is None:
                raise ValueError(f"no fault is called {key}; there are {', '.join(sorted(kinds))}")
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                values[key] = float(value)
            elif type(value) is kind:
                values[key] = value
            else:
                raise ValueError(f"{key} must be a {kind.__name__}")
        return replace(self, **values)  # type: ignore[arg-type]  # checked above, field by field


SUMS = "SHA256SUMS"


class BrokenModel(Exception):  # noqa: N818 - it names the fault of the model, not of the server
    """These files cannot be served; the text is what the server says about them."""


@dataclass(frozen=True, slots=True)
class FileSeen:
    """One file of a loaded model: its first bytes as text, and the digest of all of it."""

    size: int
    sha256: str
    head: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """One loaded model: its files by relative path, and one digest over all of them."""

    files: Mapping[str, FileSeen]
    sha256: str

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(item.size for item in self.files.values())


@dataclass(slots=True)
class Counts:
    """What was asked of the server so far."""

    requests: dict[str, int] = field(default_factory=dict)
    loads: dict[str, int] = field(default_factory=dict)
    unloads: dict[str, int] = field(default_factory=dict)
    failed_loads: dict[str, int] = field(default_factory=dict)
    loading_now: int = 0
    max_concurrent_loads: int = 0


def matches(name: str, pattern: str) -> bool:
    """Tell whether a fault's pattern means this name."""
    return bool(pattern) and fnmatch.fnmatchcase(name, pattern)


def open_model(folder: Path) -> Loaded:
    """Read a model's folder; blocks.

    Raises FileNotFoundError where there is no folder, BrokenModel where it holds nothing, `broken`, or
    other bytes than its SHA256SUMS says: so a server ends at its start that finds half a folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(str(folder))
    seen = {path[len(str(folder)) + 1 :]: _file_seen(path) for path in sorted(_files(folder))}
    if not seen:
        raise BrokenModel("the folder holds no file")
    if SUMS in seen:
        for line in (folder / SUMS).read_text().splitlines():
            wanted, _, name = line.partition("  ")
            if name not in seen or seen[name].sha256 != wanted:
                raise BrokenModel(f"{name} is not what {SUMS} says")
    digest = hashlib.sha256()
    for name, item in seen.items():
        digest.update(f"{name}\0{item.sha256}\n".encode())
    return Loaded(seen, digest.hexdigest())


def settings_name(folder: Path) -> str | None:
    """Return the name in a folder's model-settings.json, None where there is none; blocks."""
    try:
        settings = json.loads((folder / "model-settings.json").read_bytes())
    except (ValueError, OSError):
        return None
    name = settings.get("name") if isinstance(settings, dict) else None
    return name if isinstance(name, str) else None


def folders(model_dir: Path) -> set[str]:
    """Return the names of the folders of a model dir, hidden ones too; blocks."""
    with os.scandir(model_dir) as entries:
        return {entry.name for entry in entries if entry.is_dir()}


def _files(folder: str | Path) -> Iterator[str]:
    """Yield the paths of all files below a folder; pathlib would take most of a small load's time."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path)
            elif entry.is_file():
                yield entry.path


def _file_seen(path: str) -> FileSeen:
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as stream:  # noqa: PTH123 - as above
        head = stream.read(HEAD)
        chunk = head
        while chunk:
            digest.update(chunk)
            size += len(chunk)
            chunk = stream.read(_INLINE)
    name = os.path.basename(path)  # noqa: PTH119 - as above
    if name == "broken" or head.startswith(b"broken"):
        raise BrokenModel(f"{name} is broken")
    return FileSeen(size, digest.hexdigest(), head.decode("utf-8", "backslashreplace"))
