"""Tools that count the params and multiply-adds of a module: each as one function of a module and its inputs.

They are installed by the extra `bench`. A tool that counts a multiply-add as two is halved. None of them is changed:
a tool that fails, or leaves something behind in the module, is shown as it is.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from benchmarks import count

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Counts:
    """What a tool says of a module: learnable numbers, and multiply-adds of one forward."""

    params: int
    flops: int


@dataclass(frozen=True)
class Peer:
    """A tool: its package, and how it counts."""

    package: str
    count: Callable[[nn.Module, Inputs], Counts]

    @property
    def version(self) -> str:
        """The version that is installed; "" for none."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return ""


class UnusableError(Exception):
    """A tool does not count this module: it is not installed, or it failed."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that a tool prints, warns of or logs is shown meanwhile."""
    logging.disable(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def counted(peer: Peer, module: nn.Module, inputs: Inputs) -> Counts:
    """What the tool says.

    Raises:
        UnusableError: with what the tool raised.
    """
    if not peer.version:
        raise UnusableError("not installed")
    try:
        with quiet():
            return peer.count(module, inputs)
    except Exception as error:  # the tools raise whatever goes wrong in them
        raise UnusableError(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}".rstrip(": ")) from error


def _package(name: str) -> Any:
    return import_module(name)


def _nrfx(module: nn.Module, inputs: Inputs) -> Counts:
    usage = nrfx.utilization(nrfx.trace(module, inputs))
    return Counts(usage.params.total, usage.flops.total)


def _flop_counter(module: nn.Module, inputs: Inputs) -> Counts:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return Counts(count.params(module), counter.get_total_flops() // 2)


def _ptflops(backend: str) -> Callable[[nn.Module, Inputs], Counts]:
    def counts(module: nn.Module, inputs: Inputs) -> Counts:
        macs, params = _package("ptflops").get_model_complexity_info(
            module,
            tuple(inputs[0].shape[1:]),
            as_strings=False,
            print_per_layer_stat=False,
            verbose=False,
            backend=backend,
            input_constructor=lambda _: _for_ptflops(module, inputs),
        )
        if macs is None:  # it prints what went wrong and gives None
            raise UnusableError("gives no number")
        return Counts(int(params), int(macs))

    return counts


def _for_ptflops(module: nn.Module, inputs: Inputs) -> Any:
    """One input as it is; several by the names of the arguments of the forward."""
    if len(inputs) == 1:
        return inputs[0]
    names = module.forward.__code__.co_varnames[1:]
    return dict(zip(names, inputs, strict=False))


def _fvcore(module: nn.Module, inputs: Inputs) -> Counts:
    analysis = _package("fvcore.nn").FlopCountAnalysis(module, inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return Counts(int(_package("fvcore.nn").parameter_count(module)[""]), int(analysis.total()))


def _torchinfo(module: nn.Module, inputs: Inputs) -> Counts:
    summary = _package("torchinfo").summary(module, input_data=list(inputs), device=inputs[0].device, verbose=0)
    return Counts(int(summary.total_params), int(summary.total_mult_adds))


def _calflops(module: nn.Module, inputs: Inputs) -> Counts:
    _, macs, params = _package("calflops").calculate_flops(
        module, args=list(inputs), print_results=False, print_detailed=False, output_as_string=False
    )
    return Counts(int(params), int(macs))


def _torch_pruning(module: nn.Module, inputs: Inputs) -> Counts:
    given = inputs[0] if len(inputs) == 1 else inputs
    macs, params = _package("torch_pruning").utils.count_ops_and_params(module, given)
    return Counts(int(params), int(macs))


NRFX, FLOP_COUNTER = "nrfx", "FlopCounterMode"
PEERS: Mapping[str, Peer] = {
    NRFX: Peer("nrfx", _nrfx),
    FLOP_COUNTER: Peer("torch", _flop_counter),
    "ptflops": Peer("ptflops", _ptflops("pytorch")),
    "ptflops (aten)": Peer("ptflops", _ptflops("aten")),
    "fvcore": Peer("fvcore", _fvcore),
    "torchinfo": Peer("torchinfo", _torchinfo),
    "calflops": Peer("calflops", _calflops),
    "Torch-Pruning": Peer("torch-pruning", _torch_pruning),
}


def versions() -> str:
    """The tools with the versions that are installed, in a line."""
    packages = dict.fromkeys(peer.package for name, peer in PEERS.items() if name != NRFX)
    told = {package: Peer(package, _nrfx).version or "not installed" for package in packages}
    return ", ".join(f"{package} {number}" for package, number in told.items())
