import io
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.controller.documents import DocumentError, dump_documents, load_documents
from agent.controller.files import is_installed, render_files, validate_files
from agent.core.modelconfig import desired_state
from agent.core.trainedmodel import parse
from tests.core.trainedmodels import GOOD, trained_model

WORDS = st.sampled_from(
    ["1e3", "yes", "n", "0o7", "1:30", "2026-01-01", "null", "~", "1_0", ".5", "é", " x", "", "0x1", "on"]
)
VALUES = st.recursive(
    WORDS
    | st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=10,
)


@pytest.fixture
def run(tmp_path):
    def run(function, *texts, **rest):
        paths = []
        for number, text in enumerate(texts):
            paths.append(tmp_path / f"{number}.yaml")
            paths[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
        out, err = io.StringIO(), io.StringIO()
        code = function([str(path) for path in paths], *rest.values(), out, err)
        return code, out.getvalue(), err.getvalue().replace(f"{tmp_path}/", "")

    return run


@given(st.lists(st.dictionaries(WORDS, VALUES, min_size=1, max_size=3), max_size=3))
def test_what_is_written_as_yaml_reads_back_to_the_same_values(documents):
    assert load_documents(dump_documents(documents)) == documents


@given(GOOD)
def test_a_trained_model_survives_yaml_and_json(obj):
    obj["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    for text in (dump_documents([obj]), json.dumps(obj), yaml.safe_dump(obj)):
        assert parse(load_documents(text)[0]).to_json() == obj


@pytest.mark.parametrize(
    "text", ["a: [", "{", "a: 1\na: 2", "- !!python/object:os.system x", "\x00", "a: &x [*x"]
)
def test_what_is_no_yaml_is_refused_with_its_place(text):
    with pytest.raises(DocumentError, match="no YAML or JSON"):
        load_documents(text)


def test_good_files_of_every_kind_pass(run):
    many = "\n---\n".join(json.dumps(trained_model(name)) for name in ("a", "b"))
    listed = json.dumps(
        {"apiVersion": "v1", "kind": "List", "items": [trained_model("c"), {"kind": "Pod", "metadata": {}}]}
    )
    config = '[{"modelName":"d","modelSpec":{"storageUri":"s3://b/m","framework":"f","memory":"1Gi"}}]'
    mapped = dump_documents(
        [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "x"},
                "data": {"models.json": config},
            }
        ]
    )
    assert run(validate_files, many, listed, config, mapped) == (0, "5 checked, 0 with faults\n", "")


def test_each_fault_is_told_with_file_document_and_field(run):
    text = json.dumps(trained_model("good")) + "\n---\n" + json.dumps(trained_model("a.b", memory="0"))
    code, out, err = run(validate_files, text)
    assert (code, out) == (1, "2 checked, 1 with faults\n")
    first, second = err.splitlines()
    assert first.startswith('0.yaml: document 2 (a.b): metadata.name: the Trained Model "a.b" is invalid')
    assert second.startswith("0.yaml: document 2 (a.b): spec.model.memory: ")


def test_a_bad_entry_and_a_bad_document_of_a_models_json_are_told(run):
    code, _, err = run(validate_files, '[{"modelName":"m"}]', "[1,", b"\xff")
    assert code == 1
    one, two, three = err.splitlines()
    assert one == "0.yaml: document 1: models.json m: InvalidEntry: entry [0]: modelSpec is missing"
    assert "1.yaml: document 1: models.json: ConfigRejected: " in two
    assert "not UTF-8" in three


def test_a_missing_file_is_a_fault_like_any_other():
    out, err = io.StringIO(), io.StringIO()
    assert validate_files(["/no/such/file"], out, err) == 1
    assert err.getvalue() == "/no/such/file: No such file or directory\n"


def test_the_config_map_of_the_controller_is_rendered(run):
    models = "\n---\n".join(json.dumps(trained_model(name, memory="1.5Gi")) for name in ("b", "a"))
    code, out, err = run(render_files, models, isvc=None)
    assert (code, err) == (0, "")
    [rendered] = load_documents(out)
    assert rendered["metadata"]["name"] == "modelconfig-p-0"
    state = desired_state(rendered["data"]["models.json"].encode(), None)
    assert [(name, spec.memory) for name, spec in state.models.items()] == [("a", "1536Mi"), ("b", "1536Mi")]


def test_a_parent_in_the_files_gives_the_memory_and_refusals_are_explained(run):
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"predictor": {"sklearn": {"resources": {"limits": {"memory": "300Mi"}}}}},
    }
    objects = [service, trained_model("a"), trained_model("b"), trained_model("z", parent="other")]
    code, out, err = run(render_files, dump_documents(objects), isvc="p")
    assert code == 1
    assert [document["metadata"]["name"] for document in load_documents(out)] == ["modelconfig-p-0"]
    assert err == (
        "default/b: MemoryResourceNotAvailable: Inference Service does not have enough memory resources for "
        "Trained Model: it needs 256Mi; shard 0 has 300Mi and 256Mi of it is taken by a 256Mi\n"
    )


def test_rendering_twice_gives_the_same_bytes_whatever_the_order(run):
    objects = [trained_model(name) for name in "abc"]
    one = run(render_files, dump_documents(objects), isvc=None)
    assert one == run(render_files, dump_documents(reversed(objects)), isvc=None)


def test_a_scheme_that_nobody_here_knows_is_a_warning_and_no_fault(tmp_path):
    entry = {"modelName": "m", "modelSpec": {"storageUri": "nope://x/y", "framework": "sklearn"}}
    file = tmp_path / "models.json"
    file.write_text(json.dumps([entry]))
    out, err = io.StringIO(), io.StringIO()
    assert validate_files([str(file)], out, err) == 0
    assert err.getvalue().startswith("warning: nope:// needs a package of fsspec where the agent runs")


def test_a_package_that_is_not_installed_is_a_warning_and_no_fault(tmp_path):
    file = tmp_path / "f.json"
    file.write_text(json.dumps(trained_model(uri="s3://b/m")))
    out, err = io.StringIO(), io.StringIO()
    assert validate_files([str(file)], out, err, lambda _: False) == 0
    assert err.getvalue() == "warning: s3:// needs boto3 where the agent runs: model-agent[s3]\n"
    assert is_installed("json")
    assert not is_installed("no.such.module")
