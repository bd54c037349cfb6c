"""The call that a batch of a data loader stands for: what a network takes, from the start of the batch."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from nrfx.errors import TrainingError
from nrfx.tracing import PartialModule, TracedModule
from nrfx.tracing.graph.arguments import CallForm


def call_of(module: nn.Module, batch: Any, index: int) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments for the module, by position and by keyword.

    A batch is a tensor, or a sequence that begins with the tensors of the module's inputs: what follows, such as
    labels, is not looked at. A network that takes more than tensors gets a mapping as its first argument, or its
    keywords out of it. Of a model that was traced in parts: what it is called with, a tuple for several arguments.

    Raises:
        TrainingError: the batch, of this index, does not begin with the inputs.
    """
    if isinstance(module, PartialModule):
        return (batch if isinstance(batch, tuple) else (batch,)), {}
    form = module.facts.form if isinstance(module, TracedModule) else None
    if form is not None:
        return _call_of_form(form, batch, index)
    given = [batch] if isinstance(batch, Tensor) else batch
    count = len(module.inputs) if isinstance(module, TracedModule) else 1
    if not isinstance(given, list | tuple) or len(given) < count:
        actual = type(batch).__name__ if not isinstance(given, list | tuple) else f"{len(given)} of them"
        raise TrainingError(
            f"Batch {index} is to begin with {count} input tensor{'s' if count > 1 else ''}; found {actual}."
        )
    inputs = given[:count]
    if not all(isinstance(x, Tensor) for x in inputs):
        kinds = ", ".join(type(x).__name__ for x in inputs)
        raise TrainingError(f"Batch {index} is to begin with input tensors; found {kinds}.")
    return inputs, {}


def _call_of_form(form: CallForm, batch: Any, index: int) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments where they are not just tensors: a mapping is the first of them, or holds them by name."""
    args, _ = form.filled(itertools.repeat(None))
    names = form.given
    if isinstance(batch, Mapping) and not (args and isinstance(args[0], Mapping)):
        if missing := [name for name in names if name not in batch]:
            raise TrainingError(f"Batch {index} is to hold {', '.join(names)}; it lacks {', '.join(missing)}.")
        return (), {name: batch[name] for name in names}
    items = batch if isinstance(batch, tuple | list) else [batch]
    if form.is_starred:
        return items[: len(args)], {}
    if len(items) < len(names):
        raise TrainingError(f"Batch {index} is to begin with {', '.join(names)}; it holds {len(items)}.")
    return (), dict(zip(names, items, strict=False))
