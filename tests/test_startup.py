"""What is loaded, and when: the command line answers without torch, and nrfx loads what somebody asked for."""

import json
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
Ended = tuple[int, str, str]
"""The exit status and what stood on both streams."""

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


FORKS = """
import importlib, json, os, sys, tempfile, traceback
preloaded, code, every = json.loads(sys.argv[1])
for name in preloaded:
    importlib.import_module(name)
ended = []
for arguments in every:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
            sys.argv[1:] = arguments
            try:
                exec(code, {})
                sys.stdout.flush()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)  # without tearing all modules down
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0), err.seek(0)
        ended.append((status, out.read().decode(), err.read().decode()))
print(json.dumps(ended))
"""


def fresh(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A fresh Python; PYTHONPATH leads to the nrfx of this test."""
    path = str(Path(nrfx.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )


def forked(preloaded: Sequence[str], code: str, every: Sequence[Sequence[str]]) -> list[Ended]:
    """The status and both streams of the code with each of some arguments, each in a fork of one fresh Python."""
    ended = fresh(FORKS, json.dumps([preloaded, code, every]))
    assert ended.returncode == 0, ended.stderr
    return [(status, out, err) for status, out, err in json.loads(ended.stdout)]


def loaded(status: int, out: str, err: str) -> tuple[set[str], str]:
    """Which of HEAVY were loaded behind the code that `LOADED` stands behind, and what it printed on both streams."""
    assert status == 0, err
    said, _, names = out.rpartition("LOADED")
    return set(names.split()), said + err


LOADED = f"\nimport sys; print('LOADED', *set(sys.modules) & {set(HEAVY)})"


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


COMMAND = """
import sys
from nrfx.cli import main
try: main(sys.argv[1:])
except SystemExit as end: assert not end.code
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, Ended]:
    every = forked(["nrfx.cli"], COMMAND + LOADED, [line.split() for line in ANSWERED])
    return dict(zip(ANSWERED, every, strict=True))


@pytest.mark.parametrize("line", ANSWERED)
def test_help_and_mistakes_are_answered_without_torch(line: str, answers: dict[str, Ended]) -> None:
    names, said = loaded(*answers[line])
    assert names == set()
    assert ANSWERED[line] in said


def test_importing_nrfx_loads_nothing() -> None:
    ended = fresh("import nrfx" + LOADED)
    assert loaded(ended.returncode, ended.stdout, ended.stderr) == (set(), "")


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
USED = f"""
import sys, nrfx
{NETWORK}{REWRITE}
now = lambda: print(*sorted(set(sys.modules) & {{'rich', 'networkx'}}))
now()
{PRINTED}now()
{WHY}now()
"""


ALL = """
import sys, nrfx
for name in nrfx.__all__:
    getattr(nrfx, name)
print({"sympy", "triton"} & {*sys.modules})
"""
WAYS = {
    "used": USED + LOADED,
    "names": NAMES,
    "all": ALL,
    "rooms": "import nrfx; print(nrfx.models.__name__, nrfx.rules.__name__)",
}


@pytest.fixture(scope="module")
def ways() -> dict[str, Ended]:
    """With torch, whose import takes longest, in each."""
    every = forked(["torch"], "import sys; exec(sys.argv[1], {})", [[code] for code in WAYS.values()])
    return dict(zip(WAYS, every, strict=True))


def test_a_library_is_loaded_where_it_is_used(ways: dict[str, Ended]) -> None:
    names, said = loaded(*ways["used"])
    assert names == {"torch", "rich", "networkx"}
    assert said.splitlines() == ["", "rich", "networkx rich"]


def test_no_module_of_the_package_has_a_public_name() -> None:
    """`import nrfx.trace` would put the module in the place of the function; `nrfx.liveness` is the module itself."""
    shared = {module.name for module in pkgutil.iter_modules(nrfx.__path__)} & set(nrfx.__all__)
    assert shared == {"liveness"} and nrfx.liveness is sys.modules["nrfx.liveness"]


def test_rooms_are_there_after_a_bare_import(ways: dict[str, Ended]) -> None:
    assert ways["rooms"] == (0, "nrfx.models nrfx.rules\n", "")


def test_the_public_names_do_not_load_what_few_of_them_need(ways: dict[str, Ended]) -> None:
    assert ways["all"] == (0, "set()\n", "")


def test_the_public_names_are_there_by_every_way_to_ask(ways: dict[str, Ended]) -> None:
    assert ways["names"] == (0, "", "")


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
    ended = fresh(THREADS)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_choices_of_the_command_line_are_all_datasets() -> None:
    assert get_args(DatasetName) == tuple(DATASETS)
