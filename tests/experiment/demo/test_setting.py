"""The settings of the demo: what they promise of the network, the images and where they are."""

from pathlib import Path

import pytest
import torch

from nrfx.errors import UsageError
from nrfx.experiment.demo import setting
from nrfx.experiment.demo.setting import SETTINGS, found
from tests.experiment.test_fashion import write


@pytest.mark.parametrize("name", SETTINGS)
def test_most_params_lie_in_the_last_layers_and_every_gamma_starts_at_a_half(name: str) -> None:
    network = SETTINGS[name].network(0)
    sizes = [p.numel() for p in network.parameters() if p.dim() == 4]
    assert sum(sizes[-2:]) > 0.9 * sum(sizes)
    gammas = [p for key, p in network.named_parameters() if "norm" in key and key.endswith("weight")]
    assert len(gammas) == len(sizes) and all(bool((gamma == 0.5).all()) for gamma in gammas)
    assert SETTINGS[name].budget().params == sum(p.numel() for p in network.parameters())


def test_a_seed_decides_weights_and_split_and_leaves_the_random_state() -> None:
    digits, before = SETTINGS["digits"], torch.get_rng_state()
    first, again, other = (next(digits.network(seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(digits.data(0).test.y, digits.data(1).test.y)
    assert torch.equal(torch.get_rng_state(), before)


def test_fashion_is_found_in_the_first_place_that_has_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = tmp_path / "none", tmp_path / "here", tmp_path / "later"
    monkeypatch.setattr(setting, "PLACES", places)
    assert found() is None
    for place in places[1:]:
        (place / "FashionMNIST" / "raw").mkdir(parents=True)
        (place / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz").write_bytes(b"")
    assert found() == places[1]


def test_fashion_without_its_folder_is_refused() -> None:
    with pytest.raises(UsageError, match="--data-root DIR"):
        SETTINGS["fashion"].data(0)


def test_fashion_is_read_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    small = setting.replace(SETTINGS["fashion"], count=20, validation=0.25)
    data = small.data(0, tmp_path)
    assert (data.name, len(data.train), data.train.shape) == ("fashion", 20, (1, 14, 14))
