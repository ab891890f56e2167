"""Walking below a root, so that no name and no link leads out of it, even while somebody swaps them.

Each step opens one component with O_NOFOLLOW relative to the descriptor of the folder before it. Links
are resolved here, not by the kernel: `..` goes back along the descriptors walked, never above the root
(faults D12, X4, X12).
"""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from agent.core.errors import TerminalError
from agent.core.reasons import Reason

MAX_LINKS = 40  # what Linux itself follows in one path
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class Place:
    """Where a walk ended: `folder` is an open descriptor of what holds `name`.

    `parts` lead from the root to it with no link on the way; `name` is "." where it is the root itself.
    `status` is that of the thing itself, which is no link.
    """

    folder: int
    name: str
    parts: tuple[str, ...]
    status: os.stat_result

    def open_file(self) -> int:
        """Return a descriptor of the regular file, which the caller closes; it never blocks on a fifo."""
        require_plain(self.status, "/".join(self.parts))
        descriptor = os.open(self.name, _FILE, dir_fd=self.folder)
        try:
            require_plain(os.fstat(descriptor), "/".join(self.parts))
        except TerminalError:
            os.close(descriptor)
            raise
        return descriptor

    def open_folder(self) -> int:
        """Return a descriptor of the folder, which the caller closes."""
        return os.open(self.name, _FOLDER, dir_fd=self.folder)


@contextmanager
def walk(root: str, path: PurePosixPath) -> Iterator[Place]:
    """Find *path*, relative to *root*, following links as long as they stay below the root.

    Raises TerminalError(ForbiddenPath) for a way out, and OSError as the system calls do.
    """
    with ExitStack() as opened:
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, top)
        yield _find(root, path, top, opened)


def _find(root: str, path: PurePosixPath, top: int, opened: ExitStack) -> Place:
    todo = list(reversed(path.parts))
    way: list[tuple[str, int]] = []
    links = 0
    while todo:
        name = todo.pop()
        if name == "..":
            if not way:
                raise _escape(path)
            way.pop()
            continue
        folder = way[-1][1] if way else top
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MAX_LINKS:
                raise TerminalError(Reason.FORBIDDEN_PATH, f"{str(path)!r} goes in a circle of links")
            target = PurePosixPath(os.readlink(name, dir_fd=folder))
            if target.is_absolute():
                target = _below(root, target, path)
                way.clear()
            todo.extend(reversed(target.parts))
        elif todo:
            descriptor = os.open(name, _FOLDER, dir_fd=folder)
            opened.callback(os.close, descriptor)
            way.append((name, descriptor))
        else:
            return Place(folder, name, (*(part for part, _ in way), name), status)
    here = way[-1][1] if way else top
    return Place(here, ".", tuple(part for part, _ in way), os.fstat(here))


def _below(root: str, target: PurePosixPath, path: PurePosixPath) -> PurePosixPath:
    for base in (root, os.path.realpath(root)):
        if target.is_relative_to(base):
            return target.relative_to(base)
    raise _escape(path)


def _escape(path: PurePosixPath) -> TerminalError:
    return TerminalError(
        Reason.FORBIDDEN_PATH, f"{str(path)!r} is or passes a link that leads out of the allowed folder"
    )


def require_plain(status: os.stat_result, shown: str) -> None:
    """Raise TerminalError(ForbiddenPath) unless this is a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise TerminalError(
            Reason.FORBIDDEN_PATH, f"{shown!r} is {_kind(status.st_mode)}; only regular files are taken"
        )


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder reached by a link",
        stat.S_IFIFO: "a fifo",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a block device",
        stat.S_IFCHR: "a character device",
    }
    return kinds.get(stat.S_IFMT(mode), "no regular file")
