"""Pods that ask for the sidecar at admission: the same pod as by the command, as a JSON patch."""

import base64
import contextlib
import json
from pathlib import Path

import pytest
import yaml
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from agent.core.inject import Options, inject
from agent.core.injection import LABEL, wanted
from agent.webhook.injection import PATH, answer
from agent.webhook.review import ReviewError
from agent.webhook.server import make_app
from tests.fakes.jsonpatch import carried_out
from tests.webhook.test_webhook import JSON, review

CONFIG = Path(__file__).parents[2] / "config"
SPEC = {"containers": [{"name": "server", "image": "s"}, {"name": "other", "image": "o"}]}
OWNED = {"ownerReferences": [{"kind": "ReplicaSet", "name": "iris-5d9f", "controller": True}]}


def pod(spec=SPEC, annotations=(), labels=(), **metadata):
    metadata["labels"] = {LABEL: "true", "pod-template-hash": "5d9f", **dict(labels)}
    metadata["annotations"] = {f"model-agent/{key}": value for key, value in dict(annotations).items()}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def ask(obj, operation="CREATE", options=Options()):  # noqa: B008 - frozen
    return answer(json.dumps(review(obj, operation=operation)).encode(), options)["response"]


def patched(obj, response):
    """Carry out the JSON patch of a response, where it has one."""
    return carried_out(obj, json.loads(base64.b64decode(response.get("patch", "W10="))))


NAMES = st.lists(st.sampled_from(["server", "proxy", "kserve-container"]), min_size=1, unique=True)


@given(NAMES, st.booleans(), st.sampled_from([None, "1Gi"]), st.booleans())
def test_the_pod_is_the_one_that_the_command_makes_and_twice_is_once(names, native, size, with_init):
    spec = {"containers": [{"name": name, "image": "i"} for name in names]}
    if with_init:
        spec["initContainers"] = [{"name": "first", "image": "i"}]
    options = Options(native=native, volume_size=size)
    bare = pod(spec, name="iris")
    made = patched(bare, ask(bare, options=options))
    assert made["spec"] == inject(bare, options).manifest["spec"]
    assert "patch" not in ask(made, options=options)
    classic = patched(made, ask({**made, "metadata": pod(annotations={"classic": "true"})["metadata"]}))
    assert "initContainers" in classic["spec"] or not with_init


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"name": "iris"}, "iris"),
        ({"generateName": "iris-5d9f-", **OWNED}, "iris"),
        ({"ownerReferences": [{"kind": "StatefulSet", "name": "set", "controller": True}]}, "set"),
        ({}, "model-agent"),
    ],
)
def test_the_models_are_those_of_what_made_the_pod(metadata, name):
    bare = pod(**metadata)
    volumes = patched(bare, ask(bare))["spec"]["volumes"]
    assert volumes[1]["configMap"]["name"] == f"modelconfig-{name}-0"


def test_annotations_are_the_commands_options():
    said = {
        "config-map": "mine", "server-container": "other", "server-port": "9000", "volume-size": "2Gi",
        "server-path": "/models",
    }  # fmt: skip
    bare = pod(annotations=said)
    options = Options(config_map="mine", server_container="other", server_port=9000, volume_size="2Gi")
    wanted_ = inject({**bare, "kind": "Pod"}, Options(**{**vars_of(options), "server_path": "/models"}))
    assert patched(bare, ask(bare))["spec"] == wanted_.manifest["spec"]


def vars_of(options):
    return {name: getattr(options, name) for name in type(options).__slots__}


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ({"server-container": "none"}, "it has server, other"),
        ({"server-port": "http"}, "is no port"),
        ({"volume-size": "much"}, "20Gi"),
        ({"volume": "2Gi"}, "model-agent/volume "),
    ],
)
def test_a_pod_that_cannot_have_it_is_refused_in_words(annotations, said):
    response = ask(pod(annotations=annotations))
    assert not response["allowed"]
    assert said in response["status"]["message"]


def test_who_does_not_ask_passes_as_they_are():
    for obj, operation in [
        (pod(labels={LABEL: "false"}), "CREATE"),
        ({"kind": "Pod", "spec": SPEC}, "CREATE"),
        (pod(), "UPDATE"),
    ]:
        assert ask(obj, operation) == {"uid": "u", "allowed": True}


@given(st.binary(max_size=30) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_answered_or_refused(body):
    with contextlib.suppress(ReviewError):
        assert answer(body, Options())["kind"] == "AdmissionReview"


SERVER = {"name": "server"}
SHAPES = [
    *(None, 7, [], {"containers": 7}, {"containers": [7]}, {"containers": [SERVER], "volumes": 7}),
    *({"containers": [{**SERVER, key: [7]}]} for key in ("volumeMounts", "ports", "resources")),
]


@pytest.mark.parametrize("metadata", [7, [], {"labels": 7}, {"labels": {LABEL: "true"}, "annotations": []}])
@pytest.mark.parametrize("spec", SHAPES)
def test_a_pod_of_any_shape_is_answered_or_refused(metadata, spec):
    with contextlib.suppress(ReviewError):
        ask({"metadata": metadata, "spec": spec})


async def test_it_is_asked_at_the_path_that_the_manifest_names_for_the_label_that_it_looks_at():
    manifest = yaml.safe_load((CONFIG / "injection" / "injection.yaml").read_text())
    (webhook,) = manifest["webhooks"]
    assert webhook["clientConfig"]["service"]["path"] == PATH
    assert wanted({"metadata": {"labels": webhook["objectSelector"]["matchLabels"]}})
    async with TestClient(TestServer(make_app(Options(image="mine:1")))) as client:
        async with client.post(PATH, json=review(pod())) as answered:
            response = (await answered.json())["response"]
        assert patched(pod(), response)["spec"]["initContainers"][0]["image"] == "mine:1"
        async with client.post(PATH, data=b"{") as answered:
            assert answered.status == 400
