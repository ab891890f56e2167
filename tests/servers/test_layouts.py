"""How each dialect wants a model's folder: pure, so properties first."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import TerminalError
from agent.core.model import ModelSpec
from agent.core.reasons import Reason
from agent.servers.kserve import KServeServer
from agent.servers.mlserver import MLServerServer
from agent.servers.pbtxt import renamed
from agent.servers.triton import TritonServer
from agent.servers.wire import Wire

KSERVE, MLSERVER, TRITON = (
    kind(Wire("http://127.0.0.1:1")) for kind in (KServeServer, MLServerServer, TritonServer)
)

NAME = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,30}", fullmatch=True)
MODEL_FILES = ["model.joblib", "model.onnx", "net.onnx", "model.py", "model.bst", "saved_model.pb"]
SEGMENT = st.sampled_from(
    [*MODEL_FILES, "1", "2", "v1", "config.pbtxt", "labels.txt", "x", "model-settings.json", "README.md"]
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "name": NAME,
        "implementation": st.just("mlserver_sklearn.SKLearnModel"),
        "parameters": st.fixed_dictionaries({}, optional={"version": NAME, "uri": st.just("./x")}),
    },
)


@st.composite
def folders(draw):
    paths = draw(st.sets(st.lists(SEGMENT, min_size=1, max_size=3).map("/".join), min_size=1, max_size=8))
    whole = {path for path in paths if not any(other.startswith(f"{path}/") for other in paths)}
    return {path: draw(content_of(path)) for path in sorted(whole)}


def content_of(path):
    if path.endswith("model-settings.json"):
        return SETTINGS.map(lambda document: json.dumps(document).encode())
    if path.endswith("config.pbtxt"):
        return NAME.map(lambda name: f'name: "{name}"\nbackend: "python"\n'.encode())
    return st.just(b"bytes")


def laid_out(server, name, files, framework="sklearn"):
    return server.layout(name, ModelSpec("s3://b/k", framework, 0), files.keys(), files.__getitem__)


@given(NAME, folders(), st.sampled_from(["sklearn", "xgboost", "mlflow", "onnx", ""]))
def test_a_layout_links_only_files_of_the_revision_and_is_the_same_each_time(name, files, framework):
    for server in (KSERVE, MLSERVER, TRITON):
        try:
            layout = laid_out(server, name, files, framework)
        except TerminalError:
            continue
        assert {source for source in layout.values() if isinstance(source, str)} <= files.keys()
        assert layout == laid_out(server, name, files, framework)
        for path in layout:
            assert not any(other.startswith(f"{path}/") for other in layout), (
                "a file in the place of a folder"
            )


@given(NAME, folders())
def test_kserve_gets_the_files_as_they_are(name, files):
    assert laid_out(KSERVE, name, files) == {path: path for path in files}


@given(NAME, folders())
def test_mlserver_finds_no_settings_that_bear_another_name(name, files):
    try:
        layout = laid_out(MLSERVER, name, files)
    except TerminalError:
        return
    settings = {path: source for path, source in layout.items() if path.endswith("model-settings.json")}
    assert settings
    for source in settings.values():
        assert json.loads(files[source] if isinstance(source, str) else source)["name"] == name
    assert {path for path in files if not path.endswith("model-settings.json")} <= layout.keys()


@given(NAME, folders())
def test_triton_keeps_every_file_and_has_a_version(name, files):
    layout = laid_out(TRITON, name, files)
    fresh = [path for path, source in layout.items() if isinstance(source, bytes)]
    assert set(fresh) <= {"config.pbtxt", "1/.keep"}
    linked = [source for source in layout.values() if isinstance(source, str)]
    assert sorted(linked + [path for path in fresh if path in files]) == sorted(files)


def test_settings_with_another_name_keep_all_else():
    files = {
        "model-settings.json": b'{"name": "a", "extra": {"n": 1.5}, "parameters": {"uri": "./m"}}',
        "m": b"",
    }
    layout = laid_out(MLSERVER, "b", files)
    assert json.loads(layout["model-settings.json"]) == {
        "name": "b",
        "extra": {"n": 1.5},
        "parameters": {"uri": "./m"},
    }


def test_settings_with_the_right_name_are_linked():
    files = {"model-settings.json": b'{"name": "b"}', "m": b""}
    assert laid_out(MLSERVER, "b", files)["model-settings.json"] == "model-settings.json"


@pytest.mark.parametrize(
    ("framework", "paths", "uri"),
    [
        ("sklearn", ["model.pkl", "README.md"], "./model.pkl"),
        ("sklearn", ["model.joblib", "model.pkl"], "./model.joblib"),
        ("sklearn", ["iris.weird"], "./iris.weird"),
        ("sklearn", ["deep/iris.pkl", "README.md"], "./deep/iris.pkl"),
        ("SKLearn", ["model.joblib"], "./model.joblib"),
        ("xgboost", ["model.json", "features.csv"], "./model.json"),
        ("lightgbm", ["booster.bst", "notes"], "./booster.bst"),
        ("catboost", ["model.cbm"], "./model.cbm"),
    ],
)
def test_made_settings_point_at_the_models_file(framework, paths, uri):
    settings = json.loads(
        laid_out(MLSERVER, "m", dict.fromkeys(paths, b""), framework)["model-settings.json"]
    )
    assert settings["parameters"] == {"uri": uri}


@pytest.mark.parametrize("framework", ["mlflow", "huggingface"])
def test_made_settings_of_a_folder_model_leave_the_folder_as_default(framework):
    layout = laid_out(MLSERVER, "m", {"MLmodel": b"", "data/x": b""}, framework)
    assert "parameters" not in json.loads(layout["model-settings.json"])


@pytest.mark.parametrize(
    ("files", "framework", "words"),
    [
        ({"model.pmml": b""}, "pmml", "no MLServer runtime"),
        ({"a.pkl": b"", "b.pkl": b""}, "sklearn", "none of the files"),
        ({"we#ird.pkl": b""}, "sklearn", "rename it"),
        ({"model-settings.json": b"{"}, "sklearn", "is not JSON"),
        ({"model-settings.json": b"[]"}, "sklearn", "no JSON object"),
        ({"a/model-settings.json": b"{}", "b/model-settings.json": b"{}"}, "sklearn", "same version"),
    ],
)
def test_what_mlserver_cannot_serve_is_refused_with_what_to_add(files, framework, words):
    with pytest.raises(TerminalError, match=words) as caught:
        laid_out(MLSERVER, "m", files, framework)
    assert caught.value.reason is Reason.LOAD_REJECTED
    assert "model-settings.json" in caught.value.message


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["config.pbtxt", "1/model.onnx"], {"config.pbtxt": "config.pbtxt", "1/model.onnx": "1/model.onnx"}),
        (["model.onnx"], {"1/model.onnx": "model.onnx"}),
        (["resnet50.onnx"], {"1/model.onnx": "resnet50.onnx"}),
        (["net.pth", "vocab.txt"], {"1/model.pt": "net.pth", "1/vocab.txt": "vocab.txt"}),
        (
            ["config.pbtxt", "labels.txt", "model.plan"],
            {"config.pbtxt": "config.pbtxt", "labels.txt": "labels.txt", "1/model.plan": "model.plan"},
        ),
        (
            ["saved_model.pb", "variables/v.index"],
            {
                "1/model.savedmodel/saved_model.pb": "saved_model.pb",
                "1/model.savedmodel/variables/v.index": "variables/v.index",
            },
        ),
        (["model.py", "deps/x.py"], {"1/model.py": "model.py", "1/deps/x.py": "deps/x.py"}),
    ],
)
def test_bare_files_go_to_version_one_of_triton(paths, expected):
    files = dict.fromkeys(paths, b'name: "m"')
    assert laid_out(TRITON, "m", files) == expected


def test_an_ensemble_gets_the_version_folder_it_has_no_file_for():
    files = {"config.pbtxt": b'name: "e"\nplatform: "ensemble"\n'}
    assert laid_out(TRITON, "e", files) == {"config.pbtxt": "config.pbtxt", "1/.keep": b""}


def test_a_config_that_names_the_file_keeps_its_name():
    files = {"config.pbtxt": b'default_model_filename: "net.onnx"', "net.onnx": b""}
    assert "1/net.onnx" in laid_out(TRITON, "m", files)


# config.pbtxt

FIELD = st.sampled_from(
    [
        'backend: "python"',
        "max_batch_size: 8",
        'input [ { name: "in" dims: [ -1, 3 ] } ]',
        'input { name: "in" }',
        'ensemble_scheduling { step [ { model_name: "x" input_map { key: "a" value: "b" } } ] }',
        '# name: "comment"',
        'parameters { key: "p" value: { string_value: "name: \\"q\\" {" } }',
        "parameters < key: 'p' value: < string_value: '#' > >",
        "dynamic_batching { }",
    ]
)


@given(
    st.lists(FIELD),
    st.lists(FIELD),
    NAME,
    NAME,
    st.sampled_from(['name: "{}"', "name:'{}'", 'name :\n"{}",']),
)
def test_only_the_name_at_the_top_changes(before, after, old, new, form):
    config = "\n".join([*before, form.format(old), *after])
    wanted = "\n".join([*before, form.replace("'", '"').format(new), *after])
    assert renamed(config.encode(), new) == wanted.encode()


@given(st.lists(FIELD), NAME)
def test_a_config_without_a_name_stays_as_it_is(fields, new):
    config = "\n".join(fields).encode()
    assert renamed(config, new) == config


@given(st.binary(), NAME)
def test_any_bytes_are_taken_and_a_second_time_changes_nothing(config, new):
    once = renamed(config, new)
    assert renamed(once, new) == once


def test_a_name_in_several_strings_is_one_value():
    assert renamed(b'name: "a" "b"\nbackend: "x"', "m") == b'name: "m"\nbackend: "x"'
