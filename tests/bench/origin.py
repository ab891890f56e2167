"""The origin of the download benchmark: nginx on free ports, plain and TLS, also as anonymous S3."""

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import trustme

MIB = 1 << 20

CONFIG = """
daemon off; worker_processes 2; pid {home}/pid; error_log {home}/error.log warn;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
  keepalive_requests 1000000; keepalive_timeout 60;
  default_type application/octet-stream; open_file_cache max=10000;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  ssl_certificate {home}/server.pem; ssl_certificate_key {home}/server.pem; ssl_protocols TLSv1.3;
  map $args $listing {{ default ""; ~prefix=A a.xml; ~prefix=B b.xml; ~prefix=C c.xml; }}
  server {{
    listen 127.0.0.1:{plain}; listen 127.0.0.1:{tls} ssl; root {home}/files; autoindex on;
    location = /bench {{ default_type application/xml; alias {home}/listings/$listing; }}
    location = /bench/ {{ default_type application/xml; alias {home}/listings/$listing; }}
    location / {{ etag on; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """So many files of so many bytes below `/bench/<name>/`."""

    name: str
    files: int
    size: int

    def paths(self) -> list[str]:
        return [f"{self.name}/{number:04}.bin" for number in range(self.files)]


def cases(scale: float) -> list[Case]:
    """A, B and C of the issue; *scale* shrinks the large ones."""
    return [
        Case("A", 1, int(4096 * scale) * MIB),
        Case("B", 8, int(512 * scale) * MIB),
        Case("C", 4000, 16 << 10),
    ]


@dataclass(frozen=True, slots=True)
class Origin:
    home: Path
    plain: int
    tls: int

    def url(self, scheme: str) -> str:
        return f"{scheme}://localhost:{self.tls if scheme == 'https' else self.plain}"

    @property
    def ca(self) -> Path:
        return self.home / "ca.pem"


@contextlib.contextmanager
def origin(home: Path, wanted: list[Case]) -> Iterator[Origin]:
    """Serve the files of the cases, made where they are missing, until the block ends."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "listings").mkdir(exist_ok=True)
    for case in wanted:
        _make(home, case)
    ca = trustme.CA()
    ca.cert_pem.write_to_path(home / "ca.pem")
    ca.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(home / "server.pem")
    found = Origin(home, _free_port(), _free_port())
    config = home / "nginx.conf"
    config.write_text(CONFIG.format(home=home, plain=found.plain, tls=found.tls))
    with subprocess.Popen(
        ["nginx", "-p", str(home), "-c", str(config), "-e", str(home / "error.log")]
    ) as server:
        try:
            _wait(found.plain)
            yield found
        finally:
            server.terminate()


_MODIFIED = 1_790_000_000


def _make(home: Path, case: Case) -> None:
    folder = home / "files" / "bench" / case.name
    present = list(folder.iterdir()) if folder.is_dir() else []
    if len(present) != case.files or any(path.stat().st_size != case.size for path in present):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        block = hashlib.shake_256(case.name.encode()).digest(min(case.size, 4 * MIB))
        for number in range(case.files):
            with (folder / f"{number:04}.bin").open("wb") as file:
                for at in range(0, case.size, len(block)):
                    piece = number.to_bytes(4, "big") + at.to_bytes(8, "big") + block[12:]
                    file.write(piece[: case.size - at])
    for number in range(case.files):  # so that no two have the same ETag, as nginx makes it of time and size
        os.utime(folder / f"{number:04}.bin", (_MODIFIED + number,) * 2)
    (home / "listings" / f"{case.name.lower()}.xml").write_text(_listing(folder, case))


def _listing(folder: Path, case: Case) -> str:
    entries = []
    for path in case.paths():
        stat = (folder.parent / path).stat()
        etag = escape(f'"{int(stat.st_mtime):x}-{stat.st_size:x}"', {'"': "&quot;"})
        entries.append(
            f"<Contents><Key>{path}</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified>"
            f"<ETag>{etag}</ETag><Size>{stat.st_size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult '
        'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bench</Name>'
        f"<Prefix>{case.name}/</Prefix><KeyCount>{case.files}</KeyCount><MaxKeys>10000</MaxKeys>"
        f"<IsTruncated>false</IsTruncated>{''.join(entries)}</ListBucketResult>"
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait(port: int) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit("nginx did not start")
