"""Layers that are deaf: their output is the same for every input of the network.

A layer is deaf where all its weights are 0, where it reads nothing but what gammas of exactly 0 give, or what deaf
layers give. A small gamma makes no layer deaf: a norm behind it may scale its channel up again.

The graph is interpreted as in constants.py, on 0 for what does not depend on the input and NaN for what does or may.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nrfx.analysis.affine import Affine
from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.constants import Propagation
from nrfx.analysis.reinterpret import flow, like
from nrfx.analysis.varying import NAN
from nrfx.labels import along, collapse
from nrfx.rules import Reading, tensors

NO_WEIGHT = "all its weights are 0"
NOTHING_HEARD = "nothing that it reads depends on the network's input"
OUTPUT = "the network's output"


@dataclass(frozen=True)
class Deaf:
    """A layer whose output does not depend on the network's input, or the network's output itself, and why."""

    layer: str
    reason: str


def silent_weights(steps: Iterable[Step], tensors_of: Mapping[str, Tensor]) -> frozenset[str]:
    """The weights that are 0 in all their numbers, by their names; of those without data nothing is known."""
    names = dict.fromkeys(step.effect.reading.weight for step in steps if step.effect.reading is not None)
    known = {name: tensors_of[name].detach() for name in names if name is not None and name in tensors_of}
    known = {name: weight for name, weight in known.items() if not weight.is_meta and weight.numel()}
    with torch.no_grad():
        # the first number of each in one transfer: that of nearly every weight is not 0, and the others are not read
        numbers = (weight[(0,) * weight.dim()] for weight in known.values())
        first = torch.stack([torch.ones(()), *(one if _is_plain(one) else one.float().cpu() for one in numbers)])[1:]
    doubtful = [name for name, zero in zip(known, (first == 0).tolist(), strict=True) if zero]
    return frozenset(name for name in doubtful if not bool(known[name].any()))


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is what .float().cpu() would give."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def deaf_layers(channels: Channels, affine: Mapping[str, Affine], silent: frozenset[str]) -> tuple[Deaf, ...]:
    """The deaf layers, in the order of the data, and at their end the network's output where it is the same for all.

    Args:
        affine: key of a norm -> its values in eval mode.
        silent: the weights that are 0.
    """
    zeros = {key: norm.gamma == 0 for key, norm in affine.items()}
    if not silent and not any(bool(zero.all()) for zero in zeros.values() if zero.numel()):
        return ()
    listening = _Listening(channels, {key: _Heard(zero) for key, zero in zeros.items()}, silent)
    flow(channels, listening.value)
    return tuple(Deaf(layer, reason) for layer, reason in listening.deaf.items() if reason)


@dataclass(frozen=True)
class _Heard:
    """What a norm makes of what goes in: nothing where its gamma is 0."""

    zero: Tensor

    def __call__(self, heard: Tensor) -> Tensor:
        return torch.where(self.zero, 0.0, heard)


class _Listening(Propagation):
    """One interpretation of the graphs; it fills `deaf`: layer -> why it is deaf, "" where one of its calls is not."""

    def __init__(self, channels: Channels, affine: Mapping[str, _Heard], silent: frozenset[str]) -> None:
        super().__init__(channels, affine, set(affine))
        self.silent = silent
        self.deaf: dict[str, str] = {}

    def source(self, step: Step, args: Any, kwargs: Any) -> Any:
        if step.node.op == "placeholder":
            return self.varying(step, args, kwargs)
        return self.nothing(step)

    def varying(self, step: Step, args: Any, kwargs: Any) -> Any:
        """What is not understood hears all that goes in; so does the network's output."""
        given = tensors((args, kwargs))
        nothing = bool(given) and not any(_hears(each) for each in given)
        if step.node.op == "output" and step.mode == "eval" and nothing:
            self.deaf[OUTPUT] = NOTHING_HEARD
        return self.nothing(step) if nothing else super().varying(step, args, kwargs)

    def nothing(self, step: Step) -> Any:
        """A value that does not depend on the input."""
        return like(step.effect.out, lambda labels: _HEARS_NOTHING.expand(labels.shape))

    def applied(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """An element depends on the input where one of the operands does, also where the other is 0."""
        given = torch.broadcast_tensors(*tensors((args, kwargs)))
        return torch.where(torch.stack(given).isnan().any(0), NAN, 0.0).double()

    def mixed(self, step: Step, args: Any, kwargs: Any) -> Any:
        return self.varying(step, args, kwargs)

    def grouped(self, step: Step, args: Any, kwargs: Any) -> Any:
        reading = step.effect.reading
        assert reading is not None
        value = self.uniform(tensors((args, kwargs))[reading.operand], reading.axis)
        by_group = value.view(reading.groups, -1).sum(1)
        rows = by_group.repeat_interleave(reading.rows.numel() // reading.groups)
        return along(self.answered(reading, rows), reading.axis, step.effect.out.shape)

    def contraction(self, step: Step, args: Any, kwargs: Any) -> Any:
        reading = step.effect.reading
        assert reading is not None
        if step.effect.also:  # a recurrent layer has several weights, and a state of its own
            return self.varying(step, args, kwargs)
        heard = torch.full((1,), NAN if _hears(tensors((args, kwargs))[reading.operand]) else 0.0).double()
        answer = self.answered(reading, heard)[0]
        return like(step.effect.out, lambda labels: answer.expand(labels.shape))

    def answered(self, reading: Reading, heard: Tensor) -> Tensor:
        """What a layer gives of what it hears; it is put down as deaf where that is nothing."""
        silent = reading.weight in self.silent
        reason = NO_WEIGHT if silent else "" if bool(heard.isnan().any()) else NOTHING_HEARD
        self.deaf[reading.path] = reason if self.deaf.get(reading.path, reason) else ""
        return torch.zeros_like(heard) if silent else heard

    def lose(self, step: Step, args: Any, out: Tensor, reason: str) -> None:
        """Nothing is lost: what does not depend on the input still does not where its value is another one."""


_HEARS_NOTHING = torch.zeros(()).double()


def _hears(values: Tensor) -> bool:
    """Whether some of it depends on the input."""
    return bool(collapse(values).isnan().any())
