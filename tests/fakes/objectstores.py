"""Real object stores as programs of this machine, on free ports of 127.0.0.1, gone when the block ends.

Each is installed by `tests/servers/objectstores.sh` when it is not there yet.
"""

import contextlib
import functools
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

INSTALLER = Path(__file__).parents[1] / "servers" / "objectstores.sh"
VERSIONS = {"seaweedfs": "4.48", "fake-gcs": "0.1.1", "moto": "5.1", "azurite": "3.35.0", "registry": "2.8"}
START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Keys:
    """One S3 identity."""

    access_key: str
    secret_key: str

    def environ(self) -> dict[str, str]:
        """As the environment names them."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A running object store. `admin` may do all; `reader` may read and list `readable_bucket` only."""

    endpoint: str
    process: int
    https_endpoint: str | None = None
    ca_file: Path | None = None
    admin: Keys = field(default=Keys("AKIAADMIN00000000000", "adminsecretadminsecretadminsecretadminse"))
    reader: Keys = field(default=Keys("AKIAREADER0000000000", "readersecretreadersecretreadersecretread"))
    readable_bucket: str = "models"


@functools.cache
def binary(store: str, program: str) -> Path:
    """Return the path of a program of *store*, installed first if it is not there."""
    environ = {**os.environ, "PYTHON": sys.executable}
    subprocess.run([INSTALLER, store], check=True, stdout=sys.stderr, env=environ)
    cache = os.environ.get("MODELAGENT_TEST_CACHE") or Path.home() / ".cache" / "model-agent"
    return Path(cache) / f"{store}-{VERSIONS[store]}" / "bin" / program


def free_ports(count: int, *, below: int = 55000) -> list[int]:
    """Return ports that are free now, none twice; *below* leaves room for programs that add 10000."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            if sock.getsockname()[1] < below:
                sockets.append(sock)
            else:
                sock.close()
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


@contextlib.contextmanager
def seaweedfs(folder: Path) -> Iterator[ObjectStore]:
    """Run SeaweedFS with its S3 gateway, on http and on https under a CA of its own; telemetry off."""
    store = ObjectStore("", 0)
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [_admin(store.admin), _reader(store)]}))
    ports = free_ports(5)
    _, volume, _, s3, https = ports
    grpc = free_ports(5)
    command: list[str | Path] = [binary("seaweedfs", "weed"), "-logtostderr=true", "server", f"-dir={folder}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-metricsPort=0"]
    command += ["-volume.max=20", "-master.volumeSizeLimitMB=64", "-filer", "-s3", f"-s3.config={config}"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"]
    names = ("master", "volume", "filer", "s3")
    command += [f"-{name}.port={port}" for name, port in zip(names, ports, strict=False)]
    command += [f"-{name}.port.grpc={port}" for name, port in zip(names, grpc, strict=False)]
    ca_file = _certificates(folder)
    command += [f"-s3.port.https={https}", f"-s3.cert.file={folder}/s3.crt", f"-s3.key.file={folder}/s3.key"]
    endpoint = f"http://127.0.0.1:{s3}"
    ready = functools.partial(_answer, endpoint, f"http://127.0.0.1:{volume}")
    with _running(command, folder, ready) as pid:
        yield ObjectStore(endpoint, pid, f"https://127.0.0.1:{https}", ca_file)


@contextlib.contextmanager
def fake_gcs(folder: Path) -> Iterator[ObjectStore]:
    """Run fake-gcs-server with its objects in memory. It asks nobody for credentials."""
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    command = [binary("fake-gcs", "fake-gcs-server"), "-backend", "memory", "-scheme", "http"]
    command += ["-host", "127.0.0.1", "-port", str(port)]
    command += ["-external-url", endpoint, "-public-host", f"127.0.0.1:{port}"]
    with _running(command, folder, functools.partial(_answer, f"{endpoint}/storage/v1/b")) as pid:
        yield ObjectStore(endpoint, pid)


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[ObjectStore]:
    """Run moto's S3, which keeps keys as they are, `..` too, and checks no credentials."""
    (port,) = free_ports(1)
    command = [binary("moto", "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    endpoint = f"http://127.0.0.1:{port}"
    with _running(command, folder, functools.partial(_answer, endpoint)) as pid:
        yield ObjectStore(endpoint, pid)


AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account key that Azurite's own documentation gives to everybody."""


@contextlib.contextmanager
def azurite(folder: Path, *, https: bool = False) -> Iterator[str]:
    """Run Azurite's blob service; yields the connection string of its one account.

    With *https* it is under a CA of its own, `ca.pem` in the folder, and takes bearer tokens.
    """
    (port,) = free_ports(1)
    command = [binary("azurite", "azurite-blob"), "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command += ["--location", str(folder), "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    scheme, ready = "http", functools.partial(_answer, f"http://127.0.0.1:{port}/devstoreaccount1")
    if https:
        _certificates(folder)
        command += ["--oauth", "basic", "--cert", str(folder / "s3.crt"), "--key", str(folder / "s3.key")]
        scheme, ready = "https", functools.partial(_listens, port)
    with _running(command, folder, ready):
        account = f"AccountName=devstoreaccount1;AccountKey={AZURITE_KEY}"
        endpoint = f"{scheme}://127.0.0.1:{port}/devstoreaccount1"
        yield f"DefaultEndpointsProtocol={scheme};{account};BlobEndpoint={endpoint};"


@contextlib.contextmanager
def docker_registry(folder: Path) -> Iterator[str]:
    """Run the distribution project's registry, which lets anybody read and write; yields host and port."""
    (port,) = free_ports(1)
    config = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [binary("registry", "docker-registry"), "serve", folder / "config.yml"]
    with _running(command, folder, functools.partial(_answer, f"http://127.0.0.1:{port}/v2/")):
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def _running(command: list[str | Path], folder: Path, ready: Callable[[], bool]) -> Iterator[int]:
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not come up: {log.read_text()[-2000:]}")
                time.sleep(0.02)  # nothing tells when a foreign program listens
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # its own group: nothing of it is worth an orderly end
            process.wait()


def _answer(*urls: str) -> bool:
    return all(_answers(url) for url in urls)


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status < 500
    except OSError:
        return False
    finally:
        connection.close()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def _admin(keys: Keys) -> dict[str, object]:
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    return {"name": "admin", "credentials": [_pair(keys)], "actions": actions}


def _reader(store: ObjectStore) -> dict[str, object]:
    actions = [f"{verb}:{store.readable_bucket}" for verb in ("Read", "List")]
    return {"name": "reader", "credentials": [_pair(store.reader)], "actions": actions}


def _pair(keys: Keys) -> dict[str, str]:
    return {"accessKey": keys.access_key, "secretKey": keys.secret_key}


def _certificates(folder: Path) -> Path:
    import trustme  # noqa: PLC0415 - only for a store that speaks https

    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(folder / "s3.key")
    certificate.cert_chain_pems[0].write_to_path(folder / "s3.crt")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return folder / "ca.pem"
