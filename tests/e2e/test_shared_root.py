"""`--shared-root`: the model server reads user files where they are (design §5); else all is copied."""

import hashlib
import signal
import tarfile

from tests.e2e.rig import started


def flags(source):
    return {"allowed-roots": source, "shared-root": source / "shared"}


def lay(folder, content: str):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "new").write_text(content)
    (folder / "new").rename(folder / "model.joblib")
    return folder


async def test_shared_files_are_linked_and_new_bytes_are_a_new_revision(tmp_path):
    source = tmp_path / "source"
    folder = lay(source / "shared" / "m", "one")
    lay(source / "own", "own")
    async with started(tmp_path, flags=flags(source)) as rig:
        rig.want(m=f"file://{folder}", own=f"file://{source}/own", file=f"file://{folder}/model.joblib")
        first = await rig.settled("m", "own", "file")
        for name in ("m", "file"):
            assert (rig.model_dir / name / "model.joblib").readlink() == folder / "model.joblib"
        assert not (rig.model_dir / "own" / "model.joblib").is_symlink()
        await rig.agent.restart()
        again = await rig.settled("m", "own", "file")
        assert again.model("m")["servedRevision"] == first.model("m")["servedRevision"]
        assert await rig.loads() == 3
        lay(folder, "two")
        rig.agent.signal(signal.SIGHUP)
        await rig.agent.wait(
            lambda status: (
                status.reason("m") is None
                and status.model("m")["servedRevision"] != first.model("m")["servedRevision"]
            )
        )
        await rig.serves("m", "two")
        rig.want(own=f"file://{source}/own")
        await rig.settled("own")
        assert (folder / "model.joblib").read_text() == "two"


async def test_what_is_declared_and_what_is_an_archive_is_not_linked(tmp_path):
    source = tmp_path / "source"
    lay(source / "shared", "one")
    with tarfile.open(source / "shared" / "m.tar", "w") as archive:
        archive.add(source / "shared" / "model.joblib", "member.joblib")
    async with started(tmp_path, flags=flags(source)) as rig:
        declared = rig.entry("declared", f"file://{source}/shared/model.joblib")
        declared["modelSpec"]["sha256"] = hashlib.sha256(b"one").hexdigest()
        rig.want(declared, archive=f"file://{source}/shared/m.tar")
        await rig.settled("declared", "archive")
        for path in ("declared/model.joblib", "archive/member.joblib"):
            assert not (rig.model_dir / path).is_symlink()
            assert (rig.model_dir / path).read_text() == "one"
