"""User instructions of an operation: counted in a separate process under valgrind's callgrind.

Rules: instructions are counted only while the measured batches run, and calls are not counted meanwhile. The
counts include simulated devices and asyncio's event loop, but not the kernel, and differ between runs by some
per mille: use them to compare two versions of the product on the same Python.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.bench.cost_counting import Counts, run_counted
from loadtest.bench.cost_operations import COUNTED, OPERATIONS, WARM
from loadtest.folders import temporary_folder

_TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)


def measure(name: str) -> dict[str, Any]:
    """``instructions``, or why they are not known."""
    if shutil.which("valgrind") is None or shutil.which("callgrind_control") is None:
        return {
            "instructions": None,
            "why_no_instructions": "valgrind is not installed (Debian package valgrind)",
        }
    with temporary_folder("callgrind") as folder:
        callgrind = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out.%p"]
        child = [sys.executable, "-m", "loadtest.bench.cost_instructions", name]
        done = subprocess.run(["valgrind", *callgrind, *child], capture_output=True, text=True, check=False)
        if done.returncode:
            return _unknown(f"it failed: {done.stderr.strip()[-300:]}")
        pid, number = (int(word) for word in done.stdout.split()[-2:])
        totals = _TOTAL.findall(Path(folder, f"out.{pid}").read_text())
    return {"instructions": round(int(totals[-1]) / number)}


def _unknown(why: str) -> dict[str, Any]:
    return {"instructions": None, "why_no_instructions": why}


def _switch(state: str) -> None:
    command = ["callgrind_control", "-i", state, str(os.getpid())]
    subprocess.run(command, check=True, capture_output=True)


def run(argv: Sequence[str]) -> None:
    """``NAME``: do it; the process and how many operations were counted are printed."""
    counts, number = Counts(has_profile=False), 0

    async def main() -> None:
        nonlocal number
        async with OPERATIONS[argv[0]](counts) as batch:
            for warm in range(WARM):
                await batch(warm)
            _switch("on")
            for counted in range(WARM, WARM + COUNTED):
                number += await batch(counted)
            _switch("off")

    run_counted(counts, main)
    print(os.getpid(), number, flush=True)


if __name__ == "__main__":
    run(sys.argv[1:])
