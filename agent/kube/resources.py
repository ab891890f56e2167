"""The kinds of objects that the control plane touches, and where the API server keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]
"""An object as the API server sent it. Never changed in place: the caches share it."""

Key = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind by its group ("" for the core), version and plural."""

    group: str
    version: str
    plural: str

    def path(
        self, namespace: str | None = None, name: str | None = None, subresource: str | None = None
    ) -> str:
        """Return the URL's path, of all namespaces where none is given."""
        root = f"/apis/{self.group}" if self.group else "/api"
        parts = [root, self.version]
        parts += ["namespaces", namespace] if namespace is not None else []
        parts += [part for part in (self.plural, name, subresource) if part is not None]
        return "/".join(parts)


TRAINED_MODELS = Resource("serving.kserve.io", "v1alpha1", "trainedmodels")
INFERENCE_SERVICES = Resource("serving.kserve.io", "v1beta1", "inferenceservices")
CONFIG_MAPS = Resource("", "v1", "configmaps")
DEPLOYMENTS = Resource("apps", "v1", "deployments")
SERVICES = Resource("", "v1", "services")
PODS = Resource("", "v1", "pods")
EVENTS = Resource("", "v1", "events")
LEASES = Resource("coordination.k8s.io", "v1", "leases")


def key_of(obj: Object) -> Key:
    """Return namespace and name, empty where there is none."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata.get("name", "")


def version_of(obj: Object) -> str:
    """Return the resourceVersion, empty where there is none."""
    return str(obj.get("metadata", {}).get("resourceVersion", ""))


def is_older(one: Object, other: Object) -> bool:
    """Tell whether *one* is an earlier version of *other*, by the number that resourceVersions are.

    False where they are none: then the newest word from the server counts.
    """
    a, b = version_of(one), version_of(other)
    return a.isdigit() and b.isdigit() and int(a) < int(b)
