"""Law 1 watched from outside: whoever lists the model dir at any moment finds whole models or none."""

import os
import threading
from pathlib import Path

import pytest

from tests.e2e.rig import started

FILES = 6


class Watcher:
    """A thread that lists the model dir without a pause and notes what must never be seen.

    A folder that was swapped away while it was read is read again: that is no mixture. `inside` is the
    folder in each model's where its files are.
    """

    def __init__(self, model_dir: Path, *, only_models: bool, inside: str = "") -> None:
        self.faults: list[str] = []
        self.looks = 0
        self.seen: set[tuple[str, bytes]] = set()
        self._dir, self._only_models, self._inside = model_dir, only_models, inside
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.looks += 1
            for name in os.listdir(self._dir):  # noqa: PTH208 - names are what is judged
                if name.startswith(".agent-"):
                    if self._only_models and (self._dir / name).is_dir():
                        self.faults.append(f"{name} is a folder in the server's sight")
                else:
                    self._look(name)
            self._stop.wait(0.0005)

    def _look(self, name: str) -> None:
        path = self._dir / name / self._inside
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return
        try:
            try:
                contents = [self._read(folder, each) for each in sorted(os.listdir(folder))]  # noqa: PTH208 - of a descriptor
            except FileNotFoundError:
                contents = []
            there = os.fstat(folder)
            try:
                now = path.stat()
            except FileNotFoundError:
                return
            if (now.st_dev, now.st_ino) != (there.st_dev, there.st_ino):
                return
        finally:
            os.close(folder)
        if len(contents) != FILES or len(set(contents)) != 1:
            self.faults.append(f"{name} is not whole: {contents}")
        self.seen.update((name, content) for content in contents)

    @staticmethod
    def _read(folder: int, name: str) -> bytes:
        file = os.open(name, os.O_RDONLY, dir_fd=folder)
        try:
            return os.read(file, 100)
        finally:
            os.close(file)


def _lay(folder: Path, version: str) -> str:
    """Make a model of six files that all say the same; return its URI."""
    made = folder / version
    made.mkdir(parents=True)
    for number in range(FILES):
        (made / f"part-{number}").write_text(version)
    return f"file://{made}"


@pytest.mark.parametrize("beside", [False, True], ids=["drop-in", "store-beside"])
async def test_a_reader_of_the_model_dir_sees_whole_models_only(tmp_path, beside):
    source = tmp_path / "source"
    versions = {f"v{number}": _lay(source, f"v{number}") for number in range(8)}
    bad = _lay(source, "broken")
    async with started(tmp_path, beside=beside, flags={"allowed-roots": source}) as rig:
        with Watcher(rig.model_dir, only_models=beside) as watcher:
            for number, uri in enumerate(versions.values()):
                rig.want(a=uri, b=uri, **({"c": uri} if number % 2 else {}))
                await rig.settled("a", "b", *("c" if number % 2 else ""))
            rig.want(a=bad, b=bad)
            await rig.agent.wait(lambda status: {status.reason(name) for name in "ab"} == {"LoadRejected"})
            rig.want(a=versions["v1"])
            await rig.agent.kill()
            await rig.agent.start()
            await rig.settled("a")
            rig.want()
            await rig.settled()
        assert watcher.faults == []
        assert watcher.looks > 100
        assert len(watcher.seen) >= 10, "the watcher was quick enough to see most versions"
