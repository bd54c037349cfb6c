"""Rendered shapes: what is refused, and that seeds and sizes are kept."""

import pytest
import torch

from nrfx.errors import UsageError
from nrfx.experiment.shapes import SHAPES, shapes


@pytest.mark.parametrize(("wrong", "words"), [
    ({"classes": 1}, "classes is 1"),
    ({"classes": 11}, "2 to 10"),
    ({"size": 4}, "4 pixels"),
    ({"channels": 2}, "2 colours"),
    ({"noise": -1.0}, "noise is -1.0"),
    ({"validation": 0.6, "test": 0.6}, "part empty"),
    ({"count": 3}, "part empty"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        shapes(**wrong)


def test_the_seed_decides_every_image() -> None:
    one, same, other = (shapes(seed, count=40, size=12) for seed in (1, 1, 2))
    assert torch.equal(one.train.x, same.train.x) and torch.equal(one.test.y, same.test.y)
    assert not torch.equal(one.train.x, other.train.x)


def test_sizes_colours_and_classes_are_those_asked_for() -> None:
    data = shapes(count=200, classes=10, size=20, channels=3)
    assert data.train.shape == (3, 20, 20)
    y = torch.cat([part.y for part in (data.train, data.validation, data.test)])
    assert y.bincount().tolist() == [20] * len(SHAPES)
    assert float(data.train.x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(data.train.x.std()) == pytest.approx(1, abs=1e-5)


def test_no_two_kinds_cover_the_same_points() -> None:
    axis = torch.linspace(-1.2, 1.2, 60)
    x, y = axis.expand(60, 60), axis[:, None].expand(60, 60)
    covers = [contains(x, y) for contains in SHAPES.values()]
    for one in range(len(covers)):
        assert 0.05 < covers[one].double().mean() < 0.8
        for other in range(one):
            both, either = (covers[one] & covers[other]).sum(), (covers[one] | covers[other]).sum()
            assert both / either < 0.9, (list(SHAPES)[one], list(SHAPES)[other])


def test_without_noise_a_nearest_image_tells_most_shapes_apart() -> None:
    data = shapes(count=2_000, classes=4, size=16, noise=0.0)
    # The picture of the edges does not depend on which of ground and shape is the brighter one.
    edges = [(part.x.diff(dim=-1).abs().flatten(1), part.y) for part in (data.train, data.test)]
    (x, y), (x_test, y_test) = edges
    x, x_test = x / x.norm(dim=1, keepdim=True), x_test / x_test.norm(dim=1, keepdim=True)
    nearest = (x_test @ x.T).argmax(1)
    assert (y[nearest] == y_test).double().mean() > 0.6
