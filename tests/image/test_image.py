"""The image, made and run as its Dockerfile says, with no container engine."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import aiohttp
import psutil
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.image.dockerfile import DOCKERFILE, ROOT, Image, stages
from tests.servers import real

MIB = 1 << 20
UID = 1000650000  # as OpenShift gives one: in no passwd file


def test_the_linter_finds_nothing():
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_stages_stand_on_one_base_that_is_pinned_by_digest():
    build, final = stages(DOCKERFILE.read_text())
    assert build.base == final.base == "${PYTHON_IMAGE}@${PYTHON_DIGEST}"


def test_it_runs_as_a_number_that_is_not_root_and_its_ports_are_those_of_the_settings():
    final = stages(DOCKERFILE.read_text())[-1]
    assert final.user == "65532:65532"
    assert final.exposed == ["9081", "9082"]
    wanted = {"title", "description", "licenses", "version", "revision", "created"}
    assert set(final.labels) == {f"org.opencontainers.image.{name}" for name in wanted}


def test_what_it_copies_is_there_and_is_not_ignored():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for stage in stages(DOCKERFILE.read_text()):
        for word, rest, _ in stage.steps:
            if word == "COPY" and "--from=" not in rest:
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists()
                    assert source.split("/")[0] in allowed


def test_every_runtime_requirement_has_a_hash_and_is_what_the_package_asks_for():
    text = (ROOT / "requirements" / "runtime.txt").read_text()
    pins = [line for line in text.splitlines() if "==" in line]
    assert pins
    assert all(line.endswith("\\") for line in pins)
    assert "http" not in text.replace("httpx", "").replace("aiohttp", "")


@pytest.fixture(scope="module")
def image():
    if os.geteuid() != 0:
        pytest.skip("a root of its own needs root")
    image = Image(Path(tempfile.mkdtemp(prefix="model-agent-image-", dir="/dev/shm")), VERSION="1.2.3")
    try:
        image.build()
        yield image
    finally:
        image.close()


@pytest.fixture
def run(image, tmp_path):
    """Start the entry point with these mounts; ended at the end, by its id."""
    started = []

    def run(*words, environ=(), mounts=(), program=None):
        log = (tmp_path / "log").open("ab")
        process = image.popen(
            words,
            uid=UID,
            environ=dict(environ),
            mounts=dict(mounts),
            program=program,
            stdout=log,
            stderr=log,
            cwd="/",
        )
        log.close()
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_every_path_that_it_names_is_there(image):
    final = image.upper("final")
    first = image.final.env["PATH"].split(":")[0]
    for name in ("model-agent", *image.final.entrypoint):
        assert os.access(final / first.lstrip("/") / name, os.X_OK)
    written = {path.relative_to(final).parts[:4] for path in final.rglob("*") if path.is_file()}
    assert {each[:4] for each in written} == {("usr", "local", "lib", "model-agent")}


def test_it_says_the_version_that_it_was_built_as(run, tmp_path):
    assert run("--version").wait(60) == 0
    assert (tmp_path / "log").read_text() == "model-agent 1.2.3\n"


COMMANDS = ["status", "run", "controller", "webhook", "pull", "inject", "plan", "validate"]


@pytest.mark.parametrize("words", [[name, "--help"] for name in COMMANDS])
def test_any_user_can_run_any_command(run, tmp_path, words):
    assert run(*words).wait(60) == 0, (tmp_path / "log").read_text()


def test_the_code_is_the_images_own_and_compiled(image):
    packages = next(image.upper("final").glob("usr/local/lib/model-agent/lib/python*/site-packages"))
    assert (packages / "agent" / "entrypoint.py").exists()
    assert list((packages / "agent" / "__pycache__").glob("entrypoint.*.pyc"))
    assert not (packages / "pip").exists()
    assert not list(packages.glob("pytest*"))


CLOUDS = """
import boto3, google.cloud.storage, zstandard
assert zstandard.decompress(zstandard.compress(b"x")) == b"x"
for service in ("s3", "sts", "sso", "sso-oidc"):
    boto3.session.Session().client(service, region_name="eu-central-1").close()
"""


def test_what_object_stores_and_archives_need_is_left_in_it(run, tmp_path):
    process = run("-c", CLOUDS, program=["/usr/local/lib/model-agent/bin/python"])
    assert process.wait(60) == 0, (tmp_path / "log").read_text()


def size(folder):
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink())


def test_it_is_small_enough(image, record_property):
    installed = size(image.upper("final"))
    record_property("installed_mib", round(installed / MIB, 1))
    assert installed < 110 * MIB


def test_what_every_pod_needs_of_it_is_smaller_still(image, record_property):
    """What the wheel asks for with no extra, and what that asks for; compiled as the image has it."""
    packages = next(image.upper("final").glob("usr/local/lib/model-agent/lib/python*/site-packages"))
    there = {
        canonicalize_name(each.metadata["Name"]): each for each in metadata.distributions(path=[packages])
    }
    needed, todo = set(), ["model-agent"]
    while todo:
        name = todo.pop()
        needed.add(name)
        wanted = [Requirement(text) for text in there[name].requires or ()]
        names = {
            canonicalize_name(each.name) for each in wanted if each.marker is None or each.marker.evaluate()
        }
        todo += names - needed
    files = {Path(file.locate()) for name in needed for file in there[name].files}
    compiled = {
        each
        for file in files
        if file.suffix == ".py"
        for each in (file.parent / "__pycache__").glob(f"{file.stem}.*")
    }
    installed = sum(file.lstat().st_size for file in files | compiled if file.exists())
    record_property("without_extras_mib", round(installed / MIB, 1))
    assert needed < set(there)
    assert installed < 60 * MIB


async def test_kserves_arguments_bring_a_model_to_ready_with_a_read_only_root(run, tmp_path, record_property):
    """Another user than the server's, no home, no /tmp to write to: only the model dir is written."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as shared:
        configs, models, source = (Path(shared) / name for name in ("configs", "models", "source"))
        for each in (configs, models, source):
            each.mkdir()
        os.chmod(shared, 0o755)  # noqa: PTH101, S103 - another user has to come in
        models.chmod(0o777)  # as an emptyDir is
        (source / "model.joblib").write_bytes(b"model")
        spec = {"storageUri": "file:///mnt/pvc/source", "framework": "sklearn", "memory": "1Mi"}
        (configs / "models.json").write_text(json.dumps([{"modelName": "m", "modelSpec": spec}]))
        async with real.dummy(models, "kserve") as server:
            port, status = real.free_ports(2)
            component = server.url.rpartition(":")[2]
            process = run(
                "--enable-puller", "--config-dir", "/mnt/configs", "--model-dir", "/mnt/models",
                "--component-port", component,
                environ={
                    "SERVING_READINESS_PROBE": json.dumps({"tcpSocket": {"port": int(component)}}),
                    "MODELAGENT_PORT": port, "MODELAGENT_STATUS_PORT": status,
                    "MODELAGENT_SERVER_URL": server.url, "MODELAGENT_DRAIN_QUIET": "0.2s",
                    "MODELAGENT_AGENT_SOCKET": f"@/image-test/{port}",
                },
                mounts={"/mnt/configs": configs, "/mnt/models": models, "/mnt/pvc/source": source},
            )  # fmt: skip
            answer = await probed(port, process, tmp_path / "log")
            assert answer == (200, "queue")
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            assert {each.uids().real for each in family} == {UID}
            resident = sum(each.memory_info().rss for each in family) / MIB
            private = sum(each.memory_full_info().uss for each in family) / MIB
            record_property("idle_rss_mib", round(resident, 1))
            record_property("idle_uss_mib", round(private, 1))
            shared_out = sum(each.memory_full_info().pss for each in family) / MIB  # as a container is billed
            record_property("idle_pss_mib", round(shared_out, 1))
            assert shared_out < 64
            assert (models / "m" / "model.joblib").stat().st_mode & 0o444 == 0o444
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 0


async def probed(port, process, log):
    """Ask what the kubelet asks until it says yes."""
    deadline, found = time.monotonic() + 60, None
    headers = {"User-Agent": "kube-probe/1.33", "K-Network-Probe": "queue"}
    while time.monotonic() < deadline and process.poll() is None:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/", headers=headers) as each,
            ):
                found = each.status, await each.text()
        except aiohttp.ClientError:
            found = None
        if found == (200, "queue"):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"{found}\n{log.read_text()}")
