"""Opening the two directories: made, locked, and proved to be one file system before anything is trusted."""

import fcntl
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.artifacts.errors import disk_errors
from agent.artifacts.folder import Folder, temp_name
from agent.artifacts.scan import LOCK_FILE
from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason


@dataclass(frozen=True, slots=True)
class Opened:
    """The folders, `store` being `model` itself in the drop-in layout, and what is closed at the end."""

    model: Folder
    store: Folder
    resources: ExitStack


def open_folders(model_dir: Path, store_dir: Path | None) -> Opened:
    """Make, open, lock and probe. Raises as `Store.open` says."""
    with ExitStack() as resources:
        model = store = _open(model_dir, resources)
        if store_dir is not None:
            store = _open(store_dir, resources)
        if _is_same(model, store):
            store = model
        elif store.path.is_relative_to(model.path):
            raise TerminalError(
                Reason.DISK_ERROR,
                f"the store dir {store.path} lies in the model dir {model.path}, where the server takes "
                "every directory for a model; put it beside the model dir",
            )
        with disk_errors(f"locking {store.path}", volume=store.path):
            lock = store.open(LOCK_FILE, os.O_RDWR | os.O_CREAT)
            resources.callback(os.close, lock)
            _lock(lock, store.path)
            _lock(model.fd, model.path)  # two stores over one model dir would fight over it as well
            if store is not model:
                _probe(store, model)
        return Opened(model, store, resources.pop_all())


def boot_id() -> str:
    """Return a hex name for the time since the machine started; a fresh one where it cannot be read."""
    with suppress(OSError, ValueError):
        return f"{int(Path('/proc/sys/kernel/random/boot_id').read_text().replace('-', ''), 16):032x}"
    return os.urandom(16).hex()


def _open(path: Path, resources: ExitStack) -> Folder:
    with disk_errors(f"opening {path}", volume=path.parent):
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o755)  # whatever the umask: the server runs under another user id
        folder = Folder(path.resolve())
        resources.callback(folder.close)
        return folder


def _is_same(one: Folder, other: Folder) -> bool:
    first, second = os.fstat(one.fd), os.fstat(other.fd)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


def _lock(fd: int, path: Path) -> None:
    """Take the instance lock. A file system without locks is taken as it is: names are unique anyway."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RetryableError(
            Reason.STORE_IN_USE,
            f"another agent works in {path}; this one stands by until it ends. "
            "Give each agent its own directory, or stop the other one",
        ) from error
    except OSError:
        return


def _probe(store: Folder, model: Folder) -> None:
    """Rename a file from one to the other: the file systems that cannot are refused (EXDEV)."""
    here, there = temp_name(), temp_name()
    store.write_new(here, b"", mode=0o600, sync=False)
    try:
        os.rename(here, there, src_dir_fd=store.fd, dst_dir_fd=model.fd)
    finally:
        store.remove(here)
        model.remove(there)
