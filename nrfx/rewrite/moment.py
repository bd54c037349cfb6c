"""A network at one moment: what its utilization depends on, kept until somebody asks for it.

A rewrite knows the labels of the new network, for it has checked them. Its liveness and the rows of its report take as
long again, and few callers read them. Training goes on in the new network meanwhile: so the numbers that liveness reads
(gammas, betas, statistics, biases, weights of grouped convolutions) are copied at once, and all else is computed later.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.analysis.channels import Step
from nrfx.analysis.deaf import silent_weights
from nrfx.analysis.liveness import liveness_of
from nrfx.analysis.names import named_tensors
from nrfx.analysis.spaces import Labels
from nrfx.analysis.utilization import Utilization, measure
from nrfx.choices import Residual
from nrfx.rules import Family
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.clone import each_on_meta, shell
from nrfx.tracing.graph.walk import named_modules


class Moment:
    """The utilization that a network has now, computed when it is asked for."""

    def __init__(self, traced: TracedModule, labels: Labels, threshold: float, residual: Residual) -> None:
        self._threshold, self._residual = threshold, residual
        self._labels = labels
        tensors = named_tensors(traced)
        read = [tensors[labels.first_name(name)] for step in labels.steps for name in _read(step)]
        with torch.no_grad():
            self._silent = silent_weights(labels.steps, tensors)
            between = any(step.effect.between for step in labels.steps)  # then shapes are inferred once more
            script = any(isinstance(module, torch.jit.ScriptModule) for _, module in named_modules(traced))
            self._then = _shell(traced, read) if between or script else _outline(traced, read)

    @cached_property
    def utilization(self) -> Utilization:
        """The utilization at the moment when this was made."""
        then = self._then()
        channels = self._labels.channels(then, {})
        liveness = liveness_of(then, channels, self._threshold, self._residual)
        return measure(then, channels, liveness, self._silent)

    def __reduce__(self) -> tuple[Callable[[Utilization], "Moment"], tuple[Utilization]]:
        """A copy knows the utilization: the nodes of a graph are neither copied nor pickled by themselves."""
        return known, (self.utilization,)


def known(utilization: Utilization) -> Moment:
    """A moment whose utilization is known."""
    moment = Moment.__new__(Moment)
    vars(moment)["utilization"] = utilization
    return moment


def _read(step: Step) -> Iterator[str]:
    """The tensors whose values say what is dead and which constants there are (analysis/liveness.py, constants.py)."""
    norm, reading = step.effect.norm, step.effect.reading
    names: list[str | None] = []
    if norm is not None:
        names += [norm.gamma, norm.beta, norm.mean, norm.var]
    if reading is not None and step.effect.family is Family.GROUPED:
        names += [reading.weight, reading.bias]
    if step.node.op == "get_attr":
        names += [site.parameter for site in step.effect.sites]
    return (name for name in names if name is not None)


def _shell(traced: TracedModule, read: Iterable[Tensor]) -> Callable[[], Any]:
    """Gives the modules of a network around copies of these tensors, so that a tied one stays one; all other tensors
    without data; with its graphs and facts."""
    values, without_data = {id(tensor): _copy(tensor) for tensor in read}, each_on_meta()

    def then(tensor: Tensor) -> Tensor:
        value = values.get(id(tensor))
        # a parameter stays frozen or not
        return without_data(tensor).requires_grad_(tensor.requires_grad) if value is None else value

    bare: Any = shell(traced._contents(), then)
    vars(bare).update(graphs=traced.graphs, facts=traced.facts)
    return lambda: bare


def _outline(traced: TracedModule, read: Iterable[Tensor]) -> Callable[[], Any]:
    """As `_shell`, made when it is asked for, with no other attributes than what is registered: it does not run."""
    modules = [module for _, module in named_modules(traced)]
    place = {id(module): index for index, module in enumerate(modules)}
    kinds: list[type[Any]] = [nn.Module, *(type(module) for module in modules[1:])]
    kept = _KeptTensors(read)
    registries = [
        (
            {name: kept.place(own) for name, own in module._parameters.items()} if module._parameters else {},
            {name: kept.place(own) for name, own in module._buffers.items()} if module._buffers else {},
            {name: place.get(id(own)) for name, own in module._modules.items()} if module._modules else {},
        )
        for module in modules
    ]
    graphs, facts = traced.graphs, traced.facts

    def made() -> Any:
        tensors = kept.made()
        twins: list[Any] = [object.__new__(kind) for kind in kinds]
        for twin, (parameters, buffers, children) in zip(twins, registries, strict=True):
            vars(twin).update(
                _parameters={name: None if at is None else tensors[at] for name, at in parameters.items()},
                _buffers={name: None if at is None else tensors[at] for name, at in buffers.items()},
                _modules={name: None if at is None else twins[at] for name, at in children.items()},
            )
        vars(twins[0]).update(graphs=graphs, facts=facts)
        return twins[0]

    return made


class _KeptTensors:
    """What tensors are at one moment, each once: the numbers of some, and of all others no more than their kind."""

    def __init__(self, read: Iterable[Tensor]) -> None:
        """Copies the numbers of these, those of one kind in one operation: a network has hundreds of small ones."""
        numbers = {id(tensor): tensor for tensor in read}
        alike: dict[Any, list[Tensor]] = {}
        for tensor in numbers.values():
            alike.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        self._numbers: dict[int, Tensor] = {}
        for tensors in alike.values():
            flat = torch.cat([tensor if tensor.dim() == 1 else tensor.reshape(-1) for tensor in tensors])
            parts = flat.split([tensor.numel() for tensor in tensors])
            self._numbers.update((id(tensor), part) for tensor, part in zip(tensors, parts, strict=True))
        self._place: dict[int, int] = {}
        self._kinds: list[tuple[bool, torch.Size, torch.dtype, bool, Tensor | None]] = []

    def place(self, tensor: Tensor | None) -> int | None:
        """The place of a tensor among what is made."""
        if tensor is None:
            return None
        key = id(tensor)
        if key not in self._place:
            self._place[key] = len(self._kinds)
            parameter = isinstance(tensor, nn.Parameter)
            self._kinds.append((parameter, tensor.shape, tensor.dtype, tensor.requires_grad, self._numbers.get(key)))
        return self._place[key]

    def made(self) -> list[Tensor]:
        """The tensors. A parameter stays one, and frozen or not."""
        return [_made(*kind) for kind in self._kinds]


def _made(
    parameter: bool, shape: torch.Size, dtype: torch.dtype, requires_grad: bool, numbers: Tensor | None
) -> Tensor:
    made = torch.empty(shape, dtype=dtype, device="meta") if numbers is None else numbers.view(shape)
    return nn.Parameter(made, requires_grad) if parameter else made.requires_grad_(requires_grad)


def _copy(tensor: Tensor) -> Tensor:
    """The same numbers; a parameter stays one, and frozen or not."""
    numbers = tensor.detach().clone()
    return nn.Parameter(numbers, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else numbers
