"""Datasets by name: files that are missing, the form in which CIFAR is kept, and folders of images."""

import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import datasets

from nrfx.errors import UsageError
from nrfx.experiment.data import batches
from nrfx.experiment.datasets import DataConfig, dataset
from tests.experiment.test_loop import dataset as squares


@pytest.mark.parametrize(("config", "words"), [
    (DataConfig("mnist"), "no dataset 'mnist'; there are digits, shapes"),
    (DataConfig("digits", validation=1.0), "validation is 1.0"),
    (DataConfig("cifar10"), "needs the folder that its files are in"),
    (DataConfig("cifar10", root="/no/such/folder"), "no folder /no/such/folder"),
    (DataConfig("cifar100", root=".", size=64), "32 x 32; size is 64"),
    (DataConfig("folder", root="/no/such/folder"), "no folder /no/such/folder"),
])  # fmt: skip
def test_what_is_not_there_is_named(config: DataConfig, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        dataset(config)


def test_a_root_without_the_files_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cifar10 is not in .*cifar-10-batches-py.*--download"):
        dataset(DataConfig("cifar10", root=str(tmp_path)))
    with pytest.raises(UsageError, match="no folder of images: expected train/CLASS"):
        dataset(DataConfig("folder", root=str(tmp_path)))


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the form of CIFAR-10, with 20 images a file; its checksums cannot be those of the real one."""
    generator = torch.Generator().manual_seed(0)
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    for name, _ in (*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list):
        data = torch.randint(0, 256, (20, 3072), generator=generator, dtype=torch.uint8).numpy()
        (base / name).write_bytes(pickle.dumps({"data": data, "labels": [i % 10 for i in range(20)]}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    return tmp_path


def test_cifar_is_normalised_by_colour_and_a_part_is_held_out(cifar: Path) -> None:
    data = dataset(DataConfig("cifar10", root=str(cifar)))
    assert (len(data.train), len(data.validation), len(data.test)) == (90, 10, 20)
    assert (data.classes, data.train.shape) == (10, (3, 32, 32))
    both = torch.cat([data.train.x, data.validation.x])
    assert both.mean((0, 2, 3)).abs().max() < 1e-4
    assert both.std((0, 2, 3)).sub(1).abs().max() < 1e-4


def test_with_nothing_held_out_the_test_part_is_what_is_validated_on(cifar: Path) -> None:
    data = dataset(DataConfig("cifar10", root=str(cifar), validation=0.0))
    assert len(data.train) == 100
    assert data.validation is data.test


def test_another_seed_holds_out_other_images(cifar: Path) -> None:
    one, other = (dataset(DataConfig("cifar10", root=str(cifar)), seed).validation.x for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images of two classes to train on, two to test, one colour each."""
    for part, count in (("train", 3), ("val", 1)):
        for kind, colour in (("cat", (200, 0, 0)), ("dog", (0, 0, 200))):
            (tmp_path / part / kind).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (40, 30), colour).save(tmp_path / part / kind / f"{number}.png")
    return tmp_path


def test_a_folder_is_read_batch_by_batch_in_its_classes(folder: Path) -> None:
    data = dataset(DataConfig("folder", root=str(folder), size=16, workers=0))
    assert (data.name, data.classes, len(data.train), len(data.test)) == ("folder", 2, 6, 2)
    assert data.validation is data.test and data.train.shape == (3, 16, 16)
    seen = list(data.train.shuffled(4, torch.Generator().manual_seed(0)))
    assert [tuple(batch.x.shape) for batch in seen] == [(4, 3, 16, 16)]
    for batch in (*seen, *data.test.in_order(5)):
        red = batch.x[:, 0].mean((1, 2)) > batch.x[:, 2].mean((1, 2))
        assert torch.equal(batch.y == 0, red)


def test_more_workers_than_processors_read_a_folder_without_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    data = dataset(DataConfig("folder", root=str(folder), size=8, workers=64))
    assert sum(len(batch) for batch in data.test.in_order(1)) == 2


def test_the_generator_decides_the_order_of_a_folder(folder: Path) -> None:
    train = dataset(DataConfig("folder", root=str(folder), size=8, workers=0)).train

    def order(seed: int) -> list[int]:
        return [int(batch.y) for batch in train.shuffled(1, torch.Generator().manual_seed(seed))]

    assert order(0) == order(0)
    assert len({tuple(order(seed)) for seed in range(8)}) > 1


def test_a_part_of_a_folder_can_be_held_out(folder: Path) -> None:
    data = dataset(DataConfig("folder", root=str(folder), size=8, workers=0, validation=0.5))
    assert (len(data.train), len(data.validation), len(data.test)) == (3, 3, 2)
    held = set(data.validation.chosen)
    assert not held & set(data.train.chosen)


def test_classes_that_differ_between_the_parts_are_refused(folder: Path) -> None:
    (folder / "val" / "dog").rename(folder / "val" / "fish")
    (folder / "val" / "newt").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "val" / "newt" / "0.png")
    with pytest.raises(UsageError, match=r"classes in train \(2\) and val \(3\) differ"):
        dataset(DataConfig("folder", root=str(folder)))


def test_a_mirrored_image_is_the_image_or_its_mirror() -> None:
    images = squares().train
    generator = torch.Generator().manual_seed(0)
    originals = {tuple(x.flatten().tolist()): x for x in images.x}
    mirrors = {tuple(x.flip(-1).flatten().tolist()): x for x in images.x}
    seen = [tuple(x.flatten().tolist()) for batch in batches(images, 8, generator, flip=True) for x in batch.x]
    assert all(x in originals or x in mirrors for x in seen)
    assert any(x in originals for x in seen) and any(x in mirrors for x in seen)


@pytest.mark.parametrize(("config", "trained"), [
    (DataConfig("digits", validation=0.0), 1797 - 449),
    (DataConfig("shapes", validation=0.0, count=40, size=8), 30),
])  # fmt: skip
def test_without_a_validation_part_all_but_the_test_part_is_trained_on(config: DataConfig, trained: int) -> None:
    data = dataset(config)
    assert data.validation is data.test and len(data.train) == trained
