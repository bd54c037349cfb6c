"""Whether the rule of an op tells the truth: each of its claims is compared with what the op does to numbers.

The checks of every effect (rules/check.py) see what contradicts itself. What they cannot see is seen here: that
channels stay apart, that an op scales with its input, what it makes of a constant, which weights read which channels.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.reinterpret import operands
from nrfx.analysis.spaces import channels_of
from nrfx.errors import AnalysisError
from nrfx.labels import along
from nrfx.rules import Family, Reading, op_of, tensors
from nrfx.tracing import trace

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference relative to the largest value, by dtype."""
TRIED = 6
"""Channels, rows and columns that are tried one by one: the first of each kind."""


def check_rule(op: Any, inputs: Any, axis: int = 1) -> tuple[str, ...]:
    """The claims of an op's rule that hold on these inputs, as sentences. The op runs in eval mode; nothing is changed.

    Args:
        op: a module, a function, or a custom op, that has a rule.
        inputs: the arguments, a tuple of them or one tensor. An `nn.Parameter` stands for one of the network's own.
        axis: where channels lie in the tensors among the inputs, two or more in each.

    Raises:
        AnalysisError: the op has no rule, or a claim does not hold; says which, and what the op does.

    >>> check_rule(nn.ReLU(), torch.randn(2, 4, 3, dtype=torch.float64))
    ('channels stay apart', 'it scales with its input, by factors above 0', 'constants are what its apply gives')
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    probe = _Probe(op, given, axis).eval()
    if op_of(op) is None:
        raise AnalysisError(f"{_title(op)} has no rule: register one with nrfx.rules.rule.")
    traced = trace(probe, tuple(probe.start))
    channels = channels_of(traced)
    steps = [step for step in channels.steps if step.mode == "eval" and _calls(step.node, op)]
    if len(steps) != 1:
        raise AnalysisError(
            f"{_title(op)} is {len(steps)} nodes of the graph of a network that calls it; expected one."
        )
    return tuple(_Comparison(probe, channels, steps[0], _title(op)).claims())


class _Probe(nn.Module):
    """op(*inputs), each tensor among them with channels of its own along the axis."""

    def __init__(self, op: Any, given: tuple[Any, ...], axis: int) -> None:
        super().__init__()
        self.op = copy.deepcopy(op) if isinstance(op, nn.Module) else op
        self.axis, self.start = axis, list[Tensor]()
        self.layout: list[Any] = []
        for index, value in enumerate(given):
            if isinstance(value, nn.Parameter):
                self.register_parameter(f"given{index}", nn.Parameter(value.detach().clone()))
                self.layout.append(f"given{index}")
            elif isinstance(value, Tensor) and value.is_floating_point():
                shape = [size if dim == axis % value.dim() else 1 for dim, size in enumerate(value.shape)]
                if max(shape) < 2:
                    raise AnalysisError(
                        f"input {index} has shape {list(value.shape)}: give it two channels on dim {axis}."
                    )
                self.register_parameter(f"channels{index}", nn.Parameter(value.new_zeros(shape)))
                self.layout.append(f"channels{index}")
                self.start.append(value)
            else:
                self.layout.append((value,))

    def forward(self, *given: Tensor) -> Any:
        left, args = list(given), []
        for name in self.layout:
            if not isinstance(name, str):
                args.append(name[0])
            elif name.startswith("given"):
                args.append(getattr(self, name))
            else:
                args.append(left.pop(0) + getattr(self, name))
        return self.op(*args)


class _Comparison:
    """The effect of one node against runs of the probe."""

    def __init__(self, probe: _Probe, channels: Channels, step: Step, title: str) -> None:
        self.probe, self.channels, self.step, self.effect, self.title = probe, channels, step, step.effect, title
        # per input, and per tensor of the result: the channel of each element, -1 for none
        births = [name for name in probe.layout if isinstance(name, str) and name.startswith("channels")]
        self.own = [
            along(channels.channels_along(channels.births[name]), probe.axis % x.dim(), x.shape)
            for name, x in zip(births, probe.start, strict=True)
        ]
        self.out = [
            channels.channels_along(labels.reshape(-1)).view(labels.shape) for labels in tensors(self.effect.out)
        ]
        self.scale = TOLERANCE.get(probe.start[0].dtype, 1e-4)

    def claims(self) -> Iterator[str]:
        """Each claim that holds.

        Raises:
            AnalysisError: the first that does not.
        """
        checks: tuple[tuple[str, bool, Callable[[], None]], ...] = (
            ("channels stay apart", self.family not in (Family.CONTRACTION, Family.UNKNOWN), self.apart),
            (self.scaling, self.effect.homogeneous, self.scales),
            ("constants are what its apply gives", self.has_apply, self.applies),
            ("constants stay at their positions", self.family is Family.POOL, self.pools),
            ("a gamma of 0 leaves the beta", self.effect.norm is not None, self.normalises),
            ("it is linear", self.is_linear, self.linear),
            ("weights read the channels of their columns", self.reads, self.columns),
            ("weights give the channels of their rows", self.reads and self.is_linear, self.rows),
            ("its work is what FlopCounterMode counts", not self.effect.uncounted, self.works),
        )
        for text, claimed, check in checks:
            if claimed and check() is not False:
                yield text

    @property
    def family(self) -> Family:
        return self.effect.family

    @property
    def scaling(self) -> str:
        return "it scales with its input" + (", by factors above 0" if self.effect.positive_only else "")

    @property
    def has_apply(self) -> bool:
        return self.effect.apply is not None and self.family in (Family.POINTWISE, Family.MOVEMENT, Family.MIXED)

    @property
    def readings(self) -> list[Reading]:
        return [reading for reading in (self.effect.reading, *self.effect.also) if reading is not None]

    @property
    def reads(self) -> bool:
        return bool(self.readings) and all(each.weight is not None and each.groups == 1 for each in self.readings)

    @property
    def is_linear(self) -> bool:
        return bool(self.readings) and not self.effect.also and bool((self.readings[0].rows >= 0).all())

    def run(self, *given: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return tensors(self.probe(*given))

    def same(self, left: Tensor, right: Tensor) -> Tensor:
        """bool: where the two agree, to rounding, or where neither has a value."""
        finite = torch.cat([left.reshape(-1), right.reshape(-1)]).nan_to_num(0.0, 0.0, 0.0).abs()
        size = float(finite.amax()) if finite.numel() else 1.0
        return torch.isclose(left, right, rtol=0.0, atol=self.scale * max(size, 1e-30), equal_nan=True)

    def fail(self, text: str) -> None:
        raise AnalysisError(f"{self.title}: its rule does not tell what it does: {text}.")

    def changed(self, channel: int) -> list[Tensor]:
        """The inputs, with other numbers at one channel."""
        generator = torch.Generator().manual_seed(0)
        pairs = zip(self.probe.start, self.own, strict=True)
        return [
            torch.where(own == channel, x + 1 + torch.rand(x.shape, generator=generator).to(x), x) for x, own in pairs
        ]

    def free(self) -> list[int]:
        """The first channels of the inputs that the op does not pin itself."""
        pinned = torch.cat([torch.zeros(0, dtype=torch.int64), *(pin.labels.reshape(-1) for pin in self.effect.pins)])
        gone = self.channels.channels_along(pinned)
        ids = torch.cat([own.reshape(-1) for own in self.own]).unique()
        free: list[int] = ids[(ids >= 0) & ~torch.isin(ids, gone)].tolist()
        return free[:TRIED]

    def apart(self) -> None:
        before = self.run(*self.probe.start)
        for channel in self.free():
            for old, new, own in zip(before, self.run(*self.changed(channel)), self.out, strict=True):
                touched = ~self.same(old, new) & (own != channel)
                if bool(touched.any()):
                    place = touched.nonzero()[0].tolist()
                    self.fail(
                        f"element {place} of its result changes with channel {channel} of its input, and carries "
                        f"{'none' if int(own[tuple(place)]) < 0 else f'channel {int(own[tuple(place)])}'}"
                    )

    def scales(self) -> None:
        for factor in (2.5,) if self.effect.positive_only else (2.5, -1.5):
            pairs = zip(self.run(*self.probe.start), self.run(*(factor * x for x in self.probe.start)), strict=True)
            if not all(bool(self.same(factor * old, new).all()) for old, new in pairs):
                self.fail(f"{factor} times its input does not give {factor} times its result, and it is `homogeneous`")

    def constant(self) -> list[Tensor]:
        """The inputs with one number for each channel."""
        numbers = torch.linspace(-1.3, 2.1, self.channels.space_of.numel(), dtype=torch.float64)
        return [numbers[own].to(x) for own, x in zip(self.own, self.probe.start, strict=True)]

    def applies(self) -> None:
        given = iter(self.constant())
        named = dict(self.probe.named_parameters())
        values: dict[tuple[str, str], Any] = {}
        for step in self.channels.steps:
            place = (step.mode, step.node.name)
            if step.node.op == "get_attr":
                values[place] = named[str(step.node.target)].detach().double()
            elif (
                step.mode == "eval"
                and step.node in self.step.node.all_input_nodes
                and step.effect.family is Family.POINTWISE
            ):
                values[place] = next(given).double()
            else:
                values[place] = step.effect.out
        args, kwargs = operands(self.step, values)
        assert self.effect.apply is not None
        found = tensors(self.effect.apply(*args, **kwargs))
        for said, truth in zip(found, self.run(*self.constant()), strict=True):
            known = ~said.isnan().expand(truth.shape)
            if not bool(self.same(said.expand(truth.shape), truth.double())[known].all()):
                self.fail("what its `apply` makes of constants is not what it makes of them itself")

    def pools(self) -> None:
        given = self.constant() if self.effect.keeps_constants else [0 * x for x in self.probe.start]
        value = torch.zeros(self.channels.space_of.numel(), dtype=torch.float64)
        for own, x in zip(self.own, given, strict=True):
            value[own.reshape(-1)] = x.double().reshape(-1)
        for own, truth in zip(self.out, self.run(*given), strict=True):
            if not bool(self.same(value[own.clamp(min=0)], truth.double())[own >= 0].all()):
                self.fail("a constant channel does not stay as it is, and its family is POOL")

    def normalises(self) -> None:
        norm = self.effect.norm
        assert norm is not None
        if norm.gamma is None:
            return
        with self.written():
            gamma = self.probe.get_parameter(norm.gamma)
            gamma.data.zero_()
            (truth,) = self.run(*self.probe.start)
            beta = torch.zeros_like(gamma) if norm.beta is None else self.probe.get_parameter(norm.beta).detach()
            if not bool(self.same(along(beta, norm.axis, truth.shape), truth).all()):
                self.fail(f"with {norm.gamma} at 0 it does not give {norm.beta or 'zeros'} on dim {norm.axis}")

    def linear(self) -> None:
        x = self.probe.start
        others = [torch.roll(each, 1, 0).flip(-1) for each in x]
        runs = [
            self.run(*each) for each in (x, others, [a + b for a, b in zip(x, others, strict=True)], [0 * a for a in x])
        ]
        for first, second, both, none in zip(*runs, strict=True):
            if not bool(self.same(first + second, both + none).all()):
                self.fail("f(x) + f(y) is not f(x + y) + f(0), and its weights give channels, as only a linear op's do")

    def columns(self) -> None:
        for channel in self.free():
            with self.written():
                for reading in self.readings:
                    here = self.channels.channels_along(reading.cols) == channel
                    reading.by_rows(self.probe.get_parameter(str(reading.weight)).data)[:, here] = 0
                pairs = zip(self.run(*self.probe.start), self.run(*self.changed(channel)), strict=True)
                if not all(bool(self.same(old, new).all()) for old, new in pairs):
                    self.fail(f"with its columns of channel {channel} at 0 it still reads this channel")

    def rows(self) -> None:
        reading = self.readings[0]
        for row, channel in enumerate(self.channels.channels_along(reading.rows).tolist()[:TRIED]):
            with self.written():
                reading.by_rows(self.probe.get_parameter(str(reading.weight)).data)[row] = 0
                if reading.bias is not None:
                    self.probe.get_parameter(reading.bias).data[row] = 0
                for own, truth in zip(self.out, self.run(*self.probe.start), strict=True):
                    if bool((truth[own == channel] != 0).any()):
                        self.fail(
                            f"with row {row} of {reading.weight} at 0 it does not give zeros at the row's channel"
                        )

    def works(self) -> Any:
        from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415  it loads triton

        with FlopCounterMode(display=False) as counter:
            self.run(*self.probe.start)
        batch = {x.shape[0] for x in self.probe.start}
        seen = counter.get_total_flops() // 2 // (batch.pop() if len(batch) == 1 else 1)
        said = sum(
            work.times
            * (1 if work.rows is None else work.rows.numel())
            * (1 if work.cols is None else work.cols.numel())
            for work in self.effect.work
        )
        if seen > said:
            self.fail(f"FlopCounterMode counts {seen:,} multiply-adds of one example, and the rule {said:,}")
        return 0 < seen == said

    def written(self) -> "_Restored":
        return _Restored(self.probe)


class _Restored:
    """While open, parameters may be written to; then they are as they were."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.state = copy.deepcopy(self.module.state_dict())

    def __exit__(self, *_: object) -> None:
        self.module.load_state_dict(self.state)


def _calls(node: fx.Node, op: Any) -> bool:
    return node.target == "op" if isinstance(op, nn.Module) else node.target is op or node.target == op


def _title(op: Any) -> str:
    return type(op).__name__ if isinstance(op, nn.Module) else str(getattr(op, "__name__", op))
