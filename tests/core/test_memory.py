import platform
import subprocess
import sys

import pytest

# Blocks of 8 MiB between small ones that stay, in a process whose allocator has freed such a block before.
PROGRAM = """
import numpy as np
from whisper2max.core.memory import return_large_blocks

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) // 1024

{call}
np.ones(1 << 20)
before, blocks, kept = resident(), [], []
for _ in range(64):
    blocks.append(np.ones(1 << 20))
    kept.append(np.ones(1 << 10))
del blocks
print(resident() - before)
"""


def left_over(call: str) -> int:
    command = [sys.executable, "-c", PROGRAM.format(call=call)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this threshold")
def test_freed_blocks_leave_the_process():
    assert left_over("return_large_blocks()") < 64
    assert left_over("") > 256, "glibc no longer keeps them by itself: the call is needless"


# Small blocks of which one in a hundred stays.
FRAGMENTS = """
from whisper2max.core.memory import return_free_memory

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) // 1024

before = resident()
blocks = [bytes(2000) for _ in range(100_000)]
kept = blocks[::100]
del blocks
full = resident()
return_free_memory()
print(full - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed blocks so")
def test_free_memory_between_blocks_leaves_the_process():
    printed = subprocess.run([sys.executable, "-c", FRAGMENTS], capture_output=True, text=True, check=True).stdout
    full, trimmed = map(int, printed.split())
    assert full > 150 and trimmed < full / 2
