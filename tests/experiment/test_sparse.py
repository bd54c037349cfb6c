"""Dense-sparse-dense: what the masks must leave alone, and what they do."""

import copy

import pytest
import torch
from torch import nn

import nrfx
from nrfx.errors import TrainingError
from nrfx.experiment.sparse import phases, sparse
from tests.zoo import norms, vgg_bn

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def rejuvenated(scheme: str) -> nrfx.TracedModule:
    gm = nrfx.trace(vgg_bn(), X)
    with torch.no_grad():
        for norm in norms(gm):
            norm.weight[: norm.num_features // 2] = 0
    return nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme=scheme).module


@pytest.mark.parametrize("part", [-0.1, 1.0, True, "half"])
def test_a_part_that_is_no_fraction_is_refused(part: object) -> None:
    with pytest.raises(TrainingError, match="dsd is"), sparse(rejuvenated("dense"), part):
        pass


def test_tied_weights_and_those_of_layers_that_are_not_called_stay_dense() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x))

    gm = nrfx.trace(Tied(), torch.zeros(2, 4))
    with sparse(gm, 0.5):
        pass
    assert all(bool((parameter != 0).all()) for parameter in gm.parameters())


def test_a_part_of_nothing_changes_nothing() -> None:
    gm = rejuvenated("dense")
    before = copy.deepcopy(gm.state_dict())
    with sparse(gm, 0.0):
        pass
    assert all(torch.equal(value, before[name]) for name, value in gm.state_dict().items())


@pytest.mark.parametrize("scheme", ["dense", "attention", "removed"])
def test_masked_weights_stay_0_while_it_lasts_and_the_parameters_stay_the_same_objects(scheme: str) -> None:
    gm = rejuvenated(scheme).train()
    before = dict(gm.named_parameters())
    values = {name: value.detach().clone() for name, value in before.items()}
    optimizer = torch.optim.SGD(gm.parameters(), lr=0.1, momentum=0.9)
    with sparse(gm, 0.3):
        for _ in range(3):
            optimizer.zero_grad()
            gm(X).logsumexp(1).sum().backward()
            optimizer.step()
    after = dict(gm.named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    for name, weight in after.items():
        if weight.dim() > 1:
            masked, sizes = weight == 0, values[name].abs()
            assert int(masked.sum()) == round(0.3 * weight.numel()), name
            assert sizes[masked].max() <= sizes[~masked].min(), name


def test_what_was_masked_trains_again_afterwards() -> None:
    gm = rejuvenated("attention").train()
    with sparse(gm, 0.5):
        pass
    masked = {name: weight == 0 for name, weight in gm.named_parameters() if weight.dim() > 1}
    gm(X).logsumexp(1).sum().backward()
    assert all(bool(gm.get_parameter(name).grad[mask].any()) for name, mask in masked.items())


def test_the_masks_go_when_training_fails() -> None:
    gm = rejuvenated("dense")
    names = [name for name, _ in gm.named_parameters()]
    with pytest.raises(ZeroDivisionError), sparse(gm, 0.3):
        raise ZeroDivisionError
    assert [name for name, _ in gm.named_parameters()] == names


def test_the_sparse_phase_is_the_third_quarter_of_what_is_left() -> None:
    sparse_epochs = phases(since=10, epochs=50)
    assert [epoch for epoch in range(1, 51) if epoch in sparse_epochs] == list(range(31, 41))
    assert not any(epoch in phases(since=3, epochs=4) for epoch in range(6))
