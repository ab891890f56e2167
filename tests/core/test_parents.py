import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.parents import is_multi_model, predict_path, predictor_protocol, read_parent, server_container

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["metadata", "spec", "status", "predictor",
             "containers", "labels", "resources", "limits", "memory",
             "conditions", "template", "ports", "name", "env", "model", "modelFormat"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
OBJECTS = st.dictionaries(st.sampled_from(["spec", "status"]), JSON).map(
    lambda rest: {"metadata": {"name": "p", "namespace": "n", "labels": {}}} | rest
)
DEPLOYMENT_LABELS = {"serving.kserve.io/inferenceservice": "p"}


def inference_service(predictor, *, ready=True, **status):
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "metadata": {"name": "p", "namespace": "default", "uid": "u1"},
        "spec": {"predictor": predictor},
        "status": {"conditions": conditions, **status},
    }


def deployment(name="d", shard=None, memory="4Gi", *, available=True, env=()):
    labels = DEPLOYMENT_LABELS | ({} if shard is None else {"serving.kserve.io/shard": shard})
    server = {"name": "server", "resources": {"limits": {"memory": memory}}, "env": list(env)}
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels},
        "spec": {"template": {"spec": {"containers": [{"name": "agent"}, server]}}},
        "status": {"conditions": [{"type": "Available", "status": "True" if available else "False"}]},
    }


def service(service_name="s", shard=None, **port):
    labels = DEPLOYMENT_LABELS | ({} if shard is None else {"serving.kserve.io/shard": shard})
    return {
        "metadata": {"name": service_name, "namespace": "default", "labels": labels},
        "spec": {"ports": [port]},
    }


@given(st.none() | OBJECTS, st.lists(OBJECTS, max_size=2), st.lists(OBJECTS, max_size=2))
def test_objects_of_any_shape_are_read(inference_service, deployments, services):
    read_parent(inference_service, deployments, services)


@pytest.mark.parametrize(
    ("predictor", "multi"),
    [
        ({"sklearn": {}}, True),
        ({"sklearn": {"storageUri": "s3://b"}}, False),
        ({"model": {"modelFormat": {"name": "sklearn"}}}, True),
        ({"model": {"modelFormat": {"name": "huggingface"}}}, False),
        ({"huggingface": {}}, False),
        ({"triton": {"storage": {"key": "k"}}}, False),
        ({"triton": {"storageUris": [{"uri": "s3://b"}]}}, False),
        ({"containers": [{"env": [{"name": "MULTI_MODEL_SERVER", "value": "true"}]}]}, True),
        ({"containers": [{"env": [{"name": "MULTI_MODEL_SERVER", "value": "True"}]}]}, False),
        ({"containers": [{}]}, False),
        ({}, False),
        (None, False),
    ],
)
def test_a_predictor_is_multi_model_as_kserve_says(predictor, multi):
    assert is_multi_model(predictor) is multi


@pytest.mark.parametrize(
    ("predictor", "protocol"),
    [
        ({"sklearn": {}}, "v1"),
        ({"sklearn": {"protocolVersion": "v2"}}, "v2"),
        ({"triton": {}}, "v2"),
        ({"containers": [{"env": [{"name": "PROTOCOL", "value": "v2"}]}]}, "v2"),
        ({"containers": [{}]}, "v1"),
    ],
)
def test_the_protocol_is_worked_out_as_kserve_does(predictor, protocol):
    assert predictor_protocol(predictor) == protocol


def test_the_path_of_predictions_depends_on_the_protocol():
    assert predict_path("v1", "m") == "/v1/models/m:predict"
    assert predict_path("v2", "m") == "/v2/models/m/infer"
    assert predict_path("grpc-v2", "m") == ""


def test_an_inference_service_gives_memory_readiness_and_addresses():
    limits = {"resources": {"limits": {"memory": "2Gi"}}}
    status = {"url": "http://p.default.example.com", "address": {"url": "http://p.default.svc.cluster.local"}}
    parent = read_parent(inference_service({"sklearn": limits}, **status), [deployment(memory="1Gi")], [])
    shard = parent.shards[0]
    assert (shard.ready, shard.memory.canonical(), shard.owner.kind) == (True, "2Gi", "InferenceService")
    assert (shard.url, shard.internal_url) == (status["url"], status["address"]["url"])


def test_a_labelled_deployment_is_a_parent_of_its_own():
    parent = read_parent(None, [deployment(env=[{"name": "PROTOCOL", "value": "v2"}])], [service(port=8080)])
    shard = parent.shards[0]
    assert (parent.name, parent.multi_model, parent.protocol) == ("p", True, "v2")
    assert (shard.ready, shard.memory.canonical(), shard.owner.name) == (True, "4Gi", "d")
    assert shard.url == "http://s.default.svc.cluster.local:8080"


@pytest.mark.parametrize(
    ("names", "server"),
    [
        (["agent", "server"], "server"),
        (["model-agent", "mine"], "mine"),
        (["istio-proxy", "kserve-container"], "kserve-container"),
        (["proxy", "mlserver", "model-agent"], "mlserver"),
        (["one", "two"], "one"),
        (["agent"], None),
    ],
)
def test_the_servers_container_is_found_beside_the_agent_and_others(names, server):
    containers = [{"name": name} for name in names]
    assert (
        server_container({"spec": {"template": {"spec": {"containers": containers}}}}).get("name") == server
    )


def test_a_custom_predictors_server_is_found_beside_other_containers():
    limits = {"resources": {"limits": {"memory": "2Gi"}}}
    variables = [{"name": "MULTI_MODEL_SERVER", "value": "true"}, {"name": "PROTOCOL", "value": "v2"}]
    containers = [{"name": "model-agent"}, {"name": "kserve-container", "env": variables, **limits}]
    parent = read_parent(inference_service({"containers": containers}), [], [])
    assert (parent.multi_model, parent.protocol, parent.shards[0].memory.canonical()) == (True, "v2", "2Gi")


@pytest.mark.parametrize(
    ("ports", "shown"),
    [
        ([{"name": "http-metrics", "port": 8082}, {"name": "http", "port": 8080}], "http://s.default.svc.cluster.local:8080"),
        ([{"name": "grpc", "port": 8081}, {"name": "rest", "port": 8080}], "http://s.default.svc.cluster.local:8080"),
        ([{"name": "agent-status", "port": 9082}, {"name": "v2", "port": 9000}], "http://s.default.svc.cluster.local:9000"),
        ([{"name": "web", "port": 8443, "appProtocol": "https"}], "https://s.default.svc.cluster.local:8443"),
        ([{"name": "http1", "port": 80}], "http://s.default.svc.cluster.local"),
        ([{"port": 443}], "https://s.default.svc.cluster.local"),
        ([{"name": "grpc", "port": 9000}], "http://s.default.svc.cluster.local:9000"),
        ([], None),
    ],
)  # fmt: skip
def test_the_address_is_the_services_port_for_http(ports, shown):
    there = service() | {"spec": {"ports": ports}}
    assert read_parent(None, [deployment()], [there]).shards[0].url == shown


def test_shards_are_told_apart_by_label_and_have_their_own_memory_and_service():
    deployments = [deployment("d0"), deployment("d1", "1", "8Gi", available=False), deployment("odd", "x")]
    parent = read_parent(
        None, deployments, [service("s0", port=80), service("s1", "1", port=443, name="https")]
    )
    assert {n: (s.memory.canonical(), s.ready, s.url) for n, s in parent.shards.items()} == {
        0: ("4Gi", True, "http://s0.default.svc.cluster.local"),
        1: ("8Gi", False, "https://s1.default.svc.cluster.local"),
    }


def test_shards_beside_an_inference_service_add_to_it():
    parent = read_parent(
        inference_service({"sklearn": {}}), [deployment("kserves"), deployment("d1", "1")], []
    )
    assert {n: s.owner.kind for n, s in parent.shards.items()} == {0: "InferenceService", 1: "Deployment"}


def test_without_any_object_there_is_no_parent():
    assert read_parent(None, [], []) is None
