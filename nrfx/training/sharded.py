"""A network whose parameters `torch.distributed.fsdp.fully_shard` (FSDP2) has cut over processes: whole for a while.

For an analysis or an event the shards are gathered in every process, and fully_shard is taken off the modules. Behind
it the network is as before, or after an event cut anew: the same meshes, policies and settings on the same modules, and
parameters that are new objects, which the optimizers hold, with their state cut likewise.

Not handled, and refused: tensor parallelism, parameters cut along another axis than the first, offloading to the CPU,
networks in parts.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nrfx.choices import Weighted
from nrfx.errors import TrainingError
from nrfx.plan.options import Options
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.walk import named_modules
from nrfx.training.in_place import hold_instead
from nrfx.training.transaction import State

_PLACE = "torch.distributed.fsdp"
_MARKS = ("_is_fsdp_managed_module", "_fsdp_use_orig_params")
_HOOKS = (
    *("_forward_pre_hooks", "_forward_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
_OF_HOOKS = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
_SETTINGS = (
    *("reduce_grads", "all_reduce_grads", "reshard_after_backward", "gradient_divide_factor"),
    *("reduce_scatter_unused_params", "force_sum_reduction_for_comms", "unshard_async_op", "unshard_in_backward"),
    *("_all_reduce_hook", "reduce_scatter_max_input_buffers"),
)
"""What methods of an FSDPModule set on its groups of parameters."""


def is_sharded(module: nn.Module) -> bool:
    """Whether some parameter is cut over processes, or is part of a device mesh in another way."""
    return any(_is_cut(parameter) for parameter in module.parameters())


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies in this process, sharing its memory; all of it where it is not cut."""
    return tensor._local_tensor if _is_cut(tensor) else tensor  # type: ignore[attr-defined]


def local_like(whole: Tensor, tensor: Tensor) -> Tensor:
    """The part of `whole` that belongs to the part of `tensor`, of the same shape, that lies in this process."""
    return local(_cut_like(whole, tensor)) if _is_cut(tensor) else whole


def check_sharded(
    traced: TracedModule, options: Options, inplace: bool, followers: Sequence[nn.Module], weighted: Weighted
) -> None:
    """Raises TrainingError where a network that is cut over processes cannot be rejuvenated."""
    if not is_sharded(traced):
        return
    if not inplace:
        raise TrainingError("inplace=False would put a network that is not cut in the place of one under fully_shard.")
    if weighted in ("params", "flops"):
        raise TrainingError(
            f"weighted is {weighted!r}, and what a channel costs depends on gammas of which each process has a part "
            "under fully_shard: leave it out, and gammas are pulled alike, or use DistributedDataParallel."
        )
    fsdp = _fsdp()
    if followers:
        raise TrainingError(
            "Followers of a network under fully_shard are not handled: make them anew in on_event, or use "
            "DistributedDataParallel."
        )
    if traced.facts.parts:
        raise TrainingError(
            "A network that was traced in parts cannot be under fully_shard: use DistributedDataParallel."
        )
    inner = {path for path, module in named_modules(traced) if path and isinstance(module, fsdp.FSDPModule)}
    for graph in traced.graphs.values():
        called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        if idle := sorted(inner - called):
            raise TrainingError(
                f"fully_shard was applied to {idle[0]}, which the graph of the traced network never calls as a module: "
                "its parameters would stay cut when its layers run. Apply it to layers that are nodes of the graph, "
                f"such as {min(called, default='none')}, and to the traced module itself."
            )
        for target in (str(node.target) for node in graph.nodes if node.op == "get_attr"):
            holder = next((path for path in inner if target == path or target.startswith(f"{path}.")), None)
            if holder is not None:
                raise TrainingError(
                    f"The graph reads {target} outside of a call of {holder}, to which fully_shard was applied: apply "
                    "it to the traced module instead, which gathers the parameter for the whole forward."
                )
    if inner and options.scheme == "removed":
        raise TrainingError(
            'scheme="removed" reads the output layer in parts, for which fully_shard on single layers would not gather '
            "it: apply fully_shard to the traced module alone."
        )
    _check_cuts(traced, [each._get_fsdp_state() for each in traced.modules() if isinstance(each, fsdp.FSDPModule)])


def _check_cuts(traced: TracedModule, states: Sequence[Any]) -> None:
    """Raises TrainingError where a parameter is cut in a way that is not handled."""
    own = [each for state in states for group in _groups(state) for each in group.fsdp_params]
    managed = {id(each.sharded_param) for each in own}
    for name, parameter in traced.named_parameters():
        if not _is_cut(parameter):
            continue
        placements = parameter.placements  # type: ignore[attr-defined]
        if id(parameter) not in managed:
            raise TrainingError(
                f"{name} is a DTensor that fully_shard has not made: tensor parallelism is not handled."
            )
        if any(each.is_shard() and each.dim for each in placements):
            raise TrainingError(
                f"{name} is cut along another axis than its first ({placements}), which another width may not allow: "
                "leave out shard_placement_fn."
            )
    if any(each.offload_to_cpu for each in own):
        raise TrainingError("CPUOffloadPolicy is not handled: apply fully_shard without it.")


class Whole:
    """A `with` block in which a network is no longer cut; it is cut again behind it. Nothing, where it is not cut.

    Args:
        traced: the network, of which each process enters the block.
        optimizers: those that hold its parameters.
        values: whether the parameters have their numbers; without, each is 1 everywhere, and no process waits.
    """

    def __init__(self, traced: TracedModule, optimizers: Iterable[Optimizer] = (), values: bool = True) -> None:
        self._traced, self._optimizers, self._values = traced, list(optimizers), values
        self._sharded = is_sharded(traced)
        self._settled = False

    def __enter__(self) -> "Whole":
        if self._sharded:
            modules = [module for _, module in named_modules(self._traced)]
            self._record = [_Record(module) for module in modules]
            self._states = [State(optimizer) for optimizer in self._optimizers]
            self._made = _made(modules)
            self._gathered: dict[Tensor, Tensor] = {}
            try:
                self._take_off(modules)
            except BaseException:
                self._put_back()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._sharded and not self._settled:
            self._put_back()

    def take_optimizers(self) -> None:
        """Lets the optimizers hold the whole parameters, with whole states."""
        for optimizer in self._optimizers if self._sharded else ():
            for parameter in self._gathered:
                if parameter in optimizer.state:
                    old = optimizer.state[parameter]
                    _check_shapes(optimizer, old, parameter)
                    optimizer.state[parameter] = {key: _gathered(value) for key, value in old.items()}
            hold_instead(optimizer, self._gathered)

    def cut_again(self) -> None:
        """Cuts the network that is there now, for good: the optimizers hold its parts from here on."""
        if not self._sharded:
            return
        fsdp = _fsdp()
        places = [(module, name, each) for _, module in named_modules(self._traced) for name, each in _own(module)]
        renewed = {}
        for state, modules, options, ignored in reversed(self._made):  # what is inside first
            left_out = {each for name, each in modules[0].named_parameters() if name in ignored}
            fsdp.fully_shard(modules[0] if len(modules) == 1 else list(modules), **options, ignored_params=left_out)
            renewed[state] = modules[0]._get_fsdp_state()
        for old, new in renewed.items():
            _carry_settings(old, new, renewed)
        self._traced.recompile()
        now = [(each, module._parameters[name]) for module, name, each in places]
        parts: dict[Tensor, Tensor] = {each: part for each, part in now if part is not None and _is_cut(part)}
        for optimizer in self._optimizers:
            for whole, part in parts.items():
                if whole in optimizer.state:
                    optimizer.state[whole] = {
                        key: _cut_like(value, part)
                        if isinstance(value, Tensor) and value.shape == part.shape
                        else value
                        for key, value in optimizer.state[whole].items()
                    }
            hold_instead(optimizer, parts)
        self._settled = True

    @contextmanager
    def undone(self) -> Iterator[None]:
        """An error in this block makes the end of the outer one put everything back, after `cut_again` too."""
        try:
            yield
        except BaseException:
            self._settled = False
            raise

    def _take_off(self, modules: list[nn.Module]) -> None:
        fsdp = _fsdp()
        for module in modules:
            kind = type(module)
            for registry in _HOOKS:
                _without_hooks(module, registry)
            for mark in _MARKS:
                vars(module).pop(mark, None)
            if isinstance(module, fsdp.FSDPModule):
                module.__class__ = kind.__mro__[kind._orig_cls_mro_index if hasattr(kind, "_orig_cls_mro_index") else 2]
                _forget(module)
            for name, parameter in _own(module):
                if _is_cut(parameter):
                    module._parameters[name] = self._whole(parameter)
        self._traced.recompile()

    def _whole(self, parameter: nn.Parameter) -> nn.Parameter:
        known = self._gathered.get(parameter)
        if known is None:
            if self._values:
                numbers = _gathered(parameter)
            else:
                numbers = torch.ones((), dtype=parameter.dtype, device=parameter.device).expand(parameter.shape)
            known = self._gathered[parameter] = nn.Parameter(numbers, requires_grad=parameter.requires_grad)
        return known  # type: ignore[return-value]

    def _put_back(self) -> None:
        for _, module in named_modules(self._traced):  # of a network that was cut anew, before an error
            _unmap(module)
        for record in self._record:
            record.restore()
        for state in self._states:
            state.restore()
        self._traced.recompile()


class _Record:
    """A module with its class, attributes and the contents of its dictionaries, to be put back."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._kind, self._attributes = module, type(module), dict(vars(module))
        self._contents = [(each, dict(each)) for each in vars(module).values() if isinstance(each, dict)]
        self._mapped = _mapping().get(module)

    def restore(self) -> None:
        if type(self._module) is not self._kind:
            self._module.__class__ = self._kind
        vars(self._module).clear()
        vars(self._module).update(self._attributes)
        for each, contents in self._contents:
            each.clear()
            each.update(contents)
        if self._mapped is not None:
            _mapping()[self._module] = self._mapped


def _made(modules: Iterable[nn.Module]) -> list[tuple[Any, tuple[nn.Module, ...], Mapping[str, Any], list[str]]]:
    """(state, modules, arguments, names of parameters left out) of each call of fully_shard, the outermost first."""
    fsdp = _fsdp()
    calls: dict[Any, Any] = {}
    for module in modules:
        if isinstance(module, fsdp.FSDPModule):
            state = module._get_fsdp_state()
            calls.setdefault(state, (state, state._modules, _arguments(state), _left_out(state)))
    return list(calls.values())


def _groups(state: Any) -> list[Any]:
    """The groups of parameters of a state of fully_shard; in torch 2.11 it has one or none."""
    if hasattr(state, "_fsdp_param_groups"):
        return list(state._fsdp_param_groups)
    return [] if state._fsdp_param_group is None else [state._fsdp_param_group]


def _arguments(state: Any) -> dict[str, Any]:
    """The arguments with which fully_shard made a state."""
    arguments: dict[str, Any] = {"mp_policy": state._mp_policy}
    group = next(iter(_groups(state)), None)
    if group is None:
        return arguments
    after = group.post_forward_mesh_info
    if state._auto_reshard_after_forward:
        again = None
    elif after is None:
        again = False
    else:
        again = True if after is group.mesh_info else after.shard_mesh_size
    return arguments | {
        "mesh": group.mesh_info.mesh,
        "offload_policy": group.offload_policy,
        "reshard_after_forward": again,
    }


def _left_out(state: Any) -> list[str]:
    """Names, from its module on, of parameters that were to be ignored: they are whole."""
    if len(state._modules) > 1:
        return []
    return [name for name, parameter in state._modules[0].named_parameters() if not _is_cut(parameter)]


def _carry_settings(old: Any, new: Any, renewed: Mapping[Any, Any]) -> None:
    """Gives a state the settings that the user has made since fully_shard."""
    before = next(iter(_groups(old)), None)
    if before is None:
        return
    for group in _groups(new):
        for name in _SETTINGS:
            if hasattr(group, name) and hasattr(before, name):
                setattr(group, name, getattr(before, name))
    for name in ("_states_to_forward_prefetch", "_states_to_backward_prefetch"):
        setattr(new, name, [renewed[each] for each in getattr(old, name) if each in renewed])


def _without_hooks(module: nn.Module, registry: str) -> None:
    """Takes the hooks of fully_shard out of a registry of hooks."""
    hooks = vars(module).get(registry, {})
    for key in [key for key, hook in hooks.items() if _is_of_fsdp(hook)]:
        del hooks[key]
        for flags in _OF_HOOKS:
            vars(module).get(flags, {}).pop(key, None)


def _is_of_fsdp(hook: Any) -> bool:
    return str(getattr(getattr(hook, "hook", hook), "__module__", "")).startswith(_PLACE)


def _forget(module: nn.Module) -> None:
    """Lets fully_shard take the module for one that it has never seen."""
    from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY  # noqa: PLC0415  of something sharded

    for key in (STATE_KEY, REGISTRY_KEY):
        noted = vars(module).pop(key, {})
        others = {each: value for each, value in noted.items() if getattr(each, "__name__", each) != "fully_shard"}
        if others:
            vars(module)[key] = others
    _unmap(module)


def _unmap(module: nn.Module) -> None:
    _mapping().pop(module, None)


def _mapping() -> Any:
    """Module -> weak reference to its state, of torch.distributed."""
    from torch.distributed import _composable_state  # noqa: PLC0415

    return _composable_state._module_state_mapping


def _own(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, each) for name, each in list(module._parameters.items()) if each is not None)


def _check_shapes(optimizer: Optimizer, state: Mapping[str, Any], parameter: Tensor) -> None:
    for key, value in state.items():
        if _is_cut(value) and value.dim() and value.shape != parameter.shape:
            raise TrainingError(
                f"{type(optimizer).__name__} keeps {key!r} of shape {list(value.shape)} for a parameter of shape "
                f"{list(parameter.shape)} under fully_shard, and how to cut it anew is not known: use an optimizer "
                "whose state has the parameter's shape, such as AdamW."
            )


def _is_cut(tensor: Any) -> bool:
    """Whether a value is a DTensor, whose class is loaded only if there is one."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def _gathered(value: Any) -> Any:
    """A DTensor as a whole tensor of its own memory; anything else as it is. All processes wait for each other."""
    return value.full_tensor().detach().clone() if _is_cut(value) else value


def _cut_like(value: Tensor, part: Tensor) -> Tensor:
    """A tensor that is whole in all processes, cut like another one of its shape."""
    from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415

    cut: Tensor = distribute_tensor(value, part.device_mesh, part.placements, src_data_rank=None)  # type: ignore[attr-defined]
    return cut


def _fsdp() -> Any:
    from torch.distributed import fsdp  # noqa: PLC0415  it takes long to load, and few use it

    return fsdp
