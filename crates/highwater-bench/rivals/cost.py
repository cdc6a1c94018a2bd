"""Runs a command; prints its CPU seconds, wall seconds and peak memory in MB, as the kernel counted them.

    python3 cost.py COMMAND...
"""

import os
import resource
import subprocess
import sys
import time

start = time.monotonic()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
wall = time.monotonic() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"{used.ru_utime + used.ru_stime:.2f} {wall:.2f} {used.ru_maxrss / 1024:.0f}")
sys.exit(os.EX_OK if status == 0 else os.EX_SOFTWARE)
