"""save and load: the network, its optimizer and its Rejuvenator, to one file and back."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nrfx.checkpoint.encoding import decoded, encoded, tensors_in
from nrfx.checkpoint.file import VERSION, Content, Stored, read, serialized
from nrfx.checkpoint.network import restored, savable
from nrfx.checkpoint.optimizer import Resumable, check_asked, check_company, optimizer_state, refills
from nrfx.checkpoint.plan import Plan, content_of
from nrfx.checkpoint.tensors import named_once
from nrfx.errors import CheckpointError, NrfxError
from nrfx.files import Location, write
from nrfx.tracing import TracedModule

Optimizers = Optimizer | Iterable[Optimizer]


def save(
    path: Location,
    module: nn.Module,
    optimizer: Optimizers | None = None,
    rejuvenator: Resumable | None = None,
    extra: dict[str, Any] | None = None,
) -> None:
    """Writes a network, and the state of its optimizer and Rejuvenator if given, to one file, whole or not at all.

    Args:
        path: the file; its folder must exist. A file that is there is replaced at the end, in one step.
        module: a traced module, rejuvenated or not (`result.module`, `nr.module`), or a GraphModule with shapes.
        optimizer: of the module's parameters; or several, or one in a wrapper.
        rejuvenator: the one that trains the module with this optimizer.
        extra: whatever else belongs to the run (an epoch, the state of a scheduler, an average of the network):
            tensors, numbers, text, None, and lists, tuples and dicts of them. Nothing is pickled.

    Raises:
        CheckpointError: the file cannot be written, or module, optimizer and rejuvenator do not belong together.

    >>> import tempfile, torch, nrfx
    >>> folder = tempfile.TemporaryDirectory()
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> small = nrfx.compact(nrfx.trace(net, torch.zeros(1, 3, 4, 4))).module
    >>> save(f"{folder.name}/small.safetensors", small, extra={"epoch": 3})
    >>> fresh = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> load(f"{folder.name}/small.safetensors", fresh).get_submodule("0")
    Conv2d(3, 4, kernel_size=(1, 1), stride=(1, 1))
    >>> found = {}
    >>> _ = load(f"{folder.name}/small.safetensors", fresh, extra=found)
    >>> found
    {'epoch': 3}
    >>> folder.cleanup()
    """
    traced = savable(module)
    check_company(traced, optimizer, rejuvenator)
    plan, tensors = Plan.of(traced), named_once(traced)
    content = asdict(Content("nrfx", VERSION, plan, None, None)) | {"plan": content_of(plan)}
    del content["extra"]
    if optimizer is not None:
        state = optimizer_state(optimizer, traced)
        content["optimizer"] = encoded(state, "optimizer")
        tensors |= tensors_in(state, "optimizer")
    if rejuvenator is not None:
        watched = dict(rejuvenator.state_dict())
        content["rejuvenator"] = encoded(watched, "rejuvenator")
        tensors |= tensors_in(watched, "rejuvenator")
    content |= _written(extra)
    tensors |= tensors_in(extra, "extra")
    write(path, *serialized(tensors, json.dumps(content)))


def _written(extra: dict[str, Any] | None) -> dict[str, Any]:
    """The field of a file: none at all for nothing, for earlier versions refuse a field that they do not know."""
    if extra is None:
        return {}
    if not isinstance(extra, dict):
        raise CheckpointError(f"extra is a {type(extra).__name__}; expected a dict, such as {{'epoch': 3}}.")
    return {"extra": encoded(extra, "extra")}


def load(
    path: Location,
    model: nn.Module,
    optimizer: Optimizers | None = None,
    rejuvenator: Resumable | None = None,
    extra: dict[str, Any] | None = None,
) -> TracedModule:
    """The network that `save` wrote, built from a fresh instance of its class, which is left as it is.

    The result is on the devices of `model` (the CPU for the meta device), in the dtypes and modes that were saved.

    Args:
        path: a file written by `nrfx.save`.
        model: an instance of the architecture that was traced at first; or a traced module or GraphModule of one.
        optimizer: over the parameters of `model`; of the class that was saved, with as many groups or one. It trains
            the result from here on, its options and state as saved. Several in the order in which they were saved.
        rejuvenator: with that optimizer. It goes on where the saved one was, with the result as its module: in place,
            unless it has inplace=False. Its module, and the model that was traced, then become the network of the file.
        extra: a dict that gets what `save` was given as `extra`; its tensors are on the CPU.

    Raises:
        CheckpointError: the file cannot be read, or does not fit. Nothing was changed.

    >>> import tempfile, torch, nrfx
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> fresh = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> small = nrfx.compact(nrfx.trace(net, torch.zeros(1, 3, 4, 4))).module
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nrfx.save(f"{folder}/small.safetensors", small)
    ...     again = nrfx.load(f"{folder}/small.safetensors", fresh)
    >>> x = torch.ones(1, 3, 4, 4)
    >>> torch.equal(again.eval()(x), small.eval()(x)), fresh[0].out_channels
    (True, 8)
    """
    stored = read(path)
    check_asked(stored, optimizer, rejuvenator)
    found = None if extra is None else _extra(stored, extra)
    module = restored(stored, model)
    several = [] if optimizer is None else refills(stored, optimizer, model, module)
    stored.check_named()
    if rejuvenator is not None:
        try:
            rejuvenator.load_state_dict(decoded(stored.rejuvenator, stored.tensors, "rejuvenator"), module)
        except (NrfxError, TypeError, ValueError) as error:
            raise stored.misfit(f"its rejuvenator's state is refused: {error}") from error
    for each, refill in several:
        refill.carry_out(each)
    if extra is not None and found is not None:
        extra.update(found)
    return module if rejuvenator is None else rejuvenator.settle()


def _extra(stored: Stored, asked: Any) -> dict[str, Any]:
    """What the file holds as extra, for one who asks."""
    if not isinstance(asked, dict):
        raise CheckpointError(f"extra is a {type(asked).__name__}; expected a dict that is to be filled, such as {{}}.")
    if stored.extra is None:
        raise stored.misfit("it holds no extra. Load it without extra=.")
    found = decoded(stored.extra, stored.tensors, "extra", f"{stored.path}: its ")
    if not isinstance(found, dict):
        raise stored.misfit(f"its extra is {found!r:.60}; expected a dict.")
    return found
