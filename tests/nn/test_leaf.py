"""Cross layers are leaves of a symbolic trace of torch.fx, as the layers of torch.nn are."""

import torch
from torch import fx, nn

from nrfx.nn import ChannelScale, Cross, CrossConv2d, CrossLinear
from nrfx.nn.leaf import recorded_call


def network() -> nn.Sequential:
    return nn.Sequential(
        CrossConv2d((2, 1), (3, 2), 3, scheme="removed", present=((0, 1), (1,))),
        ChannelScale(5, 1),
        nn.Sequential(CrossConv2d((3, 2), (4, 4), 1), nn.Flatten(2)),
        CrossLinear((5, 4), (2, 0), scheme="removed", present=((0, 1), ())),
    )


def test_layers_of_nrfx_are_leaves_by_their_paths() -> None:
    torch.manual_seed(0)
    net = network()
    symbolic = fx.symbolic_trace(net)
    called = [str(node.target) for node in symbolic.graph.nodes if node.op == "call_module"]
    assert called == ["0", "1", "2.0", "2.1", "3"]
    assert {type(symbolic.get_submodule(path)) for path in ("0", "1", "2.0", "3")} == {
        CrossConv2d, ChannelScale, CrossLinear
    }  # fmt: skip
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(symbolic(x), net(x))


def test_a_layer_alone_is_looked_into() -> None:
    for layer in network().modules():
        if isinstance(layer, Cross):
            symbolic = fx.symbolic_trace(layer)
            assert not [node for node in symbolic.graph.nodes if node.op == "call_module"]


def test_tensors_are_no_recording() -> None:
    layer = CrossLinear((2, 1), (2, 2))
    assert recorded_call(layer, torch.zeros(2, 3)) is None
