"""A mistake is told in one line of what, where and what next, with the right code; there is no traceback."""

import errno
import socket

import pytest
import yaml

from agent.cli import USAGE, main

FILES = {
    "empty.yaml": b"",
    "bad.yaml": b": : :\n - [\n",
    "binary.yaml": b"\x8d\xff\x00" * 100,
    "deep.json": b"[" * 20_000,
    "nul.yaml": b"a\0b",
    "pod.yaml": b"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n",
    "object.json": b"{}",
}
NO_TEXT = "it is not UTF-8 at byte 0"


@pytest.fixture
def said(tmp_path, capsys, monkeypatch):
    """Run a command beside the files; return its code and what it said on standard error."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)

    def said(*words):
        code = main(words)
        return code, capsys.readouterr().err

    return said


@pytest.mark.parametrize(
    ("command", "codes"),
    [
        (("validate", "-f"), {1}),
        (("render", "-f"), {1}),
        (("inject", "-f"), {USAGE}),
        (("plan",), {1, USAGE}),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
@pytest.mark.parametrize("name", ["missing.yaml", "bad.yaml", "binary.yaml", "nul.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(said, command, codes, name):
    code, words = said(*command, name)
    assert code in codes
    assert name in words
    assert len(words.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("plan empty.yaml", 1, "empty.yaml: ConfigRejected: the document is empty"),
        ("plan pod.yaml", 1, "TrainedModels in YAML are given with -f"),
        ("plan object.json", 1, "an object where an array of models is expected"),
        ("plan deep.json", 1, "nested too deeply"),
        ("plan -f pod.yaml", USAGE, "hold no TrainedModels"),
        ("plan --allowed-roots rel object.json", USAGE, "a path that is not absolute"),
        ("plan --memory-budget lots object.json", USAGE, "'lots' is no quantity: write digits"),
        ("validate -f pod.yaml", 0, "pod.yaml holds nothing to check"),
        ("validate -f binary.yaml", 1, NO_TEXT),
        ("render -f pod.yaml", 0, "nothing to render"),
        ("render -f pod.yaml --isvc p", 0, "no TrainedModel of the InferenceService p"),
        ("inject -f deep.json", USAGE, "nested too deeply"),
        ("inject -f binary.yaml", USAGE, NO_TEXT),
        ("inject -f pod.yaml", 1, "pod.yaml: x has no containers"),
        ("status --url http://127.0.0.1:99999", USAGE, "is no URL such as"),
        ("status --url http://", USAGE, "is no URL such as"),
        ("status --token-file missing", USAGE, "cannot be read: No such file"),
        ("dummy-server missing", USAGE, "'missing' is no folder"),
        ("dummy-server empty.yaml", USAGE, "'empty.yaml' is no folder"),
        ("dummy-server . --port 99999", USAGE, "'99999' is no port"),
        ("dummy-server . --load-seconds -1", USAGE, "'-1' is no number of seconds"),
        ("controller --kubeconfig missing --probe-port 0", 1, "No such file"),
        ("controller --kubeconfig empty.yaml --probe-port 0", 1, "is empty, or no object"),
        ("controller --kubeconfig binary.yaml --probe-port 0", 1, "is no YAML"),
        ("controller --kubeconfig pod.yaml --probe-port 0", 1, "names no current-context"),
    ],
)  # fmt: skip
def test_a_mistake_has_its_code_and_its_words(said, words, code, told):
    found, err = said(*words.split(" "))
    assert (found, told in err) == (code, True), err


@pytest.mark.parametrize("words", ["status --url {}", "plan --url {} models.json"])
def test_who_does_not_answer_as_an_agent_is_named_with_the_systems_word(said, tmp_path, words):
    (tmp_path / "models.json").write_text("[]")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    code, err = said(*words.format(url).split(" "))
    assert code != 0
    assert f"{url} does not answer as an agent (Connection refused)" in err


def test_a_port_that_is_taken_is_told_with_what_to_do(said):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, err = said("dummy-server", ".", "--port", str(taken.getsockname()[1]))
    assert code == 1
    assert "name another --port" in err
    assert f"[Errno {errno.EADDRINUSE}]" not in err


def test_injecting_changes_no_value_that_kubernetes_reads_otherwise_than_python(said, tmp_path, capsys):
    """A time of day is no number, a date is no date, and what looks like a number stays quoted."""
    args = ["12:30", "2026-01-01", '"1e3"', '"y"', '"0o17"']
    (tmp_path / "pod.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n"
        f"spec: {{containers: [{{name: s, image: i, args: [{', '.join(args)}]}}]}}\n"
    )
    assert main(["inject", "-f", "pod.yaml"]) == 0
    (container,) = yaml.load(capsys.readouterr().out, yaml.BaseLoader)["spec"]["containers"]  # noqa: S506 - all texts
    assert container["args"] == ["12:30", "2026-01-01", "1e3", "y", "0o17"]
