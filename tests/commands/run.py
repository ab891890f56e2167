"""A command as the shell would run it: its exit code and what it prints."""

import asyncio
import io
import sys
from contextlib import redirect_stderr, redirect_stdout

from agent.cli import main


async def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command on a thread of this process, which saves a second for starting another."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        async with asyncio.timeout(30):
            code = await asyncio.to_thread(main, arguments)
    return code, out.getvalue(), err.getvalue()


async def run_process(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run a command as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", *arguments, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(30):
        out, err = await process.communicate(stdin)
    return process.returncode, out.decode(), err.decode()
