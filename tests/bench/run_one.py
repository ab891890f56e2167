"""Run one command from a small process, so that its peak RSS is its own; prints wall, CPU seconds, MiB."""

import os
import subprocess
import sys
import time

began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = status
wall = time.perf_counter() - began
print(status, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
