"""What is loaded, and when: the command line answers without torch, and nrfx loads what somebody asked for."""

import os
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

import nrfx
from nrfx.choices import DatasetName
from nrfx.cli.commands import COMMANDS
from nrfx.experiment.datasets import DATASETS

HEAVY = ("matplotlib", "networkx", "rich", "safetensors", "sklearn", "timm", "torch", "torchvision")
NETWORK = """
import torch, nrfx
from torch import nn
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
with torch.no_grad():
    net[1].weight[:3] = 0
traced = nrfx.trace(net, torch.zeros(1, 3, 8, 8))
"""
REWRITE = """
result = nrfx.rejuvenate(traced, nrfx.Budget.relative(traced, params=1.0))
assert result.changed
nrfx.Rejuvenator(traced, torch.optim.SGD(traced.parameters(), 0.1), nrfx.Budget(params=10**6))
"""
WHY, PRINTED = 'nrfx.why(traced, "0")\n', "assert str(result) != repr(result)\n"


def run(code: str, arguments: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    """A fresh Python; PYTHONPATH leads to the nrfx of this test."""
    path = str(Path(nrfx.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )


def loaded(code: str, arguments: Sequence[str] = ()) -> tuple[set[str], str]:
    """Which of HEAVY a fresh Python has loaded after the code, and what it printed on both streams before."""
    ended = run(f"{code}\nimport sys; print('LOADED', *set(sys.modules) & {set(HEAVY)})", arguments)
    assert ended.returncode == 0, ended.stderr
    said, _, names = ended.stdout.rpartition("LOADED")
    return set(names.split()), said + ended.stderr


ANSWERED = {
    "--help": "commands:",
    "--version": "nrfx ",
    **{f"{command} --help": f"usage: nrfx {command}" for command in COMMANDS},
    "": "commands:",
    "inspekt resnet18": "invalid choice: 'inspekt'",
    "inspect": "required: MODEL",
    "inspect resnet18 --input 1,-3": "is no shape",
    "inspect resnet18 --residual dead": "invalid choice: 'dead'",
    "rejuvenate resnet18": "There is no budget",
    "rejuvenate resnet18 --budget params=0": "not a positive amount",
    "rejuvenate resnet18 --budget params=1.0x -o absent/x": "there is no folder absent",
    "compact resnet18 -o absent/x": "there is no folder absent",
    "export resnet18 -o absent/x.onnx": "there is no folder absent",
    "export resnet18 -o x.tflite": "'x.tflite' is neither NAME.onnx, for ONNX, nor NAME.pt2, for torch.export",
    "train resnet18 --budget memory=1M": "Budget 'memory=1M' is not understood",
    "train resnet18 --data mnist": "invalid choice: 'mnist'",
}


@pytest.mark.parametrize("line", ANSWERED)
def test_help_and_mistakes_are_answered_without_torch(line: str) -> None:
    code = (
        "import sys\nfrom nrfx.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit as end: assert not end.code"
    )
    names, said = loaded(code, line.split())
    assert names == set()
    assert ANSWERED[line] in said


def test_importing_nrfx_loads_nothing() -> None:
    assert loaded("import nrfx") == (set(), "")


def test_a_library_is_loaded_where_it_is_used() -> None:
    now = "import sys; print(*sorted(set(sys.modules) & {'rich', 'networkx'}))\n"
    names, said = loaded(NETWORK + REWRITE + now + PRINTED + now + WHY + now)
    assert names == {"torch", "rich", "networkx"}
    assert said.splitlines() == ["", "rich", "networkx rich"]


def test_no_module_of_the_package_has_a_public_name() -> None:
    """`import nrfx.trace` would put the module in the place of the function; `nrfx.liveness` is the module itself."""
    shared = {module.name for module in pkgutil.iter_modules(nrfx.__path__)} & set(nrfx.__all__)
    assert shared == {"liveness"} and nrfx.liveness is sys.modules["nrfx.liveness"]


NAMES = """
import pickle, types
from nrfx import *
import nrfx
assert set(nrfx.__all__) <= set(dir(nrfx)) and set(nrfx.__all__) <= set(globals())
assert isinstance(nrfx.trace, types.FunctionType) and nrfx.trace is trace
assert pickle.loads(pickle.dumps((nrfx.trace, nrfx.Budget(params=3)))) == (trace, Budget(params=3))
for name in ("trase", "not a name", "models.names", "__wrapped__"):
    assert not hasattr(nrfx, name)
"""


@pytest.mark.parametrize("room", ["models", "rules"])
def test_a_room_is_there_after_a_bare_import(room: str) -> None:
    ended = run(f"import nrfx; assert nrfx.{room}.__name__ == 'nrfx.{room}'")
    assert ended.returncode == 0, ended.stderr


def test_the_public_names_are_there_by_every_way_to_ask() -> None:
    ended = run(NAMES)
    assert ended.returncode == 0, ended.stderr


THREADS = """
import sys, threading
import nrfx
sys.setswitchinterval(1e-5)
names = ["trace", "Rejuvenator", "rules", "why", "models", "__all__", "training", "save"]
together, got = threading.Barrier(len(names)), {}
def ask(name):
    together.wait()
    got[name] = getattr(nrfx, name)
threads = [threading.Thread(target=ask, args=[name]) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert set(got) == set(names) and all(got[name] is getattr(nrfx, name) for name in names), got
"""


def test_threads_may_ask_for_their_first_names_at_once() -> None:
    ended = run(THREADS)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_choices_of_the_command_line_are_all_datasets() -> None:
    assert get_args(DatasetName) == tuple(DATASETS)
