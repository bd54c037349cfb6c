"""The walk over modules against torch's own iterators."""

import pytest
import torch
import torchvision
from torch import nn

from nrfx import trace
from nrfx.tracing.graph import walk


def shared() -> nn.Module:
    """A module under two paths, tied weights, and a buffer that is None."""
    layer = nn.Linear(2, 2)
    net = nn.Sequential(layer, nn.Sequential(layer, nn.BatchNorm1d(2, track_running_stats=False)), nn.Linear(2, 2))
    net[2].weight = layer.weight
    return net


def with_none() -> nn.Module:
    """A child that is None."""
    net = nn.Module()
    net.register_module("none", None)
    net.layer = shared()
    return net


@pytest.mark.parametrize("build", [shared, with_none, lambda: torchvision.models.googlenet(init_weights=False)])
def test_names_and_order_are_torch_s(build: type[nn.Module]) -> None:
    model = build()
    modules = walk.named_modules(model)
    assert modules == list(model.named_modules())
    assert walk.named_modules(model, once=False) == list(model.named_modules(remove_duplicate=False))
    for ours, theirs in (
        (walk.named_parameters, nn.Module.named_parameters),
        (walk.named_buffers, nn.Module.named_buffers),
    ):
        assert [(name, id(tensor)) for name, tensor in ours(modules)] == [(n, id(t)) for n, t in theirs(model)]


def test_a_traced_module_names_its_own_as_any_module_does() -> None:
    gm = trace(shared(), torch.zeros(2, 2))
    for method in ("named_modules", "named_parameters", "named_buffers"):
        for options in ({}, {"prefix": "net"}, {"remove_duplicate": False}):
            ours = [(name, id(value)) for name, value in getattr(gm, method)(**options)]
            assert ours == [(name, id(value)) for name, value in getattr(nn.Module, method)(gm, **options)]


def test_what_a_model_holds_is_looked_up_once_while_it_is_said_to_stay() -> None:
    gm = trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(2, 2))
    with walk.unchanged(gm):
        with walk.unchanged(gm):
            before = walk.held(gm)
        assert walk.held(gm) is before and not dict(gm.named_buffers())
        gm.register_buffer("late", torch.zeros(1))
        assert not dict(gm.named_buffers())
    assert "late" in dict(gm.named_buffers())


def test_what_an_error_ends_is_looked_up_again() -> None:
    net = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(ValueError, match="stop"), walk.unchanged(net):
        raise ValueError("stop")
    net.append(nn.ReLU())
    assert [path for path, _ in walk.named_modules(net)] == ["", "0", "1"]
