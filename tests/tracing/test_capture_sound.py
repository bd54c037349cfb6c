"""A trace computes the outputs and buffers of the model in both modes, or the model is refused."""

import collections
import copy
import dataclasses
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from nrfx.errors import TraceError
from nrfx.tracing import trace
from tests.tracing.models import added

Forward = Callable[["Net", Tensor], Any]


class Net(nn.Module):
    """A linear layer and a buffer around one function of (module, x)."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = [function]
        self.fc = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Any:
        return self.function[0](self, x)


@dataclasses.dataclass
class Pair:
    first: Tensor
    second: Any = None


class Named(NamedTuple):
    first: Tensor
    second: Tensor


def augmented_slice(m: Net, x: Tensor) -> Tensor:
    y = m.fc(x)
    part = y[:, 1:]
    part += 1
    part *= 2
    return y


def augmented_item(m: Net, x: Tensor) -> Tensor:
    y = m.fc(x)
    y[:, 0] += y[:, 1]
    y[:, 2:] /= 2
    return y


def item_by_mask(m: Net, x: Tensor) -> Tensor:
    y = m.fc(x)
    y[y > 0] = 0
    y[:, 0] = y[:, 1]
    return y


def augmented_transpose(m: Net, x: Tensor) -> Tensor:
    y = m.fc(x)
    turned = y.t()
    turned -= 3
    return y.sum(0) + turned.sum(1)


def augmented_input(m: Net, x: Tensor) -> Tensor:
    flat = x.view(-1)
    flat += 1
    return m.fc(x)


def relu_of_a_slice(m: Net, x: Tensor) -> Tensor:
    y = m.fc(x)
    F.relu(y[:, :2], inplace=True)
    y[:, 2:].relu_()
    return y


def chunks_without_gradient(m: Net, x: Tensor) -> Tensor:
    y = m.fc(x).detach()
    left, right = y.chunk(2, 1)
    left += 1
    right.mul_(2)
    columns = y.unbind(1)
    for index in range(4):
        column = columns[index]
        column += index
    return y


def running_mean(m: Net, x: Tensor) -> Tensor:
    if m.training:
        m.mean *= 0.9
        m.mean += x.mean(0)
    return x - m.mean


def running_mean_by_item(m: Net, x: Tensor) -> Tensor:
    m.mean[0] = x.mean()
    m.mean.add_(1)
    return x - m.mean


def clamped_weights(m: Net, x: Tensor) -> Tensor:
    m.fc.weight.data.clamp_(-0.1, 0.1)
    return m.fc(x)


def detached_branch(m: Net, x: Tensor) -> Tensor:
    y = m.fc(x)
    return y.detach() * y


def checkpointed(m: Net, x: Tensor) -> Tensor:
    return checkpoint(m.fc, x, use_reentrant=False)  # type: ignore[no-any-return]


def clamped_without_gradient(m: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.fc.weight.clamp_(-0.1, 0.1)
    return m.fc(x)


def asks_what_it_got(m: Net, x: Tensor) -> Tensor:
    known = isinstance(x, Tensor) and not hasattr(x, "mask") and x.shape[1] in (4, 5) and isinstance(x.size(1), int)
    return m.fc(x) if known and x.dtype == torch.float32 and x.device.type == "cpu" and not x.is_cuda else x


def asks_torch_what_it_got(m: Net, x: Tensor) -> Tensor:
    return m.fc(x) if torch.is_tensor(x) and torch.jit.isinstance(x, Tensor) and not torch.is_tensor(x.size(1)) else x


def asks_another_file_what_it_got(m: Net, x: Tensor) -> Tensor:
    return added(m.fc(x), x)


def formats_a_size(m: Net, x: Tensor) -> Tensor:
    return m.fc(x) if f"{x.shape[1]} {x.device}" == "4 cpu" else x


def names(m: Net, x: Tensor) -> dict[str, Any]:
    y = m.fc(x)
    return {"y": y, "more": [y + 1, (y, None, 3)], "ordered": collections.OrderedDict(z=y)}


def named(m: Net, x: Tensor) -> Named:
    return Named(m.fc(x), m.fc(x) + 1)


def data(m: Net, x: Tensor) -> Pair:
    return Pair(m.fc(x), m.fc(x) + 1)


def largest(m: Net, x: Tensor) -> tuple[Tensor, Any]:
    maxima = m.fc(x).max(1)
    return maxima.values * maxima.indices, maxima


KEPT: tuple[Forward, ...] = (
    *(augmented_slice, augmented_item, item_by_mask, augmented_transpose, augmented_input, relu_of_a_slice),
    *(chunks_without_gradient, running_mean, running_mean_by_item, clamped_weights, detached_branch, checkpointed),
    clamped_without_gradient,
    *(
        asks_what_it_got,
        asks_torch_what_it_got,
        asks_another_file_what_it_got,
        formats_a_size,
        names,
        named,
        data,
        largest,
    ),
)


def leaves(value: Any) -> list[Any]:
    return tree_leaves(vars(value) if dataclasses.is_dataclass(value) else value)


@pytest.mark.parametrize("forward", KEPT, ids=lambda forward: forward.__name__)
def test_what_a_forward_does_is_kept(forward: Forward) -> None:
    model, x = Net(forward), torch.randn(3, 4)
    gm = copy.deepcopy(trace(model, x))
    for training in (True, False, True):
        expected, actual = leaves(model.train(training)(x.clone())), leaves(gm.train(training)(x.clone()))
        assert len(expected) == len(actual)
        for a, b in zip(expected, actual, strict=True):
            assert torch.equal(a, b) and a.requires_grad == b.requires_grad if isinstance(a, Tensor) else a == b
        assert all(torch.equal(value, gm.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("forward", "kind"), [(names, dict), (named, Named), (data, Pair), (largest, tuple)])
def test_outputs_keep_their_kind(forward: Forward, kind: type) -> None:
    assert type(trace(Net(forward), torch.zeros(2, 4))(torch.zeros(2, 4))) is kind


def into_a_constant(m: Net, x: Tensor) -> Tensor:
    total = torch.zeros(4)
    total += x.mean(0)
    return x + total


def into_a_part_of_a_constant(m: Net, x: Tensor) -> Tensor:
    total = torch.zeros(4)
    total[:2].add_(x.mean())
    return x + total


def into_an_item_of_a_constant(m: Net, x: Tensor) -> Tensor:
    total = torch.zeros(4)
    total[0] = x.mean()
    return x + total


def into_a_view_of_a_constant(m: Net, x: Tensor) -> Tensor:
    total = torch.zeros(4)
    total[: x.size(1)].add_(x.mean(0))
    return x + total


def attribute_of_a_tensor(m: Net, x: Tensor) -> Tensor:
    y = m.fc(x)
    y.data = y.data * 2
    return y


def hook_on_a_tensor(m: Net, x: Tensor) -> Tensor:
    y = m.fc(x)
    y.register_hook(lambda gradient: gradient * 2)
    return y


def value_of_a_tensor(m: Net, x: Tensor) -> Tensor:
    return x * x.mean().item()


REFUSED = {
    into_a_constant: r"writes into _tensor_constant0, a tensor that the forward makes.*x.new_zeros",
    into_a_part_of_a_constant: r"writes into _tensor_constant0, a tensor that the forward makes",
    into_an_item_of_a_constant: r"writes into _tensor_constant0, a tensor that the forward makes",
    into_a_view_of_a_constant: r"writes into _tensor_constant0, a tensor that the forward makes",
    attribute_of_a_tensor: r"sets the attribute data of fc.*copy_",
    hook_on_a_tensor: r"a hook on a tensor",
    value_of_a_tensor: r"item.*needs the values of a tensor.*torch\.where",
}


@pytest.mark.parametrize("forward", REFUSED, ids=lambda forward: forward.__name__)
def test_what_a_graph_does_not_record_is_refused(forward: Forward) -> None:
    model = Net(forward)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TraceError, match=REFUSED[forward]):
        trace(model, torch.zeros(2, 4))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_hooks_are_kept_or_refused() -> None:
    inner, x = Net(lambda m, x: m.fc(x)), torch.randn(2, 4)
    inner.register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    inner.register_forward_hook(lambda m, args, out: out * 2)
    model = nn.Sequential(inner, nn.ReLU())
    assert torch.equal(trace(inner, x)(x), inner(x))
    assert torch.equal(trace(model, x)(x), model(x))
    inner.register_full_backward_hook(lambda m, before, after: None)
    with pytest.raises(TraceError, match=r"0 \(Net\) has backward hooks.*register them after tracing"):
        trace(model, x)


def test_a_forward_that_was_set_on_the_model_is_the_one_that_is_traced() -> None:
    model, x = Net(lambda m, x: m.fc(x)), torch.randn(2, 4)
    model.forward = types.MethodType(lambda self, x: self.fc(x) * 3, model)  # type: ignore[method-assign]
    assert torch.equal(trace(model, x)(x), model(x))


def test_a_call_of_the_model_s_own_is_refused() -> None:
    class Called(nn.Linear):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x) * 2  # type: ignore[no-any-return]

    with pytest.raises(TraceError, match=r"Called has a __call__ of its own"):
        trace(Called(4, 4), torch.zeros(2, 4))
