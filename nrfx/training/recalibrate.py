"""Running statistics of batch norms, taken anew from a few batches.

After a rewrite the norms of new channels start with mean 0 and variance 1, and follow the data only as fast as their
momentum lets them. Recalibration runs some batches and writes the plain average of the batches' statistics. The
network runs in eval mode (no dropout, as wherever the statistics will be used), but its batch norms normalise with the
statistics of the batch, as in training. `recalibrate` writes them, `recalibrated` lends them for a `with` block.

Not handled: instance norms that keep running statistics. Frozen norms normalise as they always do and stay as they are.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nrfx.analysis.batches import call_of
from nrfx.errors import TrainingError
from nrfx.nests import replaced, tensors_of
from nrfx.plan.origins import NEW, Origins
from nrfx.rewrite.compare import evaluating


def recalibrate(
    module: nn.Module, batches: Iterable[Any], origins: Mapping[str, Origins] | None = None
) -> tuple[str, ...]:
    """Writes running means and variances from batches, in place, and returns the paths of the norms that got them.

        mean, var = the averages over all batches of mean(x) and var(x)          x: the input of the norm

    Where only new channels are recalibrated, a network that comes from `rejuvenate` keeps its function: nothing old
    reads a new channel yet. Parameters, gradients, momenta, modes and the counts of batches stay as they are, and no
    random number is drawn. In a distributed run each process takes its own batches.

    Args:
        module: the network, such as `result.module`; it may be in either mode.
        batches: inputs, as a data loader gives them: tensors, or sequences that begin with the tensors of the
            module's inputs (what follows, such as labels, is not looked at). A network that takes more than tensors
            gets a mapping as its first argument, or its keywords out of it. Of a model that was traced in parts:
            what it is called with, a tuple for several arguments. They are moved to the module's device. All of them
            are run; a few hundred images are enough.
        origins: `result.origins`: only channels that are new there get new statistics. None: all channels.

    Raises:
        TrainingError: there is no batch, one does not go through the module, a norm's input has one value a channel or
            one that is not finite; or the origins are no origins, or those of another module. Nothing was changed.

    Source: the cumulative average is that of `torch.nn.BatchNorm2d(momentum=None)`. Neural Rejuvenation has no such
    step.

    >>> norm = nn.BatchNorm2d(2)
    >>> recalibrate(nn.Sequential(norm, nn.ReLU()), [torch.full((4, 2, 3, 3), 5.0), torch.full((4, 2, 3, 3), 7.0)])
    ('0',)
    >>> norm.running_mean, norm.running_var
    (tensor([6., 6.]), tensor([0., 0.]))
    """
    if origins is not None and not isinstance(origins, Mapping):
        raise TrainingError(f"origins is of class {type(origins).__name__}; expected result.origins, or None.")
    norms = _norms(module, origins)
    averages = _averages(module, batches, norms)
    changed = [norm for norm in norms.values() if norm.path in averages and bool(norm.fresh.any())]
    for norm in changed:
        for tensor, value in zip((norm.mean, norm.var), averages[norm.path], strict=True):
            tensor.copy_(torch.where(norm.fresh, value.to(tensor), tensor))
    return tuple(norm.path for norm in changed)


@contextmanager
def recalibrated(module: nn.Module, batches: Iterable[Any]) -> Iterator[tuple[str, ...]]:
    """In a `with` block, running statistics taken anew from batches; behind it, the same tensors as before.

    Running statistics follow the weights with their momentum. Where the weights change quickly, as around an event or
    under a penalty on the gammas, they lag behind, and eval mode shows another network than the one that is trained.
    Inside of the block, a score in eval mode is that of the weights. Training goes on as if there had been no block:
    the norms get other tensors for as long as it lasts, so that no number of the network is written, and no random
    number is drawn. It does not change the mode, and keeps the old statistics beside the new ones: two numbers a
    channel.

    Args:
        module: the network, in either mode.
        batches: as for `recalibrate`: some hundred images, as in training. A module without such norms runs none.

    Gives the paths of the norms whose statistics are new: none where the module has no batch norms, or frozen ones.

    Raises:
        TrainingError: as for `recalibrate`. Nothing was changed.

    >>> norm = nn.BatchNorm2d(1)
    >>> with recalibrated(nn.Sequential(norm), [torch.full((4, 1, 3, 3), 5.0)]) as paths:
    ...     paths, norm.running_mean
    (('0',), tensor([5.]))
    >>> norm.running_mean
    tensor([0.])
    """
    norms = _norms(module, None)
    averages = _averages(module, batches, norms) if norms else {}
    changed = [norm for norm in norms.values() if norm.path in averages]
    new = {
        id(old): value.to(old)
        for norm in changed
        for old, value in zip((norm.mean, norm.var), averages[norm.path], strict=True)
    }
    held = [
        (owner, name, getattr(owner, name, None))
        for owner in module.modules()
        for name in ("running_mean", "running_var")
        if id(getattr(owner, name, None)) in new
    ]
    try:
        for owner, name, old in held:
            setattr(owner, name, new[id(old)])
        yield tuple(norm.path for norm in changed)
    finally:
        for owner, name, old in held:
            setattr(owner, name, old)


def _averages(
    module: nn.Module, batches: Iterable[Any], norms: Mapping[int, "_Norm"]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Path -> (mean, variance) of each of the norms that the batches reach."""
    if not isinstance(batches, Iterable):
        raise TrainingError(f"batches is {batches!r}; expected a list of inputs, or a data loader.")
    count = 0
    with evaluating(module), _BatchStatistics(norms) as seen, torch.no_grad():
        for count, batch in enumerate(batches, start=1):
            _run(module, batch, count - 1)
        averages: dict[str, tuple[Tensor, Tensor]] = seen.averages()
    if not count:
        raise TrainingError("There is no batch: `batches` is empty, or an iterator that was used up. Give a list.")
    return averages


@dataclass(frozen=True, eq=False)
class _Norm:
    """A batch norm with running statistics; `fresh` is bool [channels], whether the channel's will be written."""

    path: str
    mean: Tensor
    var: Tensor
    fresh: Tensor


def _norms(module: nn.Module, origins: Mapping[str, Origins] | None) -> dict[int, _Norm]:
    """id of its running mean -> every norm with running statistics that is not frozen."""
    norms: dict[int, _Norm] = {}
    names = set()
    for path, owner in module.named_modules():
        mean, var = (getattr(owner, name, None) for name in ("running_mean", "running_var"))
        if mean is None or var is None or _frozen(owner, module):
            continue
        name = f"{path}.running_mean" if path else "running_mean"
        names.add(name)
        norms[id(mean)] = _Norm(path, mean, var, _fresh(mean, name, origins))
    if origins is not None and names and not names & origins.keys():
        raise TrainingError(
            f"The origins know none of the module's norms, such as {min(names)}: give result.module itself, not what "
            "wraps it, and the origins of the same result."
        )
    return norms


def _fresh(mean: Tensor, name: str, origins: Mapping[str, Origins] | None) -> Tensor:
    """bool [channels]: whether the channel gets new statistics: all do without origins, and new ones with them."""
    if origins is None:
        return torch.ones_like(mean, dtype=torch.bool)
    if name not in origins or origins[name][0] is None:
        return torch.zeros_like(mean, dtype=torch.bool)
    places = origins[name][0]
    if places is None or places.shape != mean.shape:
        raise TrainingError(
            f"The origins of {name} are for {0 if places is None else len(places)} channels, and it has {len(mean)}: "
            "give those of the rejuvenation that the module comes from."
        )
    return (places == NEW).to(mean.device)


def _frozen(owner: nn.Module, module: nn.Module) -> bool:
    """Whether the user has taken the norm out of training: by its own eval mode, or by its parameters."""
    parameters = list(owner.parameters(recurse=False))
    untrained = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
    return untrained or (module.training and not owner.training)


def _run(module: nn.Module, batch: Any, index: int) -> None:
    """Runs the module on a batch that is moved to its device; raises TrainingError with the batch's index."""
    device = next((parameter.device for parameter in module.parameters()), None)
    moved = partial(replaced, change=lambda x: x.to(device) if isinstance(x, Tensor) else x)
    args, kwargs = call_of(module, batch, index)
    try:
        module(*map(moved, args), **{name: moved(value) for name, value in kwargs.items()})
    except TrainingError:
        raise
    except Exception as error:  # whatever the module's forward raises
        shapes = ", ".join(str(list(x.shape)) for x in tensors_of((args, kwargs)).values())
        raise TrainingError(
            f"Batch {index}, of shape {shapes}, does not go through the module: {error}. Give inputs as in training. "
            "Nothing was changed."
        ) from error


@dataclass(eq=False)
class _Sum:
    """Sums over the batches that a norm has seen, in float64."""

    mean: Tensor
    var: Tensor
    batches: int = 0


class _BatchStatistics(TorchFunctionMode):
    """While active, the given norms normalise with the statistics of their input, and these are summed up.

    Every batch norm of torch, synchronised ones and those of other packages included, calls F.batch_norm in eval mode.
    The norm is known by the running mean that it passes, so that no module needs a hook.
    """

    def __init__(self, norms: Mapping[int, _Norm]) -> None:
        super().__init__()
        self.norms = norms
        self.sums: dict[str, _Sum] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is not F.batch_norm:
            return func(*args, **given)
        given |= dict(zip(_ARGUMENTS, args, strict=False))
        norm = self.norms.get(id(given["running_mean"]))
        if norm is None:
            return func(**given)
        self._add(norm, given["input"])
        return func(**given | {"running_mean": None, "running_var": None, "training": True})

    def _add(self, norm: _Norm, x: Tensor) -> None:
        if prod(x.shape) < 2 * x.shape[1]:
            raise TrainingError(
                f"{norm.path} sees one value a channel in a batch (input {list(x.shape)}), which has no variance: give "
                "larger batches. Nothing was changed."
            )
        # var_mean of half precision would be rounded to it, and the average with it
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        var, mean = torch.var_mean(wide, [dim for dim in range(x.dim()) if dim != 1])
        total = self.sums.setdefault(norm.path, _Sum(torch.zeros_like(mean).double(), torch.zeros_like(var).double()))
        total.mean += mean
        total.var += var
        total.batches += 1

    def averages(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Path -> (mean, variance) of each norm that was reached."""
        for path, total in self.sums.items():
            if not bool((total.mean.isfinite() & total.var.isfinite()).all()):
                raise TrainingError(
                    f"What {path} sees is not finite: the batches or the weights before it hold NaN or infinity. "
                    "Nothing was changed."
                )
        return {path: (total.mean / total.batches, total.var / total.batches) for path, total in self.sums.items()}


_ARGUMENTS = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
