"""What an operator declares of bytes holds to the end: signed models, and bytes that rot on the disk."""

import os

from tests.e2e.rig import started
from tests.fakes.signing import make_key, packed, signature_of


async def test_only_what_the_operators_key_signed_is_served_and_the_last_good_one_stays(tmp_path):
    key, stranger = make_key(tmp_path, "ours"), make_key(tmp_path, "theirs")
    good, bad = {"model.joblib": b"good"}, {"model.joblib": b"evil"}
    async with started(tmp_path, flags={"signing-key-file": key}) as rig:
        rig.put("v1.tgz", packed({**good, "model.sig": signature_of(good, tmp_path / "v1", key)}))
        rig.put("v2.tgz", packed({**bad, "model.sig": signature_of(bad, tmp_path / "v2", stranger)}))
        rig.put("v3.tgz", packed({**bad, "model.sig": signature_of(good, tmp_path / "v3", key)}))
        entry = rig.entry("a", "v1.tgz")
        entry["modelSpec"]["signature"] = "model.sig"
        rig.want(entry)
        await rig.settled("a")
        for path, words in (("v2.tgz", "Key mismatch"), ("v3.tgz", "model.joblib")):
            entry["modelSpec"]["storageUri"] = rig.uri(path)
            rig.want(entry)
            status = await rig.agent.wait(
                lambda status, words=words: (
                    status.reason("a") == "SignatureInvalid" and words in status.model("a")["message"]
                )
            )
            assert status.model("a")["ready"]
            await rig.serves("a", "good")


async def test_a_bit_that_rots_on_disk_is_found_and_mended_under_a_model_that_goes_on_serving(tmp_path):
    flags = {"scrub-interval": "1s", "scrub-rate": "0", "resync-interval": "1s"}
    async with started(tmp_path, flags=flags) as rig:
        rig.put("one", "one")
        rig.want(a="one")
        await rig.settled("a")
        (file,) = [each for each in (rig.model_dir / "a").iterdir() if each.is_file()]
        stat = file.stat()
        file.chmod(0o644)
        file.write_bytes(b"One")
        file.chmod(0o444)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

        def mended() -> bool:
            return next((rig.model_dir / "a").iterdir()).read_bytes() == b"one"

        status = await rig.agent.wait(lambda status: mended() and status.done == {"a"})
        assert status.model("a")["ready"]
        assert "are not what was verified" in rig.agent.said()
        assert (await rig.stats())["loads"] == {"a": 1}
        assert rig.asked("GET") == 2
