"""Freed memory is kept: drawing large pictures on a CPU fetches its pages once."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from demofusion_lib.standalone.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(20):  # until most places that the allocator tries have been used once
    torch.ones(16 * 2**20)
before = faults()
for _ in range(20):
    torch.ones(16 * 2**20)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_kept() -> None:
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True).stdout)
        for how in ("keep", "not")
    )
    assert kept < given_back / 2


GAPS = """
import sys
import torch
from demofusion_lib.memory import give_back
from demofusion_lib.standalone.memory import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

assert keep_freed_memory()
before = resident()
blocks = [torch.ones(4 * 2**20) for _ in range(30)]
del blocks[::2]  # every other one: none of them is at the end
held = resident()
assert give_back()
print(held - before, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_gaps_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", GAPS], check=True, capture_output=True, text=True)
    held, left = map(int, done.stdout.split())
    assert held > 1.8 * left > 0
