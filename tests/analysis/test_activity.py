"""What weights read on batches, against means of the eager model."""

import torch
from torch import nn

import nrfx
from nrfx.analysis.activity import activity_of
from nrfx.analysis.spaces import channels_of

X = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_means_are_those_of_the_eager_model_over_examples_and_positions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 2))
    activity = activity_of(gm := nrfx.trace(model, X[:2]), channels_of(gm), [X[:2], X[2:]])
    read = model[:3](X).detach()
    assert torch.allclose(activity.mean("3"), read.mean(0).double(), atol=1e-6)
    assert activity.examples.tolist() == [2, 4]
    assert "0" not in activity.means  # no channel that it reads may go


def test_sizes_are_absolute_and_a_running_mean_begins_without_a_bias() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    x = torch.randn(3, 4, 2)
    activity = activity_of(gm := nrfx.trace(model, x[0]), channels_of(gm), list(x))
    each = torch.stack([model[0](batch).detach().abs().mean(0) for batch in x]).double()
    running = torch.zeros(3).double()
    for size in each:
        running = 0.9 * running + 0.1 * size
    assert torch.allclose(activity.size("1"), each.mean(0), atol=1e-6)
    assert torch.allclose(activity.size("1", 0.9), running / (1 - 0.9**3), atol=1e-6)


def test_a_layer_that_is_called_twice_counts_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again = nn.Linear(2, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.again(torch.relu(self.again(torch.relu(self.first(x))))).sum(1)

    model, x = Twice(), torch.randn(5, 2)
    activity = activity_of(gm := nrfx.trace(model, x), channels_of(gm), [x])
    if "again" in activity.means:
        once = torch.relu(model.first(x))
        both = torch.cat([once, torch.relu(model.again(once))]).detach()
        assert torch.allclose(activity.mean("again"), both.mean(0).double(), atol=1e-6)


def test_the_network_its_mode_and_the_generators_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    x = torch.randn(6, 3)
    gm = nrfx.trace(model, x)
    before = {name: tensor.clone() for name, tensor in gm.state_dict().items()}
    state = torch.get_rng_state()
    activity_of(gm, channels_of(gm), lambda: [x])
    assert gm.training and all(module.training for module in gm.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in gm.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert [node.name for node in gm.graph.nodes if "probe" in node.name] == []
