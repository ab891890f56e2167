"""Carries out docker/Dockerfile with no container engine: stages over the machine's own root (overlayfs).

Needs root. What a stage writes lands in a folder of its own in memory; the machine's files are only read.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"


@dataclass
class Stage:
    name: str
    steps: list = field(default_factory=list)
    env: dict = field(default_factory=dict)
    arguments: dict = field(default_factory=dict)
    workdir: str = "/"
    user: str = ""
    labels: dict = field(default_factory=dict)
    entrypoint: list = field(default_factory=list)
    exposed: list = field(default_factory=list)
    base: str = ""


def instructions(text):
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), rest.strip()


def stages(text):
    """Read the file; instructions that it does not know are refused."""
    found = []
    for word, rest in itertools.dropwhile(lambda each: each[0] == "ARG", instructions(text)):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(name or "final", base=base))
            continue
        stage = found[-1]
        match word:
            case "ARG":
                name, _, default = rest.partition("=")
                stage.arguments[name] = default
            case "RUN" | "COPY":
                stage.steps.append((word, rest, stage.workdir))
            case "WORKDIR":
                stage.workdir = rest
            case "ENV" | "LABEL":
                pairs = dict(each.split("=", 1) for each in shlex.split(rest))
                (stage.env if word == "ENV" else stage.labels).update(pairs)
            case "USER":
                stage.user = rest
            case "EXPOSE":
                stage.exposed = rest.split()
            case "ENTRYPOINT":
                stage.entrypoint = json.loads(rest)
            case _:
                raise ValueError(f"{word} is not known here")
    return found


class Image:
    """The stages as folders below *folder*, and processes in the last of them."""

    def __init__(self, folder, **arguments):
        self.folder, self.arguments = folder, arguments
        self.stages = stages(DOCKERFILE.read_text())
        self.final = self.stages[-1]

    @property
    def path(self):
        """Where this machine's `python` stands for the base image's."""
        return f"{sys.base_prefix}/bin:/usr/bin:/bin"

    def upper(self, name):
        return self.folder / name

    def build(self):
        for stage in self.stages:
            upper, work, merged = (self.folder / f"{stage.name}{end}" for end in ("", ".work", ".root"))
            for each in (upper, work, merged):
                each.mkdir()
            script = ["set -euo pipefail", self._mount(f"upperdir={upper},workdir={work},lowerdir=/", merged)]
            script += [f"chmod a+x {shlex.quote(str(merged) + str(each))}" for each in self._python_parents()]
            for word, rest, workdir in stage.steps:
                script += [f"mkdir -p {merged}{workdir}"]
                script += [
                    self._copy(rest, workdir, merged)
                    if word == "COPY"
                    else self._run(rest, workdir, merged, {**stage.arguments, **self.arguments})
                ]
            self._in_namespace("\n".join(script))

    def popen(self, words, *, uid, environ, mounts, program=None, **more):
        """Start the entry point: read-only root, another user, no home, the image's variables and these."""
        merged = self.folder / "running"
        merged.mkdir(exist_ok=True)
        for inside in mounts:
            (self.upper("final") / inside.lstrip("/")).mkdir(parents=True, exist_ok=True)
        env = {**self.final.env, **environ}
        env["PATH"] = env["PATH"].replace("/usr/local/bin", f"{sys.base_prefix}/bin")
        script = ["set -euo pipefail", self._mount(f"ro,lowerdir={self.upper('final')}:/", merged)]
        script += [f"mount --bind {outside} {merged}{inside}" for inside, outside in mounts.items()]
        words = [
            "env",
            "-i",
            *(f"{name}={value}" for name, value in env.items()),
            *(program or self.final.entrypoint),
            *words,
        ]
        user = f"setpriv --reuid={uid} --regid={uid} --clear-groups --no-new-privs --bounding-set=-all"
        script += [f"exec chroot {merged} {user} {shlex.join(words)}"]
        return subprocess.Popen(["unshare", "--mount", "bash", "-c", "\n".join(script)], **more)

    def _mount(self, options, merged):
        return "\n".join(
            [
                f"mount -t overlay overlay -o {options} {merged}",
                f"mount --bind /dev {merged}/dev",
                f"mount -t proc proc {merged}/proc",
            ]
        )

    def _python_parents(self):
        return [each for each in (Path(sys.base_prefix), *Path(sys.base_prefix).parents) if str(each) != "/"]

    def _copy(self, rest, workdir, merged):
        words = rest.split()
        source = next((word.partition("=")[2] for word in words if word.startswith("--from=")), None)
        *sources, target = [word for word in words if not word.startswith("--")]
        base = self.upper(source) if source else ROOT
        place = f"{merged}{target if target.startswith('/') else f'{workdir}/{target}'}"
        lines = []
        for each in sources:
            path = base / each.lstrip("/")
            if path.is_dir():
                lines += [f"mkdir -p {place}", f"cp -a {path}/. {place}/"]
            else:
                lines += [f"mkdir -p {place}", f"cp {path} {place}"]
        return "\n".join(lines)

    def _run(self, rest, workdir, merged, arguments):
        passed = {
            name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HOME"))
        }
        env = [f"{name}={value}" for name, value in {**passed, **arguments, "PATH": self.path}.items()]
        command = f"cd {workdir} && {rest}"
        return shlex.join(["chroot", str(merged), "env", "-i", *env, "sh", "-ec", command])

    def _in_namespace(self, script):
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    def close(self):
        shutil.rmtree(self.folder)
