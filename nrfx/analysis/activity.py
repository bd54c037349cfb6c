"""What the weights of a network read on batches: the mean of each column, and the mean of its absolute value."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.analysis.batches import call_of
from nrfx.analysis.channels import Channels
from nrfx.analysis.probes import probed
from nrfx.errors import AnalysisError, TrainingError
from nrfx.ids import among
from nrfx.nests import replaced, tensors_of
from nrfx.rules import Reading
from nrfx.tracing import TracedModule
from nrfx.tracing.recording.draws import drawing_from

Batches = Iterable[Any] | Callable[[], Iterable[Any]]
"""A list of batches or a data loader, or a function that gives one anew each time."""


@dataclass(frozen=True)
class Activity:
    """What each column of each weight reads, over examples and positions, zeros of a padding left out.

    Attributes:
        means: key of a weight -> float64 [batches, columns], the mean of what the column reads in each batch.
        sizes: the same of its absolute value.
        examples: int64 [batches], the numbers that a mean is over are in proportion to these.
    """

    means: Mapping[str, Tensor]
    sizes: Mapping[str, Tensor]
    examples: Tensor

    def mean(self, key: str) -> Tensor:
        """float64 [columns], over all batches."""
        return self._over(self.means[key], self.examples.double())

    def size(self, key: str, decay: float | None = None) -> Tensor:
        """float64 [columns], the absolute value over all batches; with `decay`, the running mean that ends with them.

        mean_t = decay * mean_(t-1) + (1 - decay) * batch_t, divided by 1 - decay^t for its start at 0.
        """
        count = self.examples.numel()
        weights = self.examples.double() if decay is None else decay ** torch.arange(count - 1, -1, -1).double()
        return self._over(self.sizes[key], weights)

    @staticmethod
    def _over(values: Tensor, weights: Tensor) -> Tensor:
        return (weights / weights.sum()) @ values


def checked_batches(batches: Batches) -> Batches:
    """The batches, if they can be gone through again and again.

    Raises:
        AnalysisError: they cannot.
    """
    if isinstance(batches, Tensor | Iterator) or not (isinstance(batches, Iterable) or callable(batches)):
        found = f"one {type(batches).__name__}"
        raise AnalysisError(
            f"batches is {found}; expected a list of batches such as [x], a data loader, or a function that gives one."
        )
    return batches


@torch.no_grad()
def activity_of(traced: TracedModule, channels: Channels, batches: Batches) -> Activity:
    """What weights read on the batches, in eval mode; the network, its mode and the random generators stay as they are.

    Raises:
        AnalysisError: there is no batch, one does not go through the network, or what a weight reads is not finite.
    """
    observers: dict[str, _Observer] = {}
    twin = probed(traced, channels, partial(_observer, channels, observers))
    means: dict[str, list[Tensor]] = {key: [] for key in observers}
    sizes: dict[str, list[Tensor]] = {key: [] for key in observers}
    examples = []
    for outputs in runs(twin, batches):
        examples.append(max((x.shape[0] for x in outputs.values() if x.dim()), default=1))
        for key, observer in observers.items():
            mean, size = observer.taken()
            means[key].append(mean)
            sizes[key].append(size)
    return Activity(_stacked(means), _stacked(sizes), torch.tensor(examples))


def runs(twin: TracedModule, batches: Batches) -> Iterator[Mapping[str, Tensor]]:
    """The outputs of a network on each batch, by path, in its present mode and without gradients.

    Raises:
        AnalysisError: there is no batch, or one does not go through the network.
    """
    device = next((parameter.device for parameter in twin.parameters()), None)
    moved = partial(replaced, change=lambda x: x.to(device) if isinstance(x, Tensor) else x)
    count = 0
    given = batches() if callable(batches) and not isinstance(batches, Iterable) else batches
    for count, batch in enumerate(given, start=1):
        try:
            args, kwargs = call_of(twin, batch, count - 1)
        except TrainingError as error:
            raise AnalysisError(str(error)) from error
        with torch.no_grad(), drawing_from(seed=0):
            try:
                outputs = twin(*map(moved, args), **{name: moved(value) for name, value in kwargs.items()})
            except Exception as error:  # whatever the model's own code raises
                shapes = ", ".join(str(list(x.shape)) for x in tensors_of((args, kwargs)).values())
                raise AnalysisError(
                    f"Batch {count - 1}, of shape {shapes}, does not go through the network: {error}. Give batches as "
                    "in training."
                ) from error
        yield tensors_of(outputs)
    if not count:
        raise AnalysisError("There is no batch: `batches` is empty, or was used up. Give a list, or a function.")


def _observer(channels: Channels, observers: dict[str, "_Observer"], reading: Reading) -> "_Observer | None":
    """The observer of a weight, one for all its visits; None where no channel that it reads may go."""
    free = torch.tensor([space.free for space in channels.spaces], dtype=torch.bool)
    if not bool(among(channels.spaces_along(reading.cols), free).any()):
        return None
    return observers.setdefault(reading.key, _Observer(reading.axis, reading.cols.numel()))


def _stacked(values: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    """Each as [batches, columns] on the CPU.

    Raises:
        AnalysisError: a value is not finite.
    """
    stacked = {key: torch.stack(each).cpu() for key, each in values.items() if each}
    for key, each in stacked.items():
        if not bool(each.isfinite().all()):
            raise AnalysisError(
                f"What {key} reads on the batches is not finite: the batches or the weights hold NaN or infinity."
            )
    return stacked


class _Observer(nn.Module):
    """Gives what it takes, and sums up each of its columns."""

    def __init__(self, axis: int, columns: int) -> None:
        super().__init__()
        self.axis, self.columns = axis, columns
        self.seen: list[tuple[Tensor, Tensor, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        rows = x.detach().movedim(self.axis, 0).reshape(self.columns, -1)
        sums = rows.sum(1, dtype=torch.float64), rows.abs().sum(1, dtype=torch.float64)
        self.seen.append((*sums, max(rows.shape[1], 1)))
        return x

    def taken(self) -> tuple[Tensor, Tensor]:
        """The mean and the mean absolute value of each column since the last time, over all visits."""
        total = sum(count for *_, count in self.seen)
        mean, size = (torch.stack([seen[index] for seen in self.seen]).sum(0) / total for index in (0, 1))  # type: ignore[misc]
        self.seen = []
        return mean, size
