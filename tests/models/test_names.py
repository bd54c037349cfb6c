from pathlib import Path

import pytest
import torch
from torch import nn

import nrfx
from nrfx.errors import CheckpointError, UsageError
from nrfx.models import resolve
from tests import zoo

INSTANCE = nn.Linear(3, 2)
NUMBER = 3


def failing() -> nn.Module:
    raise RuntimeError("no such width\nand more")


def no_module() -> int:
    return 3


def weights(model: nn.Module, path: Path) -> str:
    torch.save(model.state_dict(), path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet81", "resnet18"),
        ("tests.zoo:vgg_bm", "vgg_bn"),
        ("nrfx:resnet51", "close to it: resnet50"),
        ("timm:resnet81", "timm:resnet"),
        ("no_such_package.models:net", "no module 'no_such_package'"),
        ("folder/net.py:make", "Write folder.net:make."),
        ("no_such_net", "One of your own is package.module:factory"),
        ("tests.models.test_names:failing", "RuntimeError: no such width"),
        ("tests.models.test_names:no_module", "returned something of type int"),
        ("tests.models.test_names:NUMBER", "is of type int"),
    ],
)
def test_what_is_no_model_is_named_with_what_is_close(name: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(name)
    assert expected in str(caught.value)


def test_a_missing_import_of_the_users_module_is_told_from_a_missing_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imports_what_is_absent.py").write_text("import surely_not_installed\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="imports 'surely_not_installed', which is not installed"):
        resolve("imports_what_is_absent:net")


def test_the_current_directory_is_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lies_in_the_current_folder.py").write_text("from torch import nn\nnet = nn.Identity()\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(resolve("lies_in_the_current_folder:net").module, nn.Identity)


def test_an_instance_and_a_factory_will_do() -> None:
    assert resolve("tests.models.test_names:INSTANCE").module is INSTANCE
    assert isinstance(resolve("tests.zoo:vgg_bn").module, nn.Sequential)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("resnet18", (1, 3, 224, 224)), ("r3d_18", (1, 3, 16, 112, 112)), ("tests.zoo:vgg_bn", (1, 3, 224, 224))],
)
def test_example_inputs_fit_the_model(name: str, shape: tuple[int, ...]) -> None:
    assert [tuple(x.shape) for x in resolve(name).example_inputs] == [shape]


def test_shapes_and_classes_can_be_given() -> None:
    resolved = resolve("resnet18", num_classes=7, shapes=[(2, 3, 32, 32)])
    assert resolved.module.get_parameter("fc.weight").shape[0] == 7
    assert resolved.example_inputs[0].shape == (2, 3, 32, 32)


def test_a_network_that_nrfx_saved_comes_back_with_its_widths(tmp_path: Path) -> None:
    small = nrfx.compact(nrfx.trace(zoo.with_dead(zoo.vgg_bn()), torch.zeros(zoo.IMAGE))).module
    nrfx.save(tmp_path / "small.safetensors", small)
    loaded = resolve("tests.zoo:vgg_bn", weights=str(tmp_path / "small.safetensors")).module
    assert len(loaded.get_parameter("0.weight")) == len(small.get_parameter("0.weight")) < 8


def test_a_file_that_is_absent_or_no_weights_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "garbage.pt").write_bytes(b"nothing of the kind")
    (tmp_path / "garbage.safetensors").write_bytes(b"nothing of the kind")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, words in {
        "absent.pt": "no such file",
        "garbage.pt": "cannot be read as weights",
        "garbage.safetensors": "cannot be read as weights",
        "list.pt": "holds no state_dict but a list",
    }.items():
        with pytest.raises(CheckpointError, match=words) as caught:
            resolve("tests.zoo:vgg_bn", weights=str(tmp_path / name))
        assert name in str(caught.value)


def test_a_pickled_model_is_refused_without_the_advice_of_torch(tmp_path: Path) -> None:
    torch.save(nn.Identity(), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match="a pickled model rather than its state_dict") as caught:
        resolve("tests.zoo:vgg_bn", weights=str(tmp_path / "whole.pt"))
    assert "weights_only" not in str(caught.value)


def test_weights_that_do_not_fit_are_refused_with_the_first_that_differ_and_their_number(tmp_path: Path) -> None:
    other = zoo.vgg_bn(widths=(8, 12, 20))
    with pytest.raises(CheckpointError) as caught:
        resolve("tests.zoo:vgg_bn", weights=weights(other, tmp_path / "wider.pt"))
    assert "tensors are of another shape (8.weight is [20, 12, 3, 3], the model's [16, 12, 3, 3])" in str(caught.value)
    with pytest.raises(CheckpointError) as caught:
        resolve("tests.zoo:resnet", weights=weights(other, tmp_path / "other.pt"))
    assert "missing (first conv1.weight)" in str(caught.value)
    assert "unknown to the model (first 0.weight)" in str(caught.value)


def test_old_files_without_counters_of_batches_fit(tmp_path: Path) -> None:
    state = {key: value for key, value in zoo.vgg_bn().state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pt")
    resolve("tests.zoo:vgg_bn", weights=str(tmp_path / "old.pt"))
