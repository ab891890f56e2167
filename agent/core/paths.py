"""Which files a listing may lay down: relative, plain, inside the model's directory, and free of conflict.

Used by every storage provider and by the archive extractor; nothing is written before a whole listing
passed (faults S18, A1, A8).
"""

from collections.abc import Iterable

from agent.core.errors import TerminalError
from agent.core.reasons import Reason

MAX_COMPONENT_BYTES = 255  # NAME_MAX of Linux file systems
MAX_PATH_BYTES = 3072  # leaves room below PATH_MAX (4096) for model dir and name
MAX_DEPTH = 32


def relative_path(text: str) -> str:
    """Return *text* if it is a relative path that stays where it is put.

    Raises TerminalError(InvalidObjectKey) for absolute paths, `..`, `.` or empty components, back
    slashes, control characters, bytes that are no UTF-8, and for what a file system cannot name.
    """
    problem = _problem(text)
    if problem:
        raise TerminalError(Reason.INVALID_OBJECT_KEY, f"the object name {text[:200]!r} {problem}")
    return text


def _problem(text: str) -> str | None:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    components = text.split("/")
    if not text or text.startswith("/"):
        return "is empty or absolute"
    if any(part in {"", ".", ".."} for part in components):
        return "has an empty, '.' or '..' component"
    if "\\" in text or any(ord(char) < 32 or ord(char) == 127 for char in text):
        return "has a back slash or a control character"
    if len(encoded) > MAX_PATH_BYTES or len(components) > MAX_DEPTH:
        return f"is longer than {MAX_PATH_BYTES} bytes or deeper than {MAX_DEPTH} folders"
    if any(len(part.encode()) > MAX_COMPONENT_BYTES for part in components):
        return f"has a component longer than {MAX_COMPONENT_BYTES} bytes"
    return None


def check_tree(paths: Iterable[str]) -> None:
    """Check that *paths*, each already a `relative_path`, can stand beside each other.

    Raises TerminalError(InvalidObjectKey) for a path twice, and for a file that is also a folder.
    """
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        if path in files:
            raise TerminalError(Reason.INVALID_OBJECT_KEY, f"the object name {path[:200]!r} occurs twice")
        files.add(path)
        parent = path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in folders:
                break
            folders.add(parent)
    both = next(iter(files & folders), None)
    if both is not None:
        raise TerminalError(Reason.INVALID_OBJECT_KEY, f"{both[:200]!r} is a file and a folder at once")
