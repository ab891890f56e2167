"""What is left of layers that lie one over the other: files, less what a later layer replaces or hides. Pure.

The rules are those of the OCI image specification 1.1 (layer.md, whiteouts) and of overlay filesystems.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

T = TypeVar("T")

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"


class Hides(StrEnum):
    """What an entry takes away of the layers below it."""

    ALL = "all"
    """The path, and whatever is below it: a whiteout."""
    BELOW = "below"
    """What is below the path, but for what the layer itself brings: an opaque folder."""
    FILE = "file"
    """A file of that path, since it is a folder now."""


@dataclass(frozen=True, slots=True)
class Layer(Generic[T]):
    """One layer: its files by path, and what it hides, each a path and how; "" is the root."""

    files: Mapping[str, T]
    hidden: Iterable[tuple[str, Hides]] = ()


@dataclass(frozen=True, slots=True)
class _File(Generic[T]):
    content: T


_Folder = dict[str, Any]
"""Names to `_File` or again a folder."""


def merged(layers: Iterable[Layer[T]]) -> dict[str, T]:
    """Return the files by path, lowest layer first; what a layer hides is of the layers before it only."""
    root: _Folder = {}
    for layer in layers:
        for path, how in layer.hidden:
            _hide(root, path, how)
        for path, content in layer.files.items():
            *folders, name = path.split("/")
            _folder(root, folders)[name] = _File(content)
    return dict(_flat(root, ""))


def whiteout(path: str) -> tuple[str, Hides] | None:
    """Return what an entry of a layer hides by its name, None for one that is a file like any other.

    Other names that begin with `.wh..wh.` are a filesystem's own notes, and hide nothing that exists.
    """
    folder, _, name = path.rpartition("/")
    if name == OPAQUE:
        return folder, Hides.BELOW
    hidden = name.removeprefix(WHITEOUT)
    if hidden in {name, ""}:
        return None
    return (f"{folder}/{hidden}" if folder else hidden), Hides.ALL


def _hide(root: _Folder, path: str, how: Hides) -> None:
    *folders, name = path.split("/")
    at = root
    for each in folders:
        found = at.get(each)
        if not isinstance(found, dict):
            return
        at = found
    if not path:
        if how is not Hides.FILE:
            root.clear()
        return
    there = at.get(name)
    if there is None:
        return
    if how is Hides.ALL or (how is Hides.FILE and isinstance(there, _File)):
        del at[name]
    elif how is Hides.BELOW:
        at[name] = {}


def _folder(root: _Folder, names: Iterable[str]) -> _Folder:
    """Return the folder, made where it is not there; a file in its way is no more."""
    at = root
    for each in names:
        found = at.get(each)
        if not isinstance(found, dict):
            found = at[each] = {}
        at = found
    return at


def _flat(folder: _Folder, prefix: str) -> Iterable[tuple[str, Any]]:
    for name, found in folder.items():
        if isinstance(found, _File):
            yield prefix + name, found.content
        else:
            yield from _flat(found, f"{prefix}{name}/")
