"""The criteria that are there: by activations, by utility, by weights, by gammas, and by scores of the user's own.

Scores are relative to the mean over their layer, but for those of gammas (relative to the largest) and the user's own
(as they are). So one threshold goes for layers of any scale.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nrfx.analysis.activity import Batches, checked_batches
from nrfx.analysis.channels import Channels, first_readings
from nrfx.analysis.criterion import Criterion, Subject, check_number
from nrfx.analysis.limits import known, layers_of
from nrfx.analysis.probes import dense_weight, reading_steps
from nrfx.errors import AnalysisError
from nrfx.tracing.graph.registered import registered

Given = Mapping[str, Any] | Callable[[str, nn.Module], Any]
"""Scores or masks of the user's own, by layer; or a function that gives them."""


class Relative(Criterion):
    """A criterion whose scores are relative to their layer's: a channel with `tau` or less is dead."""

    tau: float

    def __post_init__(self) -> None:
        check_number(self.tau, "tau")
        super().__post_init__()

    @property
    def threshold(self) -> float:
        return self.tau


@dataclass(frozen=True, eq=False)
class Activation(Relative):
    """Dormant channels: those whose mean absolute activation is at most `tau` of their layer's mean.

    score = mean |x| / mean over the layer of mean |x|        x: what weights read of the channel, over the batches

    A ReLU that fires on no example has score 0, and is dead at any tau.

    Args:
        batches: a list of batches, a data loader, or a function that gives one anew; all of them are run, in eval mode.
        tau: 0 or more; 0 finds what is 0 on all batches.

    Raises:
        AnalysisError: an argument is out of range.

    Source: "The Dormant Neuron Phenomenon" (Sokar et al., 2023), Definition 3.1. There x is the activation itself; here
    it is what comes to the next weights (behind a pooling, a norm, a depthwise convolution), and where several read it,
    the largest score counts.

    >>> import nrfx
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.fill_(1.0), net[0].bias.copy_(torch.tensor([0.0, 0.0, -9.0]))
    >>> x = torch.ones(4, 2)
    >>> result = nrfx.compact(nrfx.trace(net, x), liveness=nrfx.liveness.Activation([x]))
    >>> result.module.get_submodule("0")
    Linear(in_features=2, out_features=2, bias=True)
    """

    batches: Batches
    tau: float = 0.025

    def __post_init__(self) -> None:
        checked_batches(self.batches)  # None is not among them
        super().__post_init__()

    @property
    def title(self) -> str:
        return f"activation (at most {self.tau:g} of the layer's mean)" if self.budget is None else "activation"

    def scores(self, subject: Subject) -> Mapping[str, Tensor]:
        assert subject.activity is not None
        read = [
            (reading.cols, subject.activity.size(reading.key))
            for _, reading in reading_steps(subject.channels)
            if reading.key in subject.activity.sizes
        ]
        return _by_layer(subject.channels, _at_readers(subject.channels, read, "amax"))


@dataclass(frozen=True, eq=False)
class Utility(Relative):
    """Contribution utility: those whose activation times outgoing weights is at most `tau` of their layer's mean.

    utility = running mean of |x| * sum of |outgoing weights|, added up over the weights that read the channel

    Args:
        batches: as for `Activation`, the latest last.
        tau: 0 or more.
        decay: of the running mean from batch to batch, in [0, 1).

    Raises:
        AnalysisError: an argument is out of range.

    Source: "Loss of plasticity in deep continual learning" (Dohare et al., 2024), Methods, "contribution utility".
    There the running mean is kept from step to step, and a part of each layer is replaced at a rate; here the batches
    are gone through at each measurement, and `most=` and `budget=` say how much may go.

    >>> import nrfx
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> with torch.no_grad():
    ...     _ = net[2].weight[:, 0].zero_()  # nobody listens to the first unit
    >>> x = torch.ones(4, 2)
    >>> nrfx.compact(nrfx.trace(net, x), liveness=nrfx.liveness.Utility([x])).module.get_submodule("2").in_features < 3
    True
    """

    batches: Batches
    tau: float = 0.01
    decay: float = 0.99

    def __post_init__(self) -> None:
        checked_batches(self.batches)  # None is not among them
        check_number(self.decay, "decay")
        if self.decay >= 1:
            raise AnalysisError(f"decay is {self.decay!r}; expected a number in [0, 1), such as 0.99.")
        super().__post_init__()

    @property
    def title(self) -> str:
        return f"utility (at most {self.tau:g} of the layer's mean)" if self.budget is None else "utility"

    def scores(self, subject: Subject) -> Mapping[str, Tensor]:
        assert subject.activity is not None
        read = []
        for key, reading in first_readings(step for step, _ in reading_steps(subject.channels)).items():
            if key in subject.activity.sizes:
                outgoing = dense_weight(subject.traced, reading).abs().double().sum(0)
                outgoing = outgoing.view(reading.cols.numel(), -1).sum(1).cpu()
                read.append((reading.cols, subject.activity.size(key, self.decay) * outgoing))
        return _by_layer(subject.channels, _at_readers(subject.channels, read, "sum"))


@dataclass(frozen=True, eq=False)
class Weight(Relative):
    """Small filters: those whose norm is at most `tau` of the mean norm in their layer.

    Args:
        tau: 0 or more; 0 finds filters of zeros. They give their bias everywhere, so that the function is kept.

    Raises:
        AnalysisError: an argument is out of range.

    Source: filter norms as in "Pruning Filters for Efficient ConvNets" (Li et al., 2017), which takes L1; this is L2.

    >>> import nrfx
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> with torch.no_grad():
    ...     _ = net[0].weight[1].zero_()
    >>> result = nrfx.compact(nrfx.trace(net, torch.zeros(4, 2)), liveness="weight")
    >>> result.module.get_submodule("0").out_features, result.keeps_function
    (2, True)
    """

    tau: float = 0.0

    @property
    def title(self) -> str:
        return f"weight (filters of at most {self.tau:g} of the layer's mean norm)" if self.budget is None else "weight"

    def scores(self, subject: Subject) -> Mapping[str, Tensor]:
        scores = {}
        for key, reading in first_readings(step for step, _ in reading_steps(subject.channels)).items():
            if key in subject.channels.births:
                norms = dense_weight(subject.traced, reading).double().flatten(1).norm(dim=1).cpu()
                scores[key] = _relative(norms)
        return scores


@dataclass(frozen=True, eq=False)
class Gamma(Relative):
    """Small gammas: those whose absolute value is at most `tau` of the largest in their norm.

    The string "gamma" is what nrfx does without a criterion: it keeps the constants of what is gamma-dead, and thereby
    the function. This one is for rankings and limits: what it gives up is replaced by a constant.

    Raises:
        AnalysisError: an argument is out of range.

    >>> import nrfx
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    >>> with torch.no_grad():
    ...     _ = net[1].weight.copy_(torch.tensor([1.0, 0.1, 0.2, 0.9]))
    >>> gm = nrfx.trace(net, torch.zeros(1, 1, 3, 3))
    >>> nrfx.compact(gm, liveness=nrfx.liveness.Gamma(tau=0.3)).module.get_submodule("0").out_channels
    2
    """

    tau: float = 0.01

    @property
    def title(self) -> str:
        return f"gamma (at most {self.tau:g} of the norm's largest)" if self.budget is None else "gamma"

    def scores(self, subject: Subject) -> Mapping[str, Tensor]:
        scores = {}
        for norm in subject.channels.first_norms.values():
            if norm.gamma is not None:
                size = registered(subject.traced, norm.gamma).detach().abs().double().cpu().flatten()
                scores[norm.path] = size / size.max().clamp(min=torch.finfo(torch.float64).tiny)
        return scores


@dataclass(frozen=True, eq=False)
class Scores(Criterion):
    """Scores of the user's own, or masks, by layer.

    A mask says what stays: True is alive, False is given up, as in `torch.nn.utils.prune`; a score says how much. So
    what is low goes in both. Layers that are not named say nothing.

    Args:
        given: layer -> a vector with one number, or one truth, for each channel of its output; or a function
            (name, module) -> such a vector or None, which is called for each layer that brings channels into being.
            Importances of Torch-Pruning are such vectors.
        tau: a channel with a score of so much or less is dead; needed for scores, unless there is a budget.

    Raises:
        AnalysisError: no layer has that name, or a vector does not fit it.

    >>> import nrfx
    >>> gm = nrfx.trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.zeros(4, 2))
    >>> mask = torch.tensor([True, False, True])
    >>> nrfx.compact(gm, liveness={"0": mask}).module.get_submodule("2")
    Linear(in_features=2, out_features=1, bias=True)
    """

    given: Given
    tau: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.given, Mapping) and not callable(self.given):
            raise AnalysisError(
                f"Scores are {self.given!r}; expected a mapping from layers to vectors, or a function (name, module)."
            )
        number = isinstance(self.tau, int | float) and not isinstance(self.tau, bool)
        if self.tau is not None and not (number and isfinite(self.tau)):
            raise AnalysisError(f"tau is {self.tau!r}; expected a finite number, or None.")
        super().__post_init__()

    @property
    def threshold(self) -> float:
        return 0.0 if self.tau is None else self.tau  # masks alone need none

    @property
    def title(self) -> str:
        return "the given scores"

    def scores(self, subject: Subject) -> Mapping[str, Tensor]:
        layers = layers_of(subject.channels)
        scores = {}
        for pattern, value in self._given(subject).items():
            for name in known(pattern, layers, "liveness"):
                scores[name] = self._checked(name, value, layers[name].numel())
        return scores

    def _given(self, subject: Subject) -> Mapping[str, Any]:
        if isinstance(self.given, Mapping):
            return self.given
        modules = dict(subject.traced.named_modules())
        found = {name: self.given(name, modules[name]) for name in subject.channels.births if name in modules}
        return {name: value for name, value in found.items() if value is not None}

    def _checked(self, name: str, value: Any, width: int) -> Tensor:
        """float64 [width]: the scores; of a mask infinity where True and minus infinity where False."""
        vector = value.detach().cpu() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
        if vector.shape != (width,):
            raise AnalysisError(
                f"liveness gives {name} a tensor of shape {list(vector.shape)}; expected one score or truth for each "
                f"of the {width} channels of its output."
            )
        if vector.dtype == torch.bool:
            return torch.where(vector, torch.inf, -torch.inf).double()
        if not bool(vector.isfinite().all()):
            raise AnalysisError(f"liveness gives {name} a score that is not finite.")
        if self.tau is None and self.budget is None:
            raise AnalysisError(
                f"liveness gives {name} scores and no threshold: use nrfx.liveness.Scores(..., tau=...), with a "
                "budget= to rank them, or give a mask of bools (True stays)."
            )
        return vector.double()


def criterion_of(liveness: Any) -> Criterion | None:
    """The criterion that an option stands for; None for "gamma", by which nrfx goes without one.

    Raises:
        AnalysisError: it stands for none.
    """
    if isinstance(liveness, Criterion):
        return liveness
    if isinstance(liveness, str):
        if liveness == "gamma":
            return None
        if liveness == "weight":
            return Weight()
        if liveness in ("activation", "utility"):
            name = liveness.capitalize()
            raise AnalysisError(f"liveness={liveness!r} needs batches to look at: use nrfx.liveness.{name}([x, ...]).")
    elif isinstance(liveness, Mapping) or (callable(liveness) and not isinstance(liveness, type)):
        return Scores(liveness)
    raise AnalysisError(
        f'liveness is {liveness!r}; expected "gamma", "weight", a criterion such as nrfx.liveness.Activation([x]), or '
        "masks and scores by layer."
    )


def _at_readers(channels: Channels, read: list[tuple[Tensor, Tensor]], how: str) -> Tensor:
    """float64 [channels]: what the columns that read a channel say of it, joined; NaN where none does.

    Several columns of one weight that read one channel (behind a flatten, in a head) count by their mean.
    """
    count = channels.space_of.numel()
    joint = torch.full((count,), torch.nan).double()
    for cols, values in read:
        ids = channels.channels_along(cols)
        known_ids, value = ids[ids >= 0], values[ids >= 0]
        mean = torch.full((count,), torch.nan).double()
        here = torch.zeros(count).double().scatter_reduce(0, known_ids, value, "mean", include_self=False)
        mean[known_ids] = here[known_ids]
        both = torch.stack([joint, mean])
        least = torch.stack([joint, mean]).nan_to_num(0.0)
        united = least.amax(0) if how == "amax" else least.sum(0)
        joint = torch.where(both.isnan().all(0), torch.nan, united)
    return joint


def _by_layer(channels: Channels, size: Tensor) -> dict[str, Tensor]:
    """Birth -> what is known of its channels, relative to the layer's mean."""
    return {
        name: _relative(torch.where((ids := channels.channels_along(labels)) >= 0, size[ids.clamp(min=0)], torch.nan))
        for name, labels in channels.births.items()
        if labels.numel()
    }


def _relative(size: Tensor) -> Tensor:
    """The sizes divided by their mean; zeros where all are 0."""
    return size / size.nanmean().clamp(min=torch.finfo(torch.float64).tiny)
