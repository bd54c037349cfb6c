"""The entry of a state dict that says which network its numbers are of.

A rewritten network has parameters of its model's names, and may even have them in the model's shapes: loaded into the
model, or into what another event made of it, the same numbers would compute something else. So the state dict of a
network that is no longer what its model builds has one more entry, KEY: a plan, as a tensor of bytes, which every
format of checkpoints can hold. Plans are made and read by `nrfx.checkpoint`, which stands after this room and
registers here.

The user's own model, where it follows its traced module (original.py), has the entry by hooks: its class is not ours.
"""

import copy
import weakref
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nrfx.tracing.graph.clone import each_on_meta

KEY = "rewritten_by_nrfx"
"""The name of the entry, and of an attribute of what has it, a tensor without elements: torch.distributed.checkpoint
looks each name up, and torch.func.functional_call puts the entry there for the call."""

LINK = "_followed_by_nrfx"
"""The attribute of a model that leads to its traced module."""


class Statements(NamedTuple):
    """What is done for the entry.

    entry: of a traced module, a uint8 tensor; None where the network is what its model builds.
    prepare: called with a traced module, the state dict that is about to be loaded, its prefix, and the model that
        follows if that is what is loaded into. It takes the entry out, and makes the traced module the network of the
        entry, or raises a CheckpointError and changes nothing.
    """

    entry: Callable[[Any], Tensor | None]
    prepare: Callable[[Any, dict[str, Any], str, nn.Module | None], None]


_REGISTERED: list[Statements] = []


def register(statements: Statements) -> None:
    """Makes these the ones that are asked."""
    _REGISTERED[:] = [statements]


def statements() -> Statements:
    """Those of nrfx.checkpoint, which is loaded when a rewritten network is first saved or loaded."""
    if not _REGISTERED:
        import_module("nrfx.checkpoint")
    return _REGISTERED[0]


class AsBuilt:
    """The network that a model builds, without data: what a traced module was before its first rewrite.

    It is made when somebody asks for it, who saves or loads the rewritten network; the model may be another by then.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    @classmethod
    def of(cls, traced: Any) -> "AsBuilt":
        """That of a traced module: what it is now, unless it came out of a rewrite itself."""
        known: AsBuilt | None = traced.facts.fresh
        return cls(traced.around_later(each_on_meta())) if known is None else known

    @cached_property
    def network(self) -> Any:
        """The traced module."""
        return self._make()

    def __reduce__(self) -> tuple[Callable[[Any], "AsBuilt"], tuple[Any]]:
        return _known, (self.network,)


def _known(network: Any) -> AsBuilt:
    return AsBuilt(lambda: network)


class Link:
    """The traced module that a model follows: weakly until the model runs its graphs, so that copies follow copies."""

    def __init__(self, traced: Any = None, held: bool = False) -> None:
        self._held = traced if held else None
        self._reference = None if traced is None else weakref.ref(traced)

    @property
    def traced(self) -> Any:
        """The traced module; None where it is gone, and in copies of a model that did not run its graphs."""
        return None if self._reference is None else self._reference()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Link":
        return Link() if self._held is None else Link(copy.deepcopy(self._held, memo), held=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return Link, (self._held, self._held is not None)


class LoadHook:
    """Prepares the traced module of a model for a state dict that the model is about to load."""

    def __init__(self, model: nn.Module | None) -> None:
        self._model = None if model is None else weakref.ref(model)

    def __call__(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        model = self._owner()
        traced = None if model is None else followed(model)
        if traced is not None:
            statements().prepare(traced, state, prefix, model)

    def _owner(self) -> nn.Module | None:
        return None if self._model is None else self._model()

    def __deepcopy__(self, memo: dict[int, Any]) -> "LoadHook":
        return LoadHook(memo.get(id(self._owner())))

    def __reduce__(self) -> tuple[Any, ...]:
        return LoadHook, (self._owner(),)


def save_hook(model: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Puts the entry into the state dict of a model that follows a traced module."""
    traced = followed(model)
    entry = None if traced is None else statements().entry(traced)
    if entry is not None:
        state[prefix + KEY] = entry


def followed(model: nn.Module) -> Any:
    """The traced module that a model follows; None where it follows none."""
    link = vars(model).get(LINK)
    return link.traced if isinstance(link, Link) else None


def carry(model: nn.Module, traced: Any, held: bool) -> None:
    """Lets the state dict of a model have the entry of its traced module, and what it loads be prepared for it."""
    link = vars(model).get(LINK)
    held = held or (isinstance(link, Link) and link.traced is traced and link._held is not None)
    model.__dict__[LINK] = Link(traced, held)
    model.__dict__[KEY] = torch.empty(0, dtype=torch.uint8)
    if not any(_is_ours(hook) for hook in model._load_state_dict_pre_hooks.values()):
        model.register_state_dict_post_hook(save_hook)
        model._register_load_state_dict_pre_hook(LoadHook(model))


def without_hooks(module: nn.Module) -> None:
    """Takes these hooks from a module that took over what is registered in a model: a traced module needs none."""
    for name in ("_state_dict_hooks", "_load_state_dict_pre_hooks"):
        hooks = vars(module)[name]
        if any(_is_ours(hook) for hook in hooks.values()):
            module.__dict__[name] = type(hooks)((key, hook) for key, hook in hooks.items() if not _is_ours(hook))


def _is_ours(hook: Any) -> bool:
    return hook is save_hook or isinstance(getattr(hook, "hook", hook), LoadHook)
