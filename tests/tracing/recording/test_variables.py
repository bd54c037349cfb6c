"""`torch.autograd.Variable`, which models from before torch 0.4 wrap their tensors in."""

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from nrfx.tracing import trace
from tests.tracing.models import Joined, assert_kept


def test_a_variable_of_a_traced_tensor_is_the_tensor_without_its_past() -> None:
    def between(module: Joined, x: Tensor) -> Tensor:
        assert isinstance(x, Variable)
        return module.b(x) + Variable(x)  # type: ignore[operator]

    assert assert_kept(Joined(between)).changed


def test_a_variable_may_want_gradients_again() -> None:
    gm = trace(Joined(lambda m, x: m.b(Variable(x, requires_grad=True))), torch.zeros(1, 3, 4, 4))
    assert [node.target for node in gm.graph.nodes if node.op == "call_method"] == ["detach", "requires_grad_"]


def test_a_variable_of_a_plain_tensor_is_what_torch_makes_of_it() -> None:
    assert_kept(Joined(lambda m, x: m.b(x) + Variable(torch.ones(8, 1, 1, dtype=x.dtype), requires_grad=False)))
    assert "__new__" not in vars(Variable)


def test_an_argument_that_torch_ignores_is_ignored() -> None:
    class Volatile(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + Variable(torch.ones(4), False, False)

    x = torch.randn(2, 4)
    torch.testing.assert_close(trace(Volatile(), x)(x), x + 1)
