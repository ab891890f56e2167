"""Memory in use is read where it can be; where it cannot, that is said in a reason and nothing ends."""

import subprocess
import sys
from pathlib import Path

from agent.telemetry.processes import ServerProcess, own_rss_bytes

NO_DESCRIPTORS = """
import resource
from agent.core.errors import AgentError
from agent.telemetry.processes import ServerProcess, own_rss_bytes
server = ServerProcess(lambda: "http://127.0.0.1:1")
own_rss_bytes(), server.rss_bytes()
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
for read in (own_rss_bytes, server.rss_bytes):
    try:
        print("read", read())
    except AgentError as error:
        print(error.reason)
"""


def test_without_a_descriptor_to_be_had_it_is_a_lack_of_resources():
    done = subprocess.run(
        [sys.executable, "-c", NO_DESCRIPTORS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.stdout.split(), done.stderr) == (["ResourceExhausted"] * 2, "")


def test_the_memory_of_this_process_is_read():
    assert own_rss_bytes() > 2**20


def test_a_server_that_is_not_on_this_machine_has_no_memory_to_read():
    assert ServerProcess(lambda: "http://10.0.0.1:80").rss_bytes() is None
