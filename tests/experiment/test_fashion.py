"""Fashion-MNIST: files that are refused, the forms that are taken, and which images are in which part."""

import gzip
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nrfx.errors import UsageError
from nrfx.experiment import fashion as fashion_file
from nrfx.experiment.data import Images
from nrfx.experiment.datasets import DataConfig, dataset
from nrfx.experiment.fashion import fashion
from tests.experiment.test_idx import idx

PUBLISHED = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package has the files."""

TRAIN, TEST = 240, 30


def arrays(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images whose first pixel is their class, with few of class 0."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.arange(10), torch.randint(1, 10, (count - 10,), generator=generator)]).to(torch.uint8)
    x = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
    x[:, 0, 0] = y
    return x, y


def write(folder: Path, packed: bool = True) -> Path:
    """The four files, of 240 and 30 images."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count, seed in (("train", TRAIN, 0), ("t10k", TEST, 1)):
        for name, array in zip(("images-idx3", "labels-idx1"), arrays(count, seed), strict=True):
            path = folder / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return folder


def same(one: Images, other: Images) -> bool:
    return torch.equal(one.x, other.x) and torch.equal(one.y, other.y)


def of_classes(images: Images) -> list[int]:
    return images.y.bincount(minlength=10).tolist()


# What it refuses


def test_a_folder_without_the_files_says_what_it_holds_and_what_is_expected(tmp_path: Path) -> None:
    words = r"expected train-images-idx3-ubyte\.gz, or the same without \.gz, there or in FashionMNIST/raw; found "
    with pytest.raises(UsageError, match=words + "nothing"):
        fashion(tmp_path)
    (tmp_path / "train-images.gz").touch()
    with pytest.raises(UsageError, match=words + r"train-images\.gz"):
        fashion(tmp_path)
    (write(tmp_path) / "t10k-labels-idx1-ubyte.gz").rename(tmp_path / "test-labels.gz")
    with pytest.raises(UsageError, match=r"expected t10k-labels-idx1-ubyte\.gz, .*; found t10k-images.*, \.\.\.\. No"):
        fashion(tmp_path)


CHANGES = {
    "cut short": ("train-images-idx3", lambda x: gzip.compress(idx(x))[:-40], r"train-images.* is damaged"),
    "images as labels": ("t10k-labels-idx1", lambda y: idx(arrays(TEST, 1)[0]), r"t10k-labels.* with 0x00000803"),
    "another side": ("train-images-idx3", lambda x: idx(x[:, :8, :8]), r"train-images.*240 x 8 x 8 pixels; .*28 x 28"),
    "no image": ("train-images-idx3", lambda x: idx(x[:0]), r"train-images.* holds 0 x 28 x 28 pixels"),
    "too few labels": ("train-labels-idx1", lambda y: idx(y[:-3]), r"237 labels, and train-images\S+ 240 images"),
    "another class": ("t10k-labels-idx1", lambda y: idx(y + 1), r"t10k-labels.* has a label 10; expected 0 to 9"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_not_what_its_name_says_is_refused_by_name(change: str, tmp_path: Path) -> None:
    name, changed, words = CHANGES[change]
    x, y = arrays(*((TEST, 1) if name.startswith("t10k") else (TRAIN, 0)))
    (write(tmp_path) / f"{name}-ubyte.gz").write_bytes(changed(x if "images" in name else y))
    with pytest.raises(UsageError, match=words):
        fashion(tmp_path)


@pytest.mark.parametrize("count", [0, 221])
def test_more_images_than_are_left_are_refused(count: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"count is {count}; expected 1 to 220, the images that are not for"):
        fashion(write(tmp_path), count=count)


def test_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fashion is not downloaded"):
        dataset(DataConfig("fashion", root=str(tmp_path), download=True))
    with pytest.raises(UsageError, match="'fashion' needs the folder that its files are in"):
        dataset(DataConfig("fashion"))


# What it gives


def test_every_form_in_which_the_files_come_gives_the_same(tmp_path: Path) -> None:
    packed = fashion(write(tmp_path / "packed"))
    for root in (write(tmp_path / "plain", packed=False), tmp_path / "data"):
        if root.name == "data":
            write(root / "FashionMNIST" / "raw", packed=False)
        other = fashion(root)
        assert all(same(getattr(packed, part), getattr(other, part)) for part in ("train", "validation", "test"))


def test_a_part_is_held_out_and_every_image_is_in_one_part_with_its_class(tmp_path: Path) -> None:
    data = fashion(write(tmp_path))
    assert (len(data.train), len(data.validation), len(data.test)) == (220, 20, 30)
    assert (data.name, data.classes, data.train.shape) == ("fashion", 10, (1, 28, 28))
    x, y = arrays(TRAIN, 0)
    both = torch.cat([data.train.x, data.validation.x])
    scaled = (both - both.amin()) / (both.amax() - both.amin()) * 255
    seen = {tuple(each.flatten().round().int().tolist()): int(of) for each, of in zip(
        scaled, torch.cat([data.train.y, data.validation.y]), strict=True
    )}  # fmt: skip
    assert seen == {tuple(each.flatten().tolist()): int(of) for each, of in zip(x, y, strict=True)}


def test_the_parts_are_normalised_by_the_images_that_are_trained_on(tmp_path: Path) -> None:
    data = fashion(write(tmp_path), count=50)
    assert data.train.x.mean().abs() < 1e-5 and (data.train.x.std() - 1).abs() < 1e-5
    assert data.validation.x.mean().abs() > 1e-5
    raw = arrays(TEST, 1)[0].float()
    shift, scale = raw.mean() - raw.std() * data.test.x.mean() / data.test.x.std(), raw.std() / data.test.x.std()
    assert torch.allclose(data.test.x.squeeze(1) * scale + shift, raw, atol=1e-2)


def test_the_seed_decides_what_is_held_out_and_the_same_seed_decides_the_same(tmp_path: Path) -> None:
    one, again, other = (fashion(write(tmp_path), seed) for seed in (3, 3, 4))
    assert same(one.validation, again.validation) and same(one.train, again.train)
    assert not torch.equal(one.validation.y, other.validation.y)


def test_with_nothing_held_out_the_test_part_is_what_is_validated_on(tmp_path: Path) -> None:
    data = fashion(write(tmp_path), validation=0.0)
    assert len(data.train) == TRAIN and data.validation is data.test


@pytest.mark.parametrize("count", [30, 37])
def test_a_count_takes_as_many_of_each_class_as_there_are_or_one_more(count: int, tmp_path: Path) -> None:
    rare, *others = of_classes(fashion(write(tmp_path), count=count).train)
    assert rare <= 1 and rare + sum(others) == count and max(others) - min(others) <= 1


def test_a_larger_count_holds_the_images_of_a_smaller_one_and_all_hold_out_the_same(tmp_path: Path) -> None:
    few, some, whole = (fashion(write(tmp_path), count=count) for count in (30, 37, None))
    assert few.train.y.tolist() == some.train.y[:30].tolist()
    assert few.validation.y.tolist() == whole.validation.y.tolist()


@pytest.mark.parametrize("size", [14, 7])
def test_a_pixel_of_a_smaller_image_is_the_mean_of_those_in_its_place(size: int, tmp_path: Path) -> None:
    data, times = fashion(write(tmp_path), size=size), 28 // size
    raw = F.avg_pool2d(arrays(TEST, 1)[0].float().unsqueeze(1), times)
    assert data.test.shape == (1, size, size)
    assert torch.allclose(
        data.test.x, (raw - raw.mean()) / raw.std() * data.test.x.std() + data.test.x.mean(), atol=1e-4
    )


def test_larger_images_and_three_colours_are_given_to_networks_that_want_them(tmp_path: Path) -> None:
    data = dataset(DataConfig("fashion", root=str(write(tmp_path)), size=32, channels=3, count=20))
    assert data.train.shape == data.test.shape == (3, 32, 32) and len(data.train) == 20
    assert torch.equal(data.train.x[:, 0], data.train.x[:, 2])


def test_files_are_read_once_as_long_as_they_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    true = fashion_file.read_idx
    monkeypatch.setattr(fashion_file, "read_idx", lambda path, dims: read.append(path.name) or true(path, dims))
    first = fashion(write(tmp_path))
    assert len(read) == 4
    assert same(first.train, fashion(tmp_path).train) and len(read) == 4
    x, _ = arrays(TRAIN, 5)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(idx(x))
    assert not same(first.train, fashion(tmp_path).train) and len(read) == 5


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published files are not installed; tiny ones stand for them")
def test_the_published_files_are_taken_as_they_are() -> None:
    data = fashion(PUBLISHED, size=14)
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5_000, 10_000)
    assert of_classes(data.test) == [1_000] * 10
    assert torch.tensor(of_classes(data.train)).add(torch.tensor(of_classes(data.validation))).tolist() == [6_000] * 10
