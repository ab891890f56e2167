"""YAML and JSON files of Kubernetes objects, read as kubectl reads them and written back without loss.

PyYAML's own reading differs in a few places that would change what an object says: dates and
base-60 numbers become strings here, a key that comes twice is refused.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml


class DocumentError(ValueError):
    """The text is no YAML or JSON; the message says where."""


class _Loader(yaml.SafeLoader):
    """Reads what Kubernetes' YAML reader reads, and refuses a key that comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        self.flatten_mapping(node)
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} comes twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what another YAML reader would take for a number, a date or a word for true."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


_KEPT = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _KEPT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(?:0b[01]+|0o?[0-7]+|0x[0-9a-fA-F]+|0|[1-9][0-9]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan)$"
    ),
    list("-+0123456789."),
)
_Dumper.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"(?:[-+]?(?:[0-9][0-9_]*)?\.?[0-9_]*(?:[eE][-+]?[0-9]+)?|0o[0-7]+)$"),
    list("-+0123456789."),
)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"[yYnN]$"), list("yYnN"))


def load_documents(text: str) -> list[Any]:
    """Return the documents of a file, empty ones left out. Raises DocumentError."""
    try:
        if text.lstrip()[:1] in {"{", "["} and "\n---" not in text:
            return [json.loads(text)]
    except ValueError:
        pass  # YAML's flow style begins alike; let its reader say what is wrong
    except RecursionError as error:
        raise DocumentError("it is nested too deeply") from error
    try:
        return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DocumentError(_words(error)) from error


def _words(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.reader.ReaderError):
        return f"it is no YAML or JSON: no text has what is at character {error.position + 1}"
    mark = getattr(error, "problem_mark", None)
    place = f" at line {mark.line + 1} column {mark.column + 1}" if mark is not None else ""
    return f"it is no YAML or JSON{place}: {getattr(error, 'problem', None) or type(error).__name__}"


def dump_documents(documents: Iterable[Mapping[str, Any]]) -> str:
    """Return the documents as YAML that reads back to the same values."""
    return yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**20, explicit_start=True
    )


def objects(document: Any) -> Iterator[Any]:
    """Return the objects of a document: the items of a list of any kind, else the document itself."""
    if isinstance(document, Mapping) and str(document.get("kind", "")).endswith("List"):
        items = document.get("items")
        yield from items if isinstance(items, list) else ()
    else:
        yield document
