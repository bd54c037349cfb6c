"""The digits: how they are split, and how batches are drawn."""

import sys

import pytest
import torch

from nrfx.errors import UsageError
from nrfx.experiment.data import Images, batches, digits


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=r"scikit-learn.*pip install 'nrfx\[demo\]'"):
        digits()


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (-0.1, 0.2), (0.2, 1.0)])
def test_fractions_that_leave_a_part_empty_are_refused(validation: float, test: float) -> None:
    with pytest.raises(UsageError, match="empty"):
        digits(validation=validation, test=test)


def test_the_parts_do_not_overlap_and_hold_all_digits() -> None:
    data = digits(seed=3)
    parts = (data.train, data.validation, data.test)
    assert sum(len(part) for part in parts) == 1797
    pixels = torch.cat([part.x for part in parts]).flatten(1)
    assert torch.unique(pixels, dim=0).shape == pixels.shape


def test_the_train_part_has_mean_zero_and_deviation_one() -> None:
    x = digits().train.x
    assert x.mean().abs() < 1e-5
    assert (x.std() - 1).abs() < 1e-5


def test_the_seed_decides_the_split() -> None:
    assert torch.equal(digits(seed=1).test.x, digits(seed=1).test.x)
    assert not torch.equal(digits(seed=1).test.y, digits(seed=2).test.y)


def test_images_come_in_the_size_and_the_channels_asked_for() -> None:
    assert digits(size=32, channels=3).test.x.shape[1:] == (3, 32, 32)


def test_one_pass_serves_each_image_once() -> None:
    images = Images(torch.arange(12.0).reshape(12, 1, 1, 1), torch.arange(12))
    seen = [batch for batch in batches(images, 4, generator())]
    assert sorted(torch.cat([batch.y for batch in seen]).tolist()) == list(range(12))
    assert all(torch.equal(batch.x.flatten().long(), batch.y) for batch in seen)


def test_a_shift_moves_each_image_and_fills_up_with_its_darkest_value() -> None:
    image = torch.full((1, 2, 5, 5), -1.0)
    image[:, :, 2, 2] = 3.0
    images = Images(image.expand(64, -1, -1, -1), torch.arange(64))
    (batch,) = batches(images, 64, generator(), shift=1)
    assert torch.equal(batch.x.flatten(2).sum(2), images.x.flatten(2).sum(2))
    places = {tuple(int(i) for i in moved[0].nonzero()[0]) for moved in batch.x == 3.0}
    assert places == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}
    assert torch.equal(batch.x[:, 0], batch.x[:, 1])
