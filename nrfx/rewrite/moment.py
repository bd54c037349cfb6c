"""A network at one moment: what its utilization depends on, kept until somebody asks for it.

A rewrite knows the labels of the new network, for it has checked them. Its liveness and the rows of its report take as
long again, and few callers read them. Training goes on in the new network meanwhile: so the numbers that liveness reads
(gammas, betas, statistics, biases, weights of grouped convolutions) are copied at once, and all else is computed later.
"""

from collections.abc import Callable, Iterator
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
            self._then = _bare(traced, {id(tensor): _copy(tensor) for tensor in read}, shell if between else _outline)

    @cached_property
    def utilization(self) -> Utilization:
        """The utilization at the moment when this was made."""
        channels = self._labels.channels(self._then, {})
        liveness = liveness_of(self._then, channels, self._threshold, self._residual)
        return measure(self._then, channels, liveness, self._silent)

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


def _bare(
    traced: TracedModule,
    values: dict[int, Tensor],
    around: Callable[[nn.Module, Callable[[Tensor], Tensor]], nn.Module],
) -> Any:
    """The modules of a network around these values, by the ids of its tensors, so that a tied one stays one; all other
    tensors without data; with its graphs and facts."""
    without_data = each_on_meta()

    def then(tensor: Tensor) -> Tensor:
        value = values.get(id(tensor))
        # a parameter stays frozen or not
        return without_data(tensor).requires_grad_(tensor.requires_grad) if value is None else value

    bare: Any = around(traced._contents(), then)
    vars(bare).update(graphs=traced.graphs, facts=traced.facts)
    return bare


def _outline(module: nn.Module, tensor: Callable[[Tensor], Tensor]) -> nn.Module:
    """As `shell` makes it, but with no other attributes than what is registered: it does not run."""
    modules = [each for _, each in named_modules(module)]
    if any(isinstance(each, torch.jit.ScriptModule) for each in modules):
        return shell(module, tensor)
    twins: dict[nn.Module | None, Any] = {each: object.__new__(type(each)) for each in modules}
    known: dict[int, Tensor] = {}

    def twin(own: Tensor | None) -> Tensor | None:
        if own is None:
            return None
        key = id(own)
        if key not in known:
            known[key] = tensor(own)
        return known[key]

    for each in modules:
        own = vars(twins[each])
        for name in ("_parameters", "_buffers"):
            registry = vars(each)[name]
            own[name] = {key: twin(value) for key, value in registry.items()} if registry else {}
        own["_modules"] = {key: twins.get(value) for key, value in each._modules.items()} if each._modules else {}
    outline: nn.Module = twins[module]
    return outline


def _copy(tensor: Tensor) -> Tensor:
    """The same numbers; a parameter stays one, and frozen or not."""
    numbers = tensor.detach().clone()
    return nn.Parameter(numbers, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else numbers
