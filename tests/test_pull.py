"""`model-agent pull` as a person and as KServe's storage initializer call it."""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent import cli
from tests.fakes.faulty_origin import FaultyOrigin
from tests.servers.real import free_ports

ROOT = Path(__file__).parent.parent
CONTENT = {"config.json": b"{}", "weights/a.bin": b"a" * 70_000, "weights/b.bin": b"b" * 3, "notes.md": b"#"}


@pytest.fixture
def source(tmp_path):
    for path, content in CONTENT.items():
        (tmp_path / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / path).write_bytes(content)
    return tmp_path / "source"


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("STORAGE_", "AWS_", "S3_")):
            monkeypatch.delenv(name)


def held(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def pull(*words):
    return cli.main(["pull", *map(str, words)])


def test_a_folder_holds_exactly_the_files_afterwards_and_again_after_a_second_run(source, tmp_path, capsys):
    target = tmp_path / "target"
    (target / "lost+found").mkdir(parents=True)  # the root of a volume
    for _ in range(2):
        assert pull(f"file://{source}", target) == 0
        assert held(target) == CONTENT
        assert not (target / ".agent-pull").exists()
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in target.rglob("*.bin"))
    assert "revision" in capsys.readouterr().err


def test_several_pairs_each_have_their_folder(source, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_bytes(b"x")
    assert pull(f"file://{source}", tmp_path / "a", tmp_path / "other", tmp_path / "b") == 0
    assert (held(tmp_path / "a"), held(tmp_path / "b")) == (CONTENT, {"x": b"x"})


@pytest.mark.parametrize(
    ("allow", "ignore", "kept"),
    [
        ("", "*.md", {"config.json", "weights/a.bin", "weights/b.bin"}),
        ("*.json, weights/a*", "", {"config.json", "weights/a.bin"}),
        ('["*.bin", "*.md"]', '["*/b.bin"]', {"weights/a.bin", "notes.md"}),
    ],
)
def test_patterns_choose_among_the_files(source, tmp_path, monkeypatch, allow, ignore, kept):
    monkeypatch.setenv("STORAGE_ALLOW_PATTERNS", allow)
    monkeypatch.setenv("STORAGE_IGNORE_PATTERNS", ignore)
    assert pull(f"file://{source}", tmp_path / "target") == 0
    assert set(held(tmp_path / "target")) == kept


def test_patterns_that_leave_nothing_are_told_and_an_object_of_its_own_is_taken(
    source, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("STORAGE_ALLOW_PATTERNS", "*.none")
    assert pull(f"file://{source}", tmp_path / "a") == 1
    assert "NotFound" in capsys.readouterr().err
    assert pull(f"file://{source}/config.json", tmp_path / "b") == 0


def test_what_is_served_in_place_needs_nothing():
    assert pull("/mnt/models", "/mnt/models") == 0


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (["file:///x"], {}),
        (["file:///x", "a", "file:///y"], {}),
        (["file:///x", "a", "file:///y", "a/"], {}),
        (["no-scheme", "a"], {}),
        (["file:///x", "a"], {"STORAGE_CONFIG": "["}),
        (["file:///x", "a"], {"STORAGE_OVERRIDE_CONFIG": "7"}),
        (["file:///x", "a"], {"STORAGE_ALLOW_PATTERNS": "[7]"}),
        (["file:///x", "a", "--cache-dir", "c", "--cache-budget", "much"], {}),
        (["file:///x", "a", "--cache-dir", "c", "--cache-budget", "1Gi", "--cache-symlinks"], {}),
    ],
)
def test_a_mistake_is_told_with_64(words, environ, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert pull(*words) == 64
    assert capsys.readouterr().err.startswith("model-agent pull: ")


def test_a_folder_with_other_files_is_left_alone(source, tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").write_bytes(b"mine")
    assert pull(f"file://{source}", tmp_path / "target") == 64
    assert (tmp_path / "target" / "mine").read_bytes() == b"mine"


async def test_kserves_storage_config_says_where_s3_is_and_the_override_wins(tmp_path):
    """In a process of its own, as an init container; no secret is in what it says."""
    asked = []

    async def s3(request):
        asked.append((request.path, request.headers.get("Authorization", "")))
        return web.Response(
            status=403, text="<Error><Code>AccessDenied</Code></Error>", content_type="application/xml"
        )

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", s3)
    async with TestServer(app, host="127.0.0.1") as server:
        config = {
            "type": "s3",
            "access_key_id": "AKIAFIRST",
            "secret_access_key": "very-secret",
            "region": "eu-x",
        }
        config["endpoint_url"] = f"http://127.0.0.1:{free_ports(1)[0]}"
        environ = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": "/nowhere",
            "STORAGE_CONFIG": json.dumps(config),
            "STORAGE_OVERRIDE_CONFIG": json.dumps({"endpoint_url": f"http://127.0.0.1:{server.port}"}),
        }  # fmt: skip
        import asyncio  # noqa: PLC0415

        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent.entrypoint", "s3://bucket/m", str(tmp_path / "target"),
            env=environ, stderr=subprocess.PIPE,
        )  # fmt: skip
        said = (await process.communicate())[1].decode()
    assert process.returncode == 1
    assert said.startswith("AccessDenied: ")
    assert "very-secret" not in said
    assert asked
    assert all("AKIAFIRST" in sign and "/eu-x/s3/" in sign for _, sign in asked)


# the cache of a node


def cached(source, target, cache, *more):
    return pull(f"file://{source}", target, "--cache-dir", cache, *more)


def test_a_second_pod_gets_links_to_what_the_first_one_pulled(source, tmp_path, capsys):
    assert cached(source, tmp_path / "a", tmp_path / "cache") == 0
    assert "cache" not in capsys.readouterr().err
    assert cached(source, tmp_path / "b", tmp_path / "cache") == 0
    assert "from the node's cache" in capsys.readouterr().err
    assert held(tmp_path / "b") == CONTENT
    (blob,) = {path.stat().st_ino for path in (tmp_path / "b").rglob("a.bin")}
    assert blob in {path.stat().st_ino for path in (tmp_path / "cache").iterdir()}
    assert cached(source, tmp_path / "c", tmp_path / "cache", "--cache-symlinks") == 0
    assert (tmp_path / "c" / "config.json").is_symlink()
    assert held(tmp_path / "c") == CONTENT


def test_new_bytes_are_no_hit(source, tmp_path):
    assert cached(source, tmp_path / "a", tmp_path / "cache") == 0
    (source / "config.json").write_bytes(b"{1}")
    assert cached(source, tmp_path / "b", tmp_path / "cache") == 0
    assert held(tmp_path / "b") == {**CONTENT, "config.json": b"{1}"}


HARMS = ["shorter", "other", "gone", "folder", "record", "torn record", "poisoned record", "strange record"]


@pytest.mark.parametrize("harm", HARMS)
def test_a_cache_that_somebody_harmed_is_a_miss_and_mended(source, tmp_path, harm, capsys):
    cache = tmp_path / "cache"
    assert cached(source, tmp_path / "a", cache) == 0
    (blob,) = [path for path in cache.glob("blob-*") if path.read_bytes() == CONTENT["weights/a.bin"]]
    (record,) = cache.glob("revision-*")
    match harm:
        case "shorter" | "other":
            blob.unlink()
            blob.write_bytes(b"z" * (70_000 if harm == "other" else 5))
        case "gone":
            blob.unlink()
        case "folder":
            blob.unlink()
            blob.mkdir()
        case "record":
            record.write_text('{"entries": [{"path": "../x", "blob": "y", "size": 1, "mtime": 1}]}')
        case "poisoned record":
            record.write_text(record.read_text().replace("weights/a.bin", "../../a.bin"))
        case "strange record":
            record.write_text("[]")
        case _:
            record.write_text("{")
    for target in ("b", "c"):
        assert cached(source, tmp_path / target, cache) == 0
        assert held(tmp_path / target) == CONTENT
    told = capsys.readouterr().err
    assert ("from the node's cache" in told) == (harm != "folder")
    assert ("was not added to" in told) == (harm == "folder")


def test_many_pods_at_once_all_get_the_whole(source, tmp_path):
    def pod(number):
        words = [
            "pull",
            f"file://{source}",
            str(tmp_path / f"pod-{number}"),
            "--cache-dir",
            str(tmp_path / "cache"),
        ]
        return subprocess.run(
            [sys.executable, "-m", "agent", *words], env={"PATH": os.environ["PATH"]}, check=False, cwd=ROOT,
            capture_output=True,
        )  # fmt: skip

    with ThreadPoolExecutor(6) as threads:
        done = list(threads.map(pod, range(6)))
    assert [each.returncode for each in done] == [0] * 6, done
    assert all(held(tmp_path / f"pod-{number}") == CONTENT for number in range(6))
    assert not list((tmp_path / "cache").glob("temporary-*"))


def test_a_budget_keeps_what_was_used_last(tmp_path):
    cache = tmp_path / "cache"
    for number in range(3):
        source = tmp_path / f"source-{number}"
        source.mkdir()
        (source / "model").write_bytes(hashlib.sha256(b"%d" % number).digest() * 1000)
        assert cached(source, tmp_path / f"target-{number}", cache, "--cache-budget", "70k") == 0
    assert len(list(cache.glob("revision-*"))) == 2
    for number in (1, 2):
        assert cached(tmp_path / f"source-{number}", tmp_path / f"again-{number}", cache) == 0
        assert held(tmp_path / f"again-{number}") == held(tmp_path / f"source-{number}")


def test_what_goes_from_a_full_cache_is_free_at_once(tmp_path):
    cache = tmp_path / "cache"
    for number in range(3):
        source = tmp_path / f"source-{number}"
        source.mkdir()
        (source / "model").write_bytes(b"%d" % number * 40_000)
        assert cached(source, tmp_path / f"target-{number}", cache, "--cache-budget", "70k") == 0
        assert sum(path.stat().st_size for path in cache.glob("blob-*")) <= 80_000
    assert len(list(cache.glob("blob-*"))) == 1


def test_a_cache_that_cannot_be_used_is_told_and_done_without(source, tmp_path, capsys):
    (tmp_path / "cache").write_bytes(b"a file")
    assert cached(source, tmp_path / "a", tmp_path / "cache") == 0
    assert held(tmp_path / "a") == CONTENT
    assert "done without" in capsys.readouterr().err


def blob_of(cache, content):
    (found,) = [path for path in cache.glob("blob-*") if path.read_bytes() == content]
    return found


def overwrite(file, content):
    """As a process of the same user can that covers its tracks."""
    before = file.stat()
    file.chmod(0o644)
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_others_could_have_written_to_is_copied_and_compared(source, tmp_path, capsys):
    """A file system without modes, or another user's file: no stat can vouch for it."""
    cache, content = tmp_path / "cache", CONTENT["weights/a.bin"]
    assert cached(source, tmp_path / "a", cache) == 0
    blob_of(cache, content).chmod(0o666)
    assert cached(source, tmp_path / "b", cache) == 0
    assert "from the node's cache" in capsys.readouterr().err
    assert (tmp_path / "b/weights/a.bin").stat().st_ino != blob_of(cache, content).stat().st_ino
    overwrite(blob_of(cache, content), b"z" * len(content))
    for target in ("c", "d"):
        assert cached(source, tmp_path / target, cache) == 0
        assert held(tmp_path / target) == CONTENT
    assert "other bytes than were verified" in capsys.readouterr().err


def test_copies_share_no_file_with_the_cache_and_are_compared(source, tmp_path):
    cache, content = tmp_path / "cache", CONTENT["weights/a.bin"]
    for target in ("a", "b"):
        assert cached(source, tmp_path / target, cache, "--cache-copies") == 0
        overwrite(tmp_path / target / "weights/a.bin", b"z" * len(content))
        assert blob_of(cache, content)
    assert cached(source, tmp_path / "c", cache, "--cache-copies") == 0
    assert held(tmp_path / "c") == CONTENT


def test_a_folder_within_another_ones_folder_can_be_pulled_again(source, tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "x").write_bytes(b"x")
    for _ in range(2):
        assert (
            pull(
                f"file://{source}",
                tmp_path / "a",
                f"file://{tmp_path}/inner",
                tmp_path / "a" / "adapters" / "x",
            )
            == 0
        )
        assert held(tmp_path / "a") == {**CONTENT, "adapters/x/x": b"x"}


def test_the_line_can_be_shared_out(source, tmp_path, capsys):
    words = ["--max-connections", "2", "--bandwidth-limit", "100Mi"]
    assert pull(f"file://{source}", tmp_path / "a", *words) == 0
    assert pull(f"file://{source}", tmp_path / "b", "--max-connections", "none") == 64
    assert "--max-connections: 'none' is not a whole number" in capsys.readouterr().err


def test_a_source_that_is_not_read_is_refused_before_any_is_pulled(source, tmp_path, capsys):
    assert pull(f"file://{source}", tmp_path / "a", "modelscope://o/m", tmp_path / "b") == 64
    assert not (tmp_path / "a").exists()
    said = capsys.readouterr().err
    assert said.startswith("model-agent pull: modelscope://o/m: ")
    assert said.count("\n") == 1


def test_the_environment_gives_the_flags_that_a_storage_container_cannot(
    source, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MODELAGENT_CACHE_DIR", str(tmp_path / "cache"))
    for target in ("a", "b"):
        assert pull(f"file://{source}", tmp_path / target) == 0
    assert "from the node's cache" in capsys.readouterr().err
    monkeypatch.setenv("MODELAGENT_BANDWIDTH_LIMIT", "much")
    assert pull(f"file://{source}", tmp_path / "c") == 64
    assert pull(f"file://{source}", tmp_path / "c", "--bandwidth-limit", "1Gi") == 0


def test_a_metadata_service_is_not_asked_and_other_networks_are_where_the_operator_says_so(
    tmp_path, monkeypatch, capsys
):
    with FaultyOrigin() as origin:
        origin.put("/m/a.bin", b"a")
        assert pull("http://169.254.169.254/m/a.bin", tmp_path / "no") == 1
        assert "ForbiddenAddress" in capsys.readouterr().err
        assert pull(f"{origin.url}/m/a.bin", tmp_path / "yes") == 0
        monkeypatch.setenv("MODELAGENT_DENY_ADDRESS", "metadata,loopback")
        assert pull(f"{origin.url}/m/a.bin", tmp_path / "never") == 1
        assert pull("--deny-address", "none", f"{origin.url}/m/a.bin", tmp_path / "flag") == 0
        assert pull("--deny-address", "nonsense", f"{origin.url}/m/a.bin", tmp_path / "x") == 64
    assert "--deny-address" in capsys.readouterr().err
