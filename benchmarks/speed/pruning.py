"""Removing channels: `nrfx.compact` with the trace before it, against Torch-Pruning, at about the same size afterwards.

nrfx removes what is dead: 40 % of the gammas of every norm are 0 (in ViT-B/16, of the scales behind the MLPs that
`nrfx.insert_scales` put in). Torch-Pruning removes a share of all channels, by the size of gammas (in ViT-B/16 of the
MLPs, by the size of weights); the share is chosen so that as many params stay. Both start from a copy of the model and
one image, and end with a module that runs. nrfx keeps the function, Torch-Pruning does not try to.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

import nrfx
from benchmarks import count
from benchmarks.networks import SHARE_DEAD, dying, torchvision_network
from benchmarks.speed.clock import Spread, interleaved, ratio
from benchmarks.speed.part import Goal, Part, Settings, made
from benchmarks.speed.peers import PEERS, quiet
from benchmarks.table import markdown
from benchmarks.timing import seconds
from nrfx.nn import ChannelScale

SHARES: Mapping[str, float] = {
    "resnet50": 0.27,
    "mobilenet_v2": 0.41,
    "efficientnet_b0": 0.31,
    "densenet121": 0.19,
    "densenet201": 0.18,
    "vit_b_16": 0.4,
}
"""What Torch-Pruning is told to remove of each layer, so that about as many params stay as with nrfx."""

REPEATS, SLOW, SIDE = 3, 5.0, 224
NRFX, OTHER = "nrfx.trace + compact", "Torch-Pruning"


@dataclass(frozen=True)
class Pruned:
    """CPU milliseconds of one tool on one network: median and quartiles.

    Attributes:
        to_other: to Torch-Pruning's time in the same round.
        params_before, params_after: of the module that the tool is given, and of what it makes of it.
        refused: why it failed; "" where it did not.
    """

    model: str
    tool: str
    milliseconds: float
    milliseconds_first: float
    milliseconds_third: float
    to_other: float
    to_other_first: float
    to_other_third: float
    params_before: int
    params_after: int
    refused: str
    peers: str
    repeats: int
    torch: str
    date: str
    cpu: str


def network(name: str) -> nn.Module:
    """With dead channels; ViT-B/16 with scales, of which some are 0."""
    if name != "vit_b_16":
        return dying(torchvision_network(name, 64), dtype=torch.float32, calibration=4)
    torch.manual_seed(0)
    plain = torchvision_network(name, SIDE).build().eval()
    scaled = nrfx.insert_scales(nrfx.trace(plain, torch.zeros(1, 3, SIDE, SIDE)))
    with torch.no_grad():
        for scale in (module.weight for module in scaled.modules() if isinstance(module, ChannelScale)):
            scale[torch.randperm(scale.numel())[: int(SHARE_DEAD * scale.numel())]] = 0.0
    return scaled


def compacted(model: nn.Module, image: Tensor) -> nn.Module:
    """What nrfx makes of the model."""
    return nrfx.compact(nrfx.trace(model, image)).module


def pruned(name: str, model: nn.Module, image: Tensor) -> nn.Module:
    """What Torch-Pruning makes of the model, in place."""
    tools: Any = import_module("torch_pruning")
    importance: Any = tools.importance.BNScaleImportance()
    kept: list[nn.Module] = [
        layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == 1000
    ]
    if name == "vit_b_16":
        importance = tools.importance.MagnitudeImportance(p=2)
        kept += [layer for path, layer in model.named_modules() if path.endswith("mlp.3")]
        kept += [layer for layer in model.modules() if isinstance(layer, nn.MultiheadAttention | nn.Conv2d)]
    with quiet():
        pruner = tools.pruner.BasePruner(
            model, image, importance=importance, pruning_ratio=SHARES[name], ignored_layers=kept, iterative_steps=1
        )
        pruner.step()
    return model


def timed(work: Callable[[nn.Module], object], model: nn.Module) -> tuple[float]:
    """CPU milliseconds of the work on a copy, which is made before."""
    copy = deepcopy(model)
    return (1000 * seconds(lambda: work(copy)),)


def works(name: str, image: Tensor) -> Mapping[str, tuple[Callable[[nn.Module], nn.Module], nn.Module]]:
    """Each tool, and the model that it is given: for ViT-B/16 Torch-Pruning gets the one without scales."""
    model = network(name)
    other = torchvision_network(name, SIDE).build().eval() if name == "vit_b_16" else model
    return {NRFX: (partial(compacted, image=image), model), OTHER: (partial(pruned, name, image=image), other)}


def first(work: Callable[[nn.Module], nn.Module], model: nn.Module) -> tuple[float, int]:
    """CPU seconds of the first call, and the params of what it makes."""
    small: list[nn.Module] = []
    elapsed = seconds(lambda: small.append(work(model)))
    return elapsed, count.params(small[0])


def rows(name: str, repeats: int, settings: Settings) -> list[Pruned]:
    """The two rows of a network; where one tool takes more than SLOW seconds, the first calls are all."""
    image = torch.randn(1, 3, SIDE, SIDE)
    given = works(name, image)
    sizes: dict[str, int] = {}
    refused: dict[str, str] = {}
    firsts: dict[str, float] = {}
    for tool, (work, model) in given.items():
        try:
            firsts[tool], sizes[tool] = first(work, deepcopy(model))
        except Exception as error:  # Torch-Pruning may not be installed, or raise anything
            refused[tool] = f"{type(error).__name__}: {error}"
    times = {tool: [1000 * elapsed] for tool, elapsed in firsts.items()}
    if max(firsts.values(), default=0.0) < SLOW:
        calls = {tool: partial(timed, *given[tool]) for tool in sizes}
        times = {tool: [each for (each,) in found] for tool, found in interleaved(calls, repeats, warm=False).items()}
    return [
        row(name, tool, times, count.params(model), sizes.get(tool, 0), refused.get(tool, ""), settings)
        for tool, (_, model) in given.items()
    ]


def row(
    name: str, tool: str, times: Mapping[str, list[float]], before: int, after: int, refused: str, settings: Settings
) -> Pruned:
    """The row of one tool, from the times of both."""
    own = Spread.of(times.get(tool, []))
    to_other = ratio(times[tool], times[OTHER]) if {tool, OTHER} <= times.keys() else Spread.of([])
    return Pruned(
        *(name, tool, own.median, own.first, own.third, to_other.median, to_other.first, to_other.third),
        *(before, after, refused, PEERS[OTHER].version or "not installed", len(times.get(tool, []))),
        **vars(settings.environment),
    )


def measured(settings: Settings) -> list[Pruned]:
    """The rows of all networks."""
    chosen, repeats = (["mobilenet_v2"], 2) if settings.quick else (list(SHARES), REPEATS)
    return [
        each for name in track(chosen, "pruning", console=settings.console) for each in rows(name, repeats, settings)
    ]


def goals(rows: Sequence[Pruned]) -> list[Goal]:
    """At most the time of Torch-Pruning on each network."""
    return [
        Goal(f"{row.model}: trace + compact / Torch-Pruning", row.to_other, 1, "x") for row in rows if row.tool == NRFX
    ]


def holds(rows: Sequence[Pruned]) -> bool:
    """Whether nrfx did not fail."""
    return not any(row.refused for row in rows if row.tool == NRFX)


TEXT = """\
Both get a copy of the same network with 40 % of its gammas at 0, and one image of 224 x 224. nrfx traces it and
removes what is dead, with its checks; Torch-Pruning builds its graph and removes so large a share of each layer that
about as many params stay. In ViT-B/16 both remove channels of the MLPs alone: nrfx by the scales of
`nrfx.insert_scales`, Torch-Pruning by the size of the weights. nrfx keeps the outputs; Torch-Pruning changes them, to
be trained again.
"""
HEADINGS = ("network", "tool", "CPU ms", "/ Torch-Pruning", "params that stay", "")


def line(row: Pruned) -> tuple[str, ...]:
    """The row under HEADINGS."""
    if row.refused:
        return (row.model, row.tool, "-", "-", "-", row.refused)
    own = Spread(row.milliseconds, row.milliseconds_first, row.milliseconds_third)
    to_other = Spread(row.to_other, row.to_other_first, row.to_other_third)
    return (row.model, row.tool, str(own), str(to_other), f"{row.params_after / row.params_before:.1%}", "")


def section(rows: Sequence[Pruned]) -> list[str]:
    """The lines of the section of docs/speed.md."""
    rounds = f"{min(row.repeats for row in rows)} to {max(row.repeats for row in rows)} rounds"
    closing = f"{rounds}; torch-pruning {rows[0].peers}; {made(rows)}"
    return [TEXT, *markdown(HEADINGS, map(line, rows)), "", closing]


PART = Part("pruning", "Removing channels, against Torch-Pruning", Pruned, measured, section, goals, holds)
