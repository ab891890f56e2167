"""`model-agent inject -f FILE`: manifests with the sidecar in their pods, on standard output.

What is no pod passes as it is; what was done is told on standard error. Injecting twice is injecting once.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from agent.controller.documents import DocumentError, dump_documents, load_documents
from agent.core.inject import InjectError, Options, inject
from agent.usage import UsageError, no_more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    given = Options()
    parser.add_argument(
        "-f", "--filename", required=True, metavar="FILE", help="YAML or JSON, - for standard input"
    )
    parser.add_argument("--image", default=given.image, help=f"the sidecar's image [default {given.image}]")
    parser.add_argument("--config-map", help="holds models.json [default modelconfig-<name>-0]")
    parser.add_argument("--server-container", help="container of the model server [default: found out]")
    parser.add_argument("--server-port", type=int, help="its http port [default: its first that is http]")
    parser.add_argument(
        "--server-path",
        default=given.server_path,
        help=f"where it looks for models [default {given.server_path}]",
    )
    parser.add_argument("--volume-size", help="most disk for models, such as 20Gi [default: the node's]")
    parser.add_argument(
        "--classic",
        dest="native",
        action="store_false",
        help="a container beside the server, for Kubernetes before 1.29",
    )


def execute(given: argparse.Namespace, rest: Sequence[str], _: Mapping[str, str]) -> int:
    """Print; 0, or 1 where a pod cannot be changed or none is there."""
    no_more("inject", rest)
    options = Options(**{field.name: getattr(given, field.name) for field in fields(Options)})
    try:
        text = sys.stdin.read() if given.filename == "-" else Path(given.filename).read_text()
        documents = load_documents(text)
    except OSError as error:
        raise UsageError(f"model-agent inject: {given.filename}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"model-agent inject: {given.filename}: it is not UTF-8 at byte {error.start}"
        ) from None
    except DocumentError as error:
        raise UsageError(f"model-agent inject: {given.filename}: {error}") from None
    changed: list[Any] = []
    pods = 0
    for document in documents:
        try:
            injected = inject(document, options) if isinstance(document, Mapping) else None
        except InjectError as error:
            sys.stderr.write(f"{given.filename}: {error}\n")
            return 1
        changed.append(document if injected is None else injected.manifest)
        if injected is not None:
            pods += 1
            name = f"{document['kind']} {(document.get('metadata') or {}).get('name', '')}".rstrip()
            sys.stderr.write("".join(f"{name}: {note}\n" for note in injected.notes))
    if not pods:
        sys.stderr.write(f"{given.filename} holds no Pod, Deployment or other kind with a pod in it\n")
        return 1
    sys.stdout.write(dump_documents(changed))
    return 0
