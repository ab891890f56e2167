"""The proxy beside nginx as the same reverse proxy, before the same server: each pinned to one core.

Needs nginx and wrk. `python -m tests.bench.proxy [--seconds 5]` prints one table: requests a second and the
delay added at 1, 16 and 64 connections with answers of 1 KiB, and MB/s of 64 MiB down and up.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.servers.real import free_ports

ROOT = Path(__file__).parents[2]
BIG = 64 << 20
CONFIG = """
daemon off; worker_processes 1; error_log stderr; pid {folder}/pid-{port};
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 0; keepalive_requests 100000000;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 256; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port}; {what} }}
}}
"""
ORIGIN = """
location = /up { client_body_buffer_size 128k; proxy_pass http://127.0.0.1:%d/sink; }
location = /sink { return 204; }
location / { root %s; }
"""
PROXY = """
location / {
  proxy_pass http://origin; proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off;
  proxy_set_header Connection ""; proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
}
"""


@contextlib.contextmanager
def running(command, port, **more):
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, **more)
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/small", timeout=1).read()
                break
            except OSError:
                assert time.monotonic() < deadline, command
                time.sleep(0.05)
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()  # the proxy's process ends with its parent's end of the pipe
        process.terminate()
        process.wait()


def nginx(folder, port, origin, what):
    path = folder / f"nginx-{port}.conf"
    path.write_text(CONFIG.format(folder=folder, port=port, origin=origin, what=what))
    return ["nginx", "-p", str(folder), "-c", str(path)]


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def requests(port, connections, seconds):
    """Return requests a second, and p50 and p99 in milliseconds."""
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--latency",
        f"http://127.0.0.1:{port}/small",
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in said, said
    found = {
        name: re.search(rf"^\s*{name}:?\s+(\S+)", said, re.MULTILINE)[1]
        for name in ("50%", "99%", "Requests/sec")
    }
    return float(found["Requests/sec"]), milliseconds(found["50%"]), milliseconds(found["99%"])


def megabytes(port, body):
    """Return MB/s of the best of three; *body* is sent up where it is given, else /big comes down."""
    what = ["-T", str(body), f"http://127.0.0.1:{port}/up"] if body else [f"http://127.0.0.1:{port}/big"]
    command = ["curl", "-s", "-o", os.devnull, "-w", "%{time_total} %{http_code}", *what]
    best = 0.0
    for _ in range(3):
        seconds, code = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert code in {"200", "204"}, code
        best = max(best, BIG / 1e6 / float(seconds))
    return best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=5)
    seconds = parser.parse_args().seconds
    missing = [name for name in ("nginx", "wrk", "curl", "taskset") if shutil.which(name) is None]
    if missing:
        sys.exit(f"install {', '.join(missing)} first")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "small").write_bytes(b"x" * 1024)
        (folder / "big").write_bytes(bytes(BIG))
        origin, theirs, ours = free_ports(3)
        stack.enter_context(running(nginx(folder, origin, origin, ORIGIN % (origin, folder)), origin))
        pinned = ["taskset", "-c", "0"]
        stack.enter_context(running([*pinned, *nginx(folder, theirs, origin, PROXY)], theirs))
        own = [*pinned, sys.executable, "-m", "agent.web.proxy_start", "--quiet", "0"]
        own += ["--port", str(ours), "--component-port", str(origin)]
        process = stack.enter_context(running(own, ours, stdin=subprocess.PIPE))
        ports = {"direct": origin, "nginx": theirs, "model-agent": ours}
        print("| what | " + " | ".join(ports) + " | to nginx |\n|---|" + "---|" * (len(ports) + 1))
        for connections in (1, 16, 64):
            told = {name: requests(port, connections, seconds) for name, port in ports.items()}
            rates = [f"{rate:,.0f}" for rate, _, _ in told.values()]
            print(f"| requests/s, {connections} connections | {' | '.join(rates)} "
                  f"| {told['model-agent'][0] / told['nginx'][0]:.2f}× |")  # fmt: skip
            for index, quantile in ((1, "p50"), (2, "p99")):
                delays = [f"{each[index] - told['direct'][index]:+.2f}" for each in told.values()]
                print(f"| {quantile} added, ms, {connections} connections | {' | '.join(delays)} | |")
        for way, body in (("down", None), ("up", folder / "big")):
            rates = {name: megabytes(port, body) for name, port in ports.items()}
            shown = " | ".join(f"{rate:,.0f}" for rate in rates.values())
            print(f"| MB/s {way}, 64 MiB | {shown} | {rates['model-agent'] / rates['nginx']:.2f}× |")
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+)", status)[1]
        print(f"\npeak RSS of the proxy's process: {int(peak) / 1024:.0f} MiB; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
