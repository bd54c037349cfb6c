"""Networks that follow the one that is trained, in wrappers or without one: what an event carries beside it."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from nrfx.errors import TrainingError
from nrfx.rewrite.result import Rejuvenation
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.original import follow, join, traced_of
from nrfx.training.twins import Carried, carry


def carry_into(wrapper: nn.Module, result: Rejuvenation, inputs: Any = None) -> Carried:
    """Carries the twin inside a wrapper, and puts what comes of it into its place: `wrapper.module`, or `wrapper.ema`.

    So do `torch.optim.swa_utils.AveragedModel` and timm's `ModelEmaV3` hold it. All else of the wrapper stays, such as
    how many averages were taken.

    Raises:
        TrainingError: the wrapper has no twin there, or it is none of the network. Nothing was changed.

    >>> import nrfx, torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> gm = nrfx.trace(net, torch.zeros(1, 3, 4, 4))
    >>> average = torch.optim.swa_utils.AveragedModel(gm)
    >>> nrfx.carry_into(average, nrfx.compact(gm)).keeps_function
    True
    >>> average.module.get_submodule("0")
    Conv2d(3, 4, kernel_size=(1, 1), stride=(1, 1))
    """
    for name in ("module", "ema"):
        twin = getattr(wrapper, name, None)
        if isinstance(twin, nn.Module):
            carried = carry(twin, result, inputs)
            setattr(wrapper, name, carried.module)
            return carried
    raise TrainingError(
        f"{type(wrapper).__name__} holds no network as `module` or `ema`: carry the network that it holds with "
        "nrfx.carry, and put carried.module into its place."
    )


def checked_followers(followers: Iterable[nn.Module]) -> tuple[nn.Module, ...]:
    """The followers of a Rejuvenator.

    Raises:
        TrainingError: one is no module.
    """
    given = tuple(followers) if isinstance(followers, Iterable) else (followers,)
    for each in given:
        if not isinstance(each, nn.Module):
            raise TrainingError(
                f"followers holds {each!r}; expected networks such as ema.module, or the wrappers that hold them."
            )
    return given


def carried_inside(follower: nn.Module, result: Rejuvenation, old: TracedModule) -> Carried:
    """What comes of a follower, or of the network inside of it, which is left as it is."""
    twin = _twin_in(follower)
    traced = traced_of(twin)
    return carry(twin if traced is None else traced, result, old=old)


def put_inside(follower: nn.Module, carried: Carried) -> None:
    """Makes a follower, or the network inside of it, what `carried` holds; its objects stay, as those of an event."""
    twin, new = _twin_in(follower), carried.module
    assert new is not None
    traced = twin if isinstance(twin, TracedModule) else traced_of(twin)
    if traced is not None:
        traced.become(new)
    else:
        join(twin, new)
        follow(twin, new)


def _twin_in(follower: nn.Module) -> nn.Module:
    """The network in a wrapper such as AveragedModel (`module`) or ema_pytorch (`ema`); the follower itself in none."""
    if isinstance(follower, TracedModule) or traced_of(follower) is not None:
        return follower
    own = [name for name, _ in follower.named_parameters()]
    for name in ("module", "ema"):
        inner = follower._modules.get(name)
        if inner is not None and all(path.startswith(f"{name}.") for path in own):
            return _twin_in(inner)
    return follower
