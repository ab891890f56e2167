"""A document that is bad takes nothing away; one that is good is taken up at once (faults C1 to C15)."""

import json
import os

import pytest

from tests.e2e.rig import started

PREVIOUS_STAYS = {
    "empty file": (b"", "ConfigRejected", "the document is empty"),
    "white space": (b" \n\t ", "ConfigRejected", "the document is empty"),
    "null": (b"null", "ConfigRejected", "is null where an array"),
    "an object": (b"{}", "ConfigRejected", "is an object where an array"),
    "truncated": (b'[{"modelName":"a",\n"modelSp', "ConfigRejected", "line 2 column"),
    "a second value": (b"[] []", "ConfigRejected", "line 1 column 4"),
    "NaN": (b'[{"modelName":"a","modelSpec":{"memory":NaN}}]', "ConfigRejected", "number"),
    "UTF-16": ("[]".encode("utf-16"), "ConfigRejected", "not UTF-8"),
    "half a surrogate pair": (b'[{"modelName":"\\ud800"}]', "ConfigRejected", "surrogate"),
    "a nesting bomb": (b"[" * 100_000, "ConfigTooLarge", "arrays"),
    "nested deeply": (b"[" * 50_000, "ConfigRejected", "nested too deeply"),
    "a number of 5000 digits": (
        b'[{"modelName":"a","modelSpec":{"memory":' + b"9" * 5000 + b"}}]",
        "ConfigRejected",
        "endless",
    ),
    "a string of 3 MiB": (b'["' + b"x" * (3 << 20) + b'"]', "ConfigTooLarge", "bytes"),
}

REJECTED = {
    "no name": ({"modelSpec": {}}, "InvalidName"),
    "a name that climbs": ({"modelName": "../x"}, "InvalidName"),
    "a name with a slash": ({"modelName": "a/b"}, "InvalidName"),
    "an empty name": ({"modelName": ""}, "InvalidName"),
    "dot dot": ({"modelName": ".."}, "InvalidName"),
    "a long name": ({"modelName": "x" * 300}, "InvalidName"),
    "a name with NUL": ({"modelName": "a\0b"}, "InvalidName"),
    "a name with ANSI": ({"modelName": "a\x1b[31m"}, "InvalidName"),
    "a hidden name": ({"modelName": ".agent-blob-00"}, "InvalidName"),
    "KServe's own": ({"modelName": "SUCCESS.00"}, "InvalidName"),
    "a quoted name": ({"modelName": "%2e%2e"}, "InvalidName"),
    "a number for a name": ({"modelName": 7}, "InvalidName"),
    "no object": ("m", "InvalidEntry"),
    "no spec": ({"modelName": "m"}, "InvalidEntry"),
    "a list for a spec": ({"modelName": "m", "modelSpec": []}, "InvalidEntry"),
    "no URI": ({"modelName": "m", "modelSpec": {}}, "InvalidStorageUri"),
    "a URI with no scheme": ({"modelName": "m", "modelSpec": {"storageUri": "m/x"}}, "InvalidStorageUri"),
    **{
        f"memory {memory}": (
            {"modelName": "m", "modelSpec": {"storageUri": "s3://b/m", "memory": memory}},
            "InvalidMemory",
        )
        for memory in ("NaN", "-1", "1_000Mi", "１Mi", "1 Gi", "9e99")
    },
}


async def test_no_bad_document_takes_anything_away(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.want(a="one", b="one")
        applied = (await rig.settled("a", "b"))["config"]["appliedDigest"]
        for what, (raw, reason, words) in PREVIOUS_STAYS.items():
            rig.mount(raw)
            status = await rig.agent.wait(
                lambda status: status["config"]["digest"] == rig.digest(),
                what=what,
            )
            error = status["config"]["error"]
            assert error is not None, what
            assert (error["reason"], words in error["message"]) == (reason, True), (what, error)
            assert status["config"]["appliedDigest"] == applied, what
            assert status.done == {"a", "b"}, what
        assert await rig.unloads() == 0
        rig.want(a="one")
        status = await rig.settled("a")
        assert status["config"]["error"] is None


async def test_a_bad_entry_is_rejected_by_name_and_the_others_apply(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.want(a="one", m="one")
        await rig.settled("a", "m")
        for what, (entry, reason) in REJECTED.items():
            new = f"new-{len(what)}-{hash(what) & 0xFFFF}"
            others = [rig.entry("a", "one"), rig.entry(new, "one")]
            if not (isinstance(entry, dict) and entry.get("modelName") == "m"):
                others.append(rig.entry("m", "one"))
            rig.mount(json.dumps([entry, *others]).encode())
            status = await rig.agent.wait(lambda status, new=new: new in status.done, what=what)
            assert [each["reason"] for each in status["config"]["rejected"]] == [reason], what
            assert {"a", "m"} <= status.done, what
            assert status["config"]["error"] is None, what
        assert (await rig.stats())["unloads"].get("m") is None
        assert rig.directories() == await _names(rig)


async def test_while_an_entry_has_no_readable_name_nothing_is_removed(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.want(a="one", m="one")
        await rig.settled("a", "m")
        rig.mount(json.dumps([{"modelName": "a\0b"}, rig.entry("new", "one")]).encode())
        status = await rig.agent.wait(lambda status: "new" in status.done)
        assert status.done == {"a", "m", "new"}


async def _names(rig) -> set[str]:
    return (await rig.agent.status()).names


async def test_a_duplicate_name_keeps_what_it_serves(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.put("two", "two")
        rig.want(m="one")
        await rig.settled("m")
        rig.want(rig.entry("m", "two"), rig.entry("m", "one"), rig.entry("n", "two"))
        status = await rig.agent.wait(lambda status: "n" in status.done)
        assert {each["reason"] for each in status["config"]["rejected"]} == {"DuplicateName"}
        assert await rig.served("m") == "one"


async def test_a_key_that_goes_missing_unloads_nothing(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.want(m="one")
        await rig.settled("m")
        rig.kubelet.write({"other.json": b"{}"})
        status = await rig.agent.wait(lambda status: status["config"]["error"])
        assert status["config"]["error"]["reason"] == "ConfigMissing"
        assert status.done == {"m"}
        rig.want(m="one")
        await rig.agent.wait(lambda status: status["config"]["error"] is None)
        assert (await rig.unloads(), await rig.loads()) == (0, 1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [(os.mkfifo, "ConfigUnreadable"), (os.mkdir, "ConfigUnreadable"), (None, "ConfigTooLarge")],
    ids=["a fifo", "a folder", "20 MiB"],
)
async def test_a_thing_that_is_no_document_is_refused_with_no_hang(tmp_path, make, reason):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.want(m="one")
        await rig.settled("m")
        document = rig.kubelet.folder / "models.json"
        document.unlink()
        if make is None:
            document.write_bytes(b" " * (20 << 20))
        else:
            make(document)
        status = await rig.agent.wait(lambda status: status["config"]["error"])
        assert status["config"]["error"]["reason"] == reason
        assert status.done == {"m"}


async def test_a_config_dir_that_is_missing_at_start_is_not_ready_and_is_found_when_it_comes(tmp_path):
    async with started(tmp_path, mounted=False) as rig:
        rig.put("one", "one")
        status = await rig.agent.wait(lambda status: status["config"]["error"])
        assert status["config"]["error"]["reason"] == "ConfigMissing"
        assert (await rig.agent.get("/readyz?verbose"))[0] == 503
        assert "ConfigMissing" in (await rig.agent.get("/readyz?verbose"))[1]
        assert await rig.agent.get("/healthz") == (200, "ok\n")
        rig.want(m="one")
        await rig.settled("m")
        assert await rig.agent.get("/readyz") == (200, "ok\n")


@pytest.mark.layouts
async def test_a_restart_over_a_bad_document_goes_on_with_the_last_accepted(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.want(a="one", b="one")
        await rig.settled("a", "b")
        rig.mount(b"[{")
        await rig.agent.restart()
        status = await rig.agent.wait(lambda status: status.done == {"a", "b"})
        assert status["config"]["error"]["reason"] == "ConfigRejected"
        assert await rig.agent.get("/readyz") == (200, "ok\n")
        await rig.server.restart()
        await rig.serves("a", "one")
        assert await rig.unloads() == 0
        rig.want(b="one")
        await rig.settled("b")


async def test_a_restart_with_nothing_mounted_goes_on_serving_and_is_not_ready(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        rig.want(a="one")
        await rig.settled("a")
        rig.kubelet.write({"other.json": b"{}"})
        await rig.agent.restart()
        await rig.agent.wait(lambda status: status.done == {"a"})
        code, words = await rig.agent.get("/readyz?verbose")
        assert (code, "ConfigMissing" in words) == (503, True)
        assert await rig.loads() == 1
        rig.want(a="one")
        await rig.settled("a")
        assert (await rig.agent.get("/readyz"))[0] == 200


async def test_no_more_are_removed_at_once_than_the_operator_allows(tmp_path):
    async with started(tmp_path, flags={"max-removal": 1}) as rig:
        rig.put("one", "one")
        rig.want(a="one", b="one", c="one")
        await rig.settled("a", "b", "c")
        rig.mount("[]")
        status = await rig.agent.wait(lambda status: status["config"]["error"])
        assert status["config"]["error"]["reason"] == "TooManyRemovals"
        assert "would remove 3 of 3 models (a, b, c)" in status["config"]["error"]["message"]
        await rig.agent.restart()
        status = await rig.agent.wait(lambda status: status.done == {"a", "b", "c"})
        assert status["config"]["error"]["reason"] == "TooManyRemovals"
        rig.want(a="one", b="one")
        await rig.settled("a", "b")


async def test_unknown_fields_and_keys_in_any_case_are_taken_as_kserve_takes_them(tmp_path):
    async with started(tmp_path) as rig:
        rig.put("one", "one")
        entry = {"MODELNAME": "m", "modelspec": {"STORAGEURI": rig.uri("one"), "Memory": 1024, "later": {}}}
        rig.mount(b"\xef\xbb\xbf" + json.dumps([entry]).encode())
        status = await rig.settled("m")
        assert status.model("m")["spec"]["memory"] == "1024"
