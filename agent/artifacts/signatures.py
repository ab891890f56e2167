"""OpenSSF model signatures made with a key: what a signature says of which files, once it is proved.

A signature is a stranger's file, and the library that reads it is large: both stay in a child process
with no environment, whose last line is believed and nothing else. The digests that were signed are
compared by us with those of the stored files, so nothing is laid out or hashed again.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from agent.artifacts.errors import disk_errors
from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.core.words import printable

MAX_SIGNATURE_BYTES = 64 << 20
SECONDS = 60.0
MISSING_PACKAGE = 3  # the child's exit code where the library is not installed
_ROOT = Path(__file__).parents[2]
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from agent.artifacts.signature_child import main; sys.exit(main(sys.argv[2], sys.argv[3]))"
)


def signed_digests(signature: Path, key: Path | None) -> tuple[Mapping[str, str], frozenset[str]]:
    """Return path to sha256 of the files that are signed, and the paths that the signer left out.

    *key* is a public key in PEM, read anew each time. Blocks for a second or two.
    Raises TerminalError(SignatureInvalid, MissingDependency), RetryableError(ResourceExhausted).
    """
    if key is None:
        raise _invalid("the agent has no key to check it with; give --signing-key-file")
    with disk_errors("reading a signature"):
        size = signature.stat().st_size
    if size > MAX_SIGNATURE_BYTES:
        raise _invalid(f"it has {size} bytes, more than {MAX_SIGNATURE_BYTES}")
    if not key.is_file():
        raise _invalid(f"--signing-key-file {key} is not there; mount the public key")
    ended = _run(signature, key)
    if ended.returncode == MISSING_PACKAGE:
        raise TerminalError(
            Reason.MISSING_DEPENDENCY,
            "modelSpec.signature needs the package extra 'signing'; install model-agent[signing]",
        )
    if ended.returncode != 0:
        words = printable(ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2], 500)
        raise _invalid(f"{words or 'its reader died'}; sign it again, or correct --signing-key-file")
    said = json.loads(ended.stdout)
    return said["digests"], frozenset(said["ignored"])


def _run(signature: Path, key: Path) -> "subprocess.CompletedProcess[bytes]":
    command = (sys.executable, "-I", "-c", _START, str(_ROOT), str(signature), str(key))
    try:
        return subprocess.run(  # noqa: S603 - our own interpreter
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            env={},
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RetryableError(
            Reason.RESOURCE_EXHAUSTED, f"checking a signature took over {SECONDS:.0f} s; raise the CPU limit"
        ) from error
    except OSError as error:
        raise RetryableError(
            Reason.RESOURCE_EXHAUSTED, f"no process to check a signature could be started: {error.strerror}"
        ) from error


def _invalid(words: str) -> TerminalError:
    return TerminalError(Reason.SIGNATURE_INVALID, f"the signature that modelSpec.signature names: {words}")
