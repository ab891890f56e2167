"""What is optional in config/: classic sidecar, injection, node cache, KServe's storage."""

import os
import re

import kubernetes_validate
import pytest
import yaml

from agent import cli
from agent.commands import pull as pull_command
from agent.core.inject import Options, inject
from agent.entrypoint import Command, decide
from agent.webhook.injection import PATH
from tests.image.dockerfile import DOCKERFILE, stages
from tests.manifests.test_sidecar import CONFIG, assert_restricted, kustomized, pod_of, sidecar_of

ROOT = CONFIG.parent
VERSIONS = ["1.30", "1.33", "1.36"]


def built(folder, resources=(), components=()):
    """A kustomization of somebody's own, beside the checkout's."""
    near = os.path.relpath(CONFIG, folder)
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "resources": [f"{near}/{each}" if "/" in each else each for each in resources],
                "components": [f"{near}/{each}" for each in components],
            }
        )
    )
    return kustomized(folder)


def of_kind(objects, kind):
    return next(each for each in objects if each["kind"] == kind)


def by_name(containers):
    return {each["name"]: each for each in containers}


def test_the_classic_component_makes_the_pod_of_the_command(tmp_path):
    bare = yaml.safe_load((CONFIG / "samples" / "mlserver" / "deployment.yaml").read_text())
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump(bare))
    made = pod_of(of_kind(built(tmp_path, ["deployment.yaml"], ["sidecar-classic"]), "Deployment"))
    options = Options(config_map="modelconfig-model-agent-0", native=False)
    by_command = pod_of(inject(bare, options).manifest)
    sidecar = sidecar_of(by_command)
    sidecar["args"] = [each for each in sidecar["args"] if "--server-url" not in each]
    assert by_name(made.pop("containers")) == by_name(by_command.pop("containers"))
    assert made == by_command
    assert "restartPolicy" not in sidecar


def test_injection_at_admission_is_an_addition_to_the_webhook(tmp_path):
    objects = built(tmp_path, ["./webhook"], ["injection"])
    service = of_kind(objects, "Service")["metadata"]
    injector = of_kind(objects, "MutatingWebhookConfiguration")
    (webhook,) = injector["webhooks"]
    where = {"name": service["name"], "namespace": service["namespace"], "path": PATH}
    assert webhook["clientConfig"]["service"] == where
    assert webhook["failurePolicy"] == "Ignore"
    for version in VERSIONS:
        kubernetes_validate.validate(injector, version, strict=True)
    assert all("Mutating" not in each["kind"] for each in kustomized(CONFIG / "webhook"))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_cache_of_a_node_is_used_with_arguments_that_pull_takes(version):
    objects = kustomized(CONFIG / "samples" / "node-cache")
    for each in objects:
        kubernetes_validate.validate(each, version, strict=True)
    pod = pod_of(of_kind(objects, "Deployment"))
    assert_restricted(pod)
    (puller,), (server,) = pod["initContainers"], pod["containers"]
    mounts = {each["name"]: each for each in server["volumeMounts"]}
    assert all(each["readOnly"] for each in mounts.values())
    given = parsed_pull(puller["args"][1:])
    assert str(given.cache_dir) == mounts["cache"]["mountPath"]  # symlinks lead to the same path
    assert given.cache_symlinks


def parsed_pull(words):
    import argparse  # noqa: PLC0415

    parser = argparse.ArgumentParser()
    pull_command.add_arguments(parser)
    return parser.parse_args(words)


def test_kserves_storage_container_is_this_images_pull():
    folder = CONFIG / "samples" / "storage-initializer"
    made = yaml.safe_load((folder / "storage-container.yaml").read_text())["spec"]
    container = made["container"]
    assert "args" not in container
    assert "command" not in container
    assert container["name"] == "storage-initializer"
    pod = {"containers": [container]}
    assert_restricted(pod)
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod}, "1.36", strict=True
    )
    for each in made["supportedUriFormats"]:
        words = [f"{each['prefix']}bucket/m", "/mnt/models"]
        assert decide(words, {}) == Command(("pull", *words))


def test_the_compose_file_fits_the_image_and_the_command():
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    agent = compose["services"]["agent"]
    build = agent["build"]
    assert (ROOT / "docker" / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE
    assert set(build["args"]) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE.read_text(), re.MULTILINE))
    assert agent["user"] == stages(DOCKERFILE.read_text())[-1].user
    (name, *words) = agent["command"]
    assert name in cli.COMMANDS
    mounts = {}
    for each in agent["volumes"]:
        source, target, *mode = each.split(":")
        mounts[target] = (source, mode)
    flags = dict(word.removeprefix("--").split("=") for word in words)
    assert mounts[flags["config-dir"]] == ("./compose", ["ro"])
    assert (ROOT / "docker" / "compose" / "models.json").exists()
    assert mounts[flags["model-dir"]][0] in compose["volumes"]
    server = compose["services"]["server"]
    assert (
        f"{mounts[flags['model-dir']][0]}:{server['environment']['MLSERVER_MODELS_DIR']}:ro"
        in server["volumes"]
    )
    store = compose["services"]["store"]
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert [store["environment"][key] for key in keys] == [agent["environment"][key] for key in keys]
    port = agent["environment"]["AWS_ENDPOINT_URL"].rpartition(":")[2]
    assert f"-s3.port={port}" in store["command"]
    assert set(agent["depends_on"]) <= set(compose["services"])
    assert agent["network_mode"] == "service:server"
