"""How much memory a rewrite takes: the peak beyond what lay in memory before, against the old and the new weights.

`python -m benchmarks.speed.memory MODEL WORK` is the process of one measurement; it prints a JSON object.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from rich.progress import track
from torch import nn

import nrfx
from benchmarks.networks import dying, torchvision_network
from benchmarks.speed.child import MIB, answer
from benchmarks.speed.child import measured as in_child
from benchmarks.speed.part import Goal, Part, Settings, made
from benchmarks.table import markdown

MODELS = ("resnet50", "densenet201", "vgg16_bn")
MORE = 100
WORKS: Mapping[str, Callable[[nrfx.TracedModule], nn.Module]] = {
    "compact": lambda traced: nrfx.compact(traced).module,
    "rejuvenate, attention, 1.0x": lambda traced: (
        nrfx.rejuvenate(traced, nrfx.Budget.relative(traced, params=1.0), scheme="attention").module
    ),
}


@dataclass(frozen=True)
class Peak:
    """MiB of one rewrite: weights of the old and the new network, and the peak beyond what lay in memory before it."""

    model: str
    work: str
    old_mib: float
    new_mib: float
    peak_mib: float
    torch: str
    date: str
    cpu: str

    @property
    def more(self) -> float:
        """MiB beyond the weights of both networks."""
        return self.peak_mib - self.old_mib - self.new_mib


def weights(module: nn.Module) -> float:
    """MiB of all parameters and buffers."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MIB


def child(name: str, work: str) -> dict[str, float]:
    """The figures of one rewrite, in a process of which it is the only work."""
    torch.set_num_threads(1)
    model = dying(torchvision_network(name, 64), dtype=torch.float32, calibration=2)
    traced = nrfx.trace(model, torch.zeros(1, 3, 64, 64))
    made_of: list[nn.Module] = []
    figures = in_child(lambda: made_of.append(WORKS[work](traced)))
    return {"old_mib": weights(traced), "new_mib": weights(made_of[0]), "peak_mib": figures["peak_mib"]}


def measured(settings: Settings) -> list[Peak]:
    """The rows of all networks and rewrites."""
    models = MODELS[:1] if settings.quick else MODELS
    cases = list(product(models, WORKS))
    return [
        Peak(model=name, work=work, **answer(__name__, name, work), **vars(settings.environment))
        for name, work in track(cases, "memory", console=settings.console)
    ]


def goals(rows: Sequence[Peak]) -> list[Goal]:
    """At most MORE MiB beside both networks."""
    return [Goal(f"{row.model}, {row.work}: peak beyond old + new weights", row.more, MORE, " MB") for row in rows]


TEXT = """\
MiB of the resident set of a fresh process: the peak during the rewrite of a traced network with 40 % of its gammas at
0, beyond what lay in memory before, which holds the old weights already. The goal is old + new weights + 100 MB.
"""
HEADINGS = ("network", "rewrite", "old weights", "new weights", "peak beyond before", "beyond both weights")


def line(row: Peak) -> tuple[str, ...]:
    """The row under HEADINGS."""
    return (row.model, row.work, *(f"{each:.0f}" for each in (row.old_mib, row.new_mib, row.peak_mib, row.more)))


def section(rows: Sequence[Peak]) -> list[str]:
    """The lines of the section of docs/speed.md."""
    return [TEXT, *markdown(HEADINGS, map(line, rows)), "", f"One process each; {made(rows)}"]


PART = Part("memory", "Memory of a rewrite", Peak, measured, section, goals)


def main(arguments: Sequence[str]) -> Any:
    """Prints the figures of the rewrite that the arguments name."""
    print(json.dumps(child(*arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
