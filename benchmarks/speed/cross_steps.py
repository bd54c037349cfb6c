"""Times one training step of a network before and after a rejuvenation under each scheme."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

import nrfx
from benchmarks.networks import dying, torchvision_network
from benchmarks.speed.clock import LAYOUTS, Clock, interleaved, spread, where
from nrfx.choices import Scheme

SCHEMES: Mapping[str, Scheme] = {"same widths, dense": "dense", "NR-CA": "attention", "NR-CR": "removed"}


@dataclass(frozen=True)
class Step:
    """Milliseconds of one training step (forward, backward, SGD) of a whole network; the columns are those of
    cross_convolutions.Timing.
    """

    network: str
    way: str
    layout: str
    dtype: str
    params: int
    flops: int
    milliseconds: float
    spread: float
    to_dense: float
    to_same_widths: float
    peak_mib: float
    batch: int
    repeats: int
    device: str
    torch: str
    date: str


def steps(layout: str, dtype: str, repeats: int, device: torch.device, batch: int) -> Iterator[Step]:
    """The rows of ResNet-50 with 40 % of its channels dead, and of its rejuvenations at the same flops."""
    network = torchvision_network("resnet50", 224)
    model = nrfx.trace(dying(network, dtype=torch.float32, calibration=2), network.images(1, 0, torch.float32))
    budget = nrfx.Budget.relative(model, flops=1.0)
    rejuvenated = {name: nrfx.rejuvenate(model, budget, scheme=scheme).module for name, scheme in SCHEMES.items()}
    networks: dict[str, nn.Module] = {"dense": model, **rejuvenated}
    clock = Clock(device)
    images = network.images(batch, 1, torch.float32).to(device, memory_format=LAYOUTS[layout])
    labels = torch.arange(batch, device=device)
    size = {name: nrfx.utilization(module) for name, module in networks.items()}
    for module in networks.values():
        module.to(device).to(memory_format=LAYOUTS[layout]).train()
    optimizers = {name: torch.optim.SGD(module.parameters(), 1e-3, 0.9) for name, module in networks.items()}

    def run(name: str) -> tuple[float]:
        start = clock.now()
        optimizers[name].zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = F.cross_entropy(networks[name](images).float(), labels)
        loss.backward()
        optimizers[name].step()
        return (clock.now() - start,)

    seconds = interleaved({name: partial(run, name) for name in networks}, repeats)
    middle = {name: median(times[0] for times in seconds[name]) for name in networks}
    for name, value in middle.items():
        yield Step(
            *("resnet50", name, layout, dtype, size[name].params.total, size[name].flops.total, 1000 * value),
            spread([times[0] for times in seconds[name]]),
            *(value / middle["dense"], value / middle["same widths, dense"]),
            clock.peak_mib(partial(run, name)),
            batch,
            repeats,
            *where(device),
        )
