"""A forward that only hands its mode on is recorded once; whatever else it does with it is recorded in each mode."""

import copy
import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.tracing import ByMode, trace
from nrfx.tracing.values.handed_on import only_handed_on

X = torch.linspace(-1, 1, 12).view(3, 4)


def dropped(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    return F.dropout(x, p, training=training)


def branching(x: Tensor, training: bool) -> Tensor:
    return x * 2 if training and x.shape[0] > 1 else x * 3


def compared(x: Tensor, training: bool) -> Tensor:
    return x * (2.0 if training is True else 3.0)


def of_a_type(x: Tensor, training: bool) -> Tensor:
    return x * (2.0 if training is not False and type(training) is bool else 3.0)


def matched(x: Tensor, training: bool) -> Tensor:
    match training:
        case True:
            return x * 2
        case _:
            return x * 3


def renamed(x: Tensor, training: bool) -> Tensor:
    mode = training
    return x * (2.0 if mode is True else 3.0)


def calls_itself(x: Tensor, training: bool, times: int = 2) -> Tensor:
    return calls_itself(F.dropout(x, 0.5, training), training, times - 1) if times else x


def caught(x: Tensor, training: bool) -> Tensor:
    try:
        return x + F.dropout(torch.ones(4), 0.0, training)
    except TypeError:
        return x * 5


def unused(x: Tensor, training: bool) -> Tensor:
    return x


def seen_by_name(x: Tensor, training: bool) -> Tensor:
    return x * (2.0 if locals()["training"] is True else 3.0)


def shaped(x: Tensor, training: bool) -> Tensor:
    return torch.sum(x, 1, keepdim=training)


def kept(x: Tensor, training: bool, seen: list[Any] = []) -> Tensor:  # noqa: B006
    seen.append(training)
    return x * (2.0 if seen.pop() is True else 3.0)


class Net(nn.Module):
    """Counts how often its forward runs."""

    runs = 0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        type(self).runs += 1
        return self.step(self.layer(x))

    def step(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Dropping(Net):
    def step(self, x: Tensor) -> Tensor:
        return F.dropout(x, p=0.5, training=self.training) + dropped(x, training=self.training) * 2


class Recursive(Net):
    def step(self, x: Tensor) -> Tensor:
        return calls_itself(x, self.training)


class NotAsked(Net):
    def step(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training, not self)


class Asking(Net):
    def step(self, x: Tensor) -> Tensor:
        return branching(F.dropout(x, 0.5, self.training), self.training)


class Comparing(Net):
    def step(self, x: Tensor) -> Tensor:
        return compared(x, self.training)


class Typed(Net):
    def step(self, x: Tensor) -> Tensor:
        return of_a_type(x, training=self.training)


class Matching(Net):
    def step(self, x: Tensor) -> Tensor:
        return matched(x, self.training)


class Renaming(Net):
    def step(self, x: Tensor) -> Tensor:
        return renamed(x, self.training)


class Assigning(Net):
    def step(self, x: Tensor) -> Tensor:
        mode = self.training
        return x * (2.0 if mode is True else 3.0)


class Catching(Net):
    def step(self, x: Tensor) -> Tensor:
        return caught(x, self.training)


class CatchingAround(Net):
    def step(self, x: Tensor) -> Tensor:
        try:
            return x + self.of_nothing_traced()
        except TypeError:
            return x * 5

    def of_nothing_traced(self) -> Tensor:
        return F.dropout(torch.ones(4), 0.0, self.training)


class OfNothingTraced(Net):
    def step(self, x: Tensor) -> Tensor:
        return x + F.dropout(torch.ones(4), 0.0, self.training)


class Unused(Net):
    def step(self, x: Tensor) -> Tensor:
        return branching(x, False) + unused(x, self.training)


class Seen(Net):
    def step(self, x: Tensor) -> Tensor:
        return seen_by_name(x, self.training)


class Shaping(Net):
    def step(self, x: Tensor) -> Tensor:
        return shaped(x, self.training)


class Keeping(Net):
    def step(self, x: Tensor) -> Tensor:
        return kept(x, self.training)


class Spread(Net):
    def step(self, x: Tensor) -> Tensor:
        return compared(*(x,), self.training)


class OfAProperty(Net):
    mode = property(operator.attrgetter("training"))

    def step(self, x: Tensor) -> Tensor:
        return dropped(x, training=self.training) * (2.0 if self.mode is True else 3.0)


class OfAnAttribute(Net):
    def step(self, x: Tensor) -> Tensor:
        function = compared
        return function(x, self.training)


class Together(Net):
    def step(self, x: Tensor) -> Tensor:
        return x * (2.0 if (self.training or 0) is True else 3.0)


class OfAnInstance(Net):
    def step(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training) * (2.0 if getattr(self, "training") is True else 3.0)  # noqa: B009


def recordings(net: nn.Module) -> tuple[int, Any]:
    """How often the forward runs for a trace that computes what the model computes, in both modes; and the trace."""
    Net.runs = type(net).runs = 0
    gm = trace(net, X)
    runs = type(net).runs
    for training in (True, False):
        pair = []
        for module in (net, gm):
            twin = copy.deepcopy(module).train(training)
            torch.manual_seed(1)
            pair.append(twin(X))
        assert torch.equal(*pair)
    return runs, gm


OTHERWISE = (
    *(
        Asking,
        Comparing,
        Typed,
        Matching,
        Renaming,
        Assigning,
        Catching,
        CatchingAround,
        Seen,
        Shaping,
        Keeping,
        Spread,
    ),
    *(OfAProperty, OfAnAttribute, Together, OfAnInstance),
)


@pytest.mark.parametrize("kind", OTHERWISE)
def test_a_mode_with_which_more_is_done_is_recorded_in_each(kind: type[Net]) -> None:
    assert recordings(kind())[0] == 2


def test_a_mode_for_an_op_that_gets_nothing_traced_is_recorded_in_each_once_that_has_failed() -> None:
    assert recordings(OfNothingTraced())[0] == 3


def test_a_mode_that_is_not_used_is_recorded_once() -> None:
    runs, gm = recordings(Unused())
    assert runs == 1 and not hasattr(gm, "by_mode")


@pytest.mark.parametrize("kind", [Dropping, Recursive, NotAsked])
def test_a_mode_that_is_only_handed_on_is_recorded_once(kind: type[Net]) -> None:
    runs, gm = recordings(kind())
    assert runs == 1
    assert gm.graphs["train"] is gm.graphs["eval"] and isinstance(gm.by_mode, ByMode)
    assert {node.args for node in gm.graph.nodes if node.target == "by_mode"} == {(True, False)}


def test_a_function_whose_source_is_another_is_not_read() -> None:
    scope: dict[str, Any] = {"F": F}
    exec(compile("def step(x, training):\n    return F.dropout(x, 0.5, training)\n", __file__, "exec"), scope)
    assert not only_handed_on(scope["step"].__code__, scope, "training")
    assert only_handed_on(dropped.__code__, dropped.__globals__, "training")
    assert not only_handed_on(compared.__code__, compared.__globals__, "training")
