"""The cluster as far as TrainedModels go: six copies of kinds, indexed by parent.

A change of any object rings for its parent; what it was is not told, for whoever hears it reads all.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from agent.controller.agents import Agents, is_ready
from agent.core.configmaps import MANAGED_BY_LABEL, MANAGER
from agent.core.controlplane import Checked, Reading, check
from agent.core.modelstatus import PodReport
from agent.core.parents import COMPONENT_LABEL, PARENT_LABEL, PREDICTOR, shard_number
from agent.kube.client import ApiClient
from agent.kube.informer import Informer, without_managed_fields
from agent.kube.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    PODS,
    SERVICES,
    TRAINED_MODELS,
    Key,
    Object,
    Resource,
    key_of,
)


class Index:
    """The objects of one kind by the parent that they belong to."""

    def __init__(self, parent: Callable[[Object], Key | None], ring: Callable[[Key], None]) -> None:
        self._parent = parent
        self._ring = ring
        self._by_parent: dict[Key, dict[Key, Object]] = {}

    def of(self, parent: Key) -> list[Object]:
        """Return the objects of a parent, by name."""
        return [obj for _, obj in sorted(self._by_parent.get(parent, {}).items())]

    def parents(self) -> Iterable[Key]:
        """Return every parent that something belongs to."""
        return self._by_parent.keys()

    def changed(self, before: Object | None, after: Object | None) -> None:
        """Follow one change and ring for the parents on both sides of it."""
        old = self._parent(before) if before is not None else None
        new = self._parent(after) if after is not None else None
        if before is not None and old is not None:
            held = self._by_parent.get(old, {})
            held.pop(key_of(before), None)
            if not held:
                self._by_parent.pop(old, None)
        if after is not None and new is not None:
            self._by_parent.setdefault(new, {})[key_of(after)] = after
        for parent in {old, new} - {None}:
            if parent is not None:
                self._ring(parent)


class View:
    """Copies of all kinds. *ring* is called with the parent that a change concerns."""

    def __init__(self, client: ApiClient, agents: Agents, ring: Callable[[Key], None]) -> None:
        self._agents = agents
        self.models = Index(_named_parent, ring)
        self._checked: dict[Key, Checked] = {}
        self.services = Index(_labelled_parent, ring)
        self.deployments = Index(_labelled_parent, ring)
        self.config_maps = Index(_labelled_parent, ring)
        self.pods = Index(_pod_parent, ring)
        self.inference_services = Index(key_of, ring)
        ours = f"{MANAGED_BY_LABEL}={MANAGER}"
        self._kinds: Mapping[Resource, Informer] = {
            TRAINED_MODELS: Informer(
                client, TRAINED_MODELS, self._model_changed, keep=without_managed_fields
            ),
            CONFIG_MAPS: Informer(client, CONFIG_MAPS, self.config_maps.changed, selector=ours),
            INFERENCE_SERVICES: Informer(
                client,
                INFERENCE_SERVICES,
                self.inference_services.changed,
                keep=without_managed_fields,
                optional=True,
            ),
            DEPLOYMENTS: Informer(
                client,
                DEPLOYMENTS,
                self.deployments.changed,
                selector=PARENT_LABEL,
                keep=without_managed_fields,
            ),
            SERVICES: Informer(
                client, SERVICES, self.services.changed, selector=PARENT_LABEL, keep=without_managed_fields
            ),
            PODS: Informer(
                client, PODS, self._pod_changed, selector=PARENT_LABEL, keep=without_managed_fields
            ),
        }

    async def synced(self) -> None:
        """Wait until every kind was listed once."""
        for informer in self._kinds.values():
            await informer.synced.wait()

    @property
    def ready(self) -> bool:
        """Tell whether every kind was listed once."""
        return not self.unread

    @property
    def unread(self) -> tuple[str, ...]:
        """Return the kinds that could not be listed yet."""
        return tuple(kind.plural for kind, copy in self._kinds.items() if not copy.synced.is_set())

    async def run(self) -> None:
        """Keep the copies; never returns."""
        async with asyncio.TaskGroup() as group:
            for resource, informer in self._kinds.items():
                group.create_task(informer.run(), name=f"watch {resource.plural}")

    def note(self, resource: Resource, obj: Object) -> None:
        """Take in the answer to a write of our own."""
        self._kinds[resource].note(obj)

    def parents(self) -> set[Key]:
        """Return every parent that there is, or that a TrainedModel names."""
        indexes = (self.models, self.deployments, self.config_maps, self.inference_services)
        return {key for index in indexes for key in index.parents()}

    def reading(self, parent: Key) -> Reading:
        """Return all that concerns one parent, as the copies have it now."""
        by_service = self._kinds[INFERENCE_SERVICES].present
        service = next(iter(self.inference_services.of(parent)), None)
        deployments = self.deployments.of(parent)
        if by_service and service is None:
            deployments = []  # it is the InferenceService that makes a parent where there is that kind
        numbered = ((shard_number(obj), obj) for obj in self.config_maps.of(parent))
        return Reading(
            namespace=parent[0],
            name=parent[1],
            models=[self._checked[key_of(obj)] for obj in self.models.of(parent)],
            inference_service=service,
            deployments=deployments,
            services=self.services.of(parent),
            config_maps={number: obj for number, obj in numbered if number is not None},
            reports=[self._report(pod) for pod in self.ready_pods(parent)],
        )

    def ready_pods(self, parent: Key) -> list[Object]:
        """Return the pods of a parent that take requests."""
        return [pod for pod in self.pods.of(parent) if is_ready(pod)]

    def _report(self, pod: Object) -> PodReport:
        unasked = PodReport(
            pod["metadata"]["name"], shard_number(pod) or 0, {}, {}, problem="it was not asked yet"
        )
        return self._agents.report(pod) or unasked

    def _model_changed(self, before: Object | None, after: Object | None) -> None:
        if after is not None:
            self._checked[key_of(after)] = check(after)
        elif before is not None:
            self._checked.pop(key_of(before), None)
        self.models.changed(before, after)

    def _pod_changed(self, before: Object | None, after: Object | None) -> None:
        if before is not None and (after is None or _uid(before) != _uid(after)):
            self._agents.forget([key_of(before)])
        self.pods.changed(before, after)


def _labelled_parent(obj: Object) -> Key | None:
    metadata = obj["metadata"]
    name = (metadata.get("labels") or {}).get(PARENT_LABEL)
    return (metadata.get("namespace", ""), name) if name else None


def _pod_parent(pod: Object) -> Key | None:
    """Return the parent that a pod is a replica of; KServe's transformers and explainers serve no models."""
    component = (pod["metadata"].get("labels") or {}).get(COMPONENT_LABEL, PREDICTOR)
    return _labelled_parent(pod) if component == PREDICTOR else None


def _named_parent(obj: Object) -> Key | None:
    spec = obj.get("spec")
    name = spec.get("inferenceService") if isinstance(spec, Mapping) else None
    return (obj["metadata"].get("namespace", ""), name if isinstance(name, str) else "")


def _uid(obj: Object) -> str:
    return str(obj["metadata"].get("uid", ""))
