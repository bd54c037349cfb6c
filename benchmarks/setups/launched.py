"""Trainers in two processes, started by torchrun: each trains with half of the images of a batch."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from benchmarks.setups import trainers
from benchmarks.setups.setup import setup
from benchmarks.setups.training import expect

GROUP = "trainers"
ROOT = Path(__file__).parent.parent.parent
SECONDS = 300
SAID = "ended with: "

WORK: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "lightning": lambda: trainers.lit(strategy="ddp", devices=2),
        "transformers": lambda: trainers.hugging(ddp_backend="gloo"),
        "transformers inside": lambda: trainers.hugging(inside=True, ddp_backend="gloo"),
        "accelerate ahead": lambda: trainers.accelerated(ahead=True),
        "accelerate behind": lambda: trainers.accelerated(ahead=False),
    }
)
"""What is done in each of the processes."""


@setup(GROUP, "Lightning, strategy ddp, two processes", "lightning")
def _lightning() -> str:
    return _in_two("lightning")


@setup(GROUP, "transformers Trainer, two processes, the model as a whole", "transformers", "accelerate")
def _transformers() -> str:
    return _in_two("transformers")


@setup(GROUP, "transformers Trainer, two processes, network= a submodule", "transformers", "accelerate")
def _transformers_inside() -> str:
    return _in_two("transformers inside")


@setup(GROUP, "accelerate, two processes, the Rejuvenator built ahead of prepare", "accelerate")
def _accelerate_ahead() -> str:
    return _in_two("accelerate ahead")


@setup(GROUP, "accelerate, two processes, the Rejuvenator given what prepare returned", "accelerate")
def _accelerate_behind() -> str:
    return _in_two("accelerate behind")


def _in_two(name: str) -> str:
    """Runs a piece of WORK in two processes; what both of them said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "benchmarks.setups.launched", name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    said = re.findall(rf"{SAID}(.*)", done.stdout)
    expect(done.returncode == 0 and len(said) == 2, f"a process failed: {done.stderr[-1500:]}")
    return f"{said[0]}, the same weights in both"


if __name__ == "__main__":
    print(f"\n{SAID}{WORK[sys.argv[1]]()}\n", end="", flush=True)  # in one piece: two processes write
