"""Times one training step of a network before and after a rejuvenation under each scheme."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from benchmarks.networks import dying, torchvision_network
from benchmarks.speed.clock import LAYOUTS, Clock, interleaved, spread, where
from nrfx.choices import Scheme

DENSE = "same widths, dense"
SCHEMES: Mapping[str, Scheme] = {DENSE: "dense", "NR-CA": "attention", "NR-CR": "removed"}
SIDE = 224


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


class Rejuvenated:
    """A torchvision network with 40 % of its channels dead, and its rejuvenations at the same flops, on a device."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        network = torchvision_network(name, SIDE)
        dead = dying(torchvision_network(name, 64), dtype=torch.float32, calibration=2)
        self.model = nrfx.trace(dead, network.images(1, 0, torch.float32))
        budget = nrfx.Budget.relative(self.model, flops=1.0)
        made = {way: nrfx.rejuvenate(self.model, budget, scheme=scheme).module for way, scheme in SCHEMES.items()}
        self.networks: dict[str, nn.Module] = {"dense": self.model, **made}
        self.sizes = {way: nrfx.utilization(module) for way, module in self.networks.items()}

    @cached_property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """SGD with momentum for each network, on the device."""
        for module in self.networks.values():
            module.to(self.device).train()
        return {way: torch.optim.SGD(module.parameters(), 1e-3, 0.9) for way, module in self.networks.items()}

    def images(self, batch: int, layout: str) -> Tensor:
        """[batch, 3, 224, 224] standard normal, on the device."""
        images = torchvision_network(self.name, SIDE).images(batch, 1, torch.float32)
        return images.to(self.device, memory_format=LAYOUTS[layout])


def backward(module: nn.Module, images: Tensor, dtype: str) -> None:
    """Forward and backward of the loss; in bfloat16 under autocast."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        loss = F.cross_entropy(module(images).float(), torch.arange(len(images), device=images.device))
    loss.backward()


def steps(networks: Rejuvenated, layout: str, dtype: str, repeats: int, batch: int) -> Iterator[Step]:
    """The rows of a network and of its rejuvenations."""
    optimizers, clock, images = networks.optimizers, Clock(networks.device), networks.images(batch, layout)
    for module in networks.networks.values():
        module.to(memory_format=LAYOUTS[layout])

    def run(way: str) -> tuple[float]:
        start = clock.now()
        optimizers[way].zero_grad()
        backward(networks.networks[way], images, dtype)
        optimizers[way].step()
        return (clock.now() - start,)

    seconds = interleaved({way: partial(run, way) for way in optimizers}, repeats)
    middle = {way: median(times[0] for times in seconds[way]) for way in optimizers}
    for way, value in middle.items():
        size = networks.sizes[way]
        yield Step(
            *(networks.name, way, layout, dtype, size.params.total, size.flops.total, 1000 * value),
            spread([times[0] for times in seconds[way]]),
            *(value / middle["dense"], value / middle[DENSE]),
            clock.peak_mib(partial(run, way)),
            batch,
            repeats,
            *where(networks.device),
        )
