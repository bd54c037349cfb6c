"""save and load: a model that is not that of the file is refused, with both forms of the layer that differs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.errors import CheckpointError
from tests.checkpoint.saved import damage, image, rejuvenated
from tests.zoo import calibrated, resnet


def test_what_is_no_model_is_refused(file: Path) -> None:
    with pytest.raises(CheckpointError, match="an instance of the model; it got a function"):
        nrfx.load(file, resnet)  # type: ignore[arg-type]


def test_a_plan_names_no_class_of_its_own_choice(file: Path) -> None:
    damage(file, lambda content, _: content["plan"]["layers"][0]["config"].update(type="Popen"))
    with pytest.raises(CheckpointError, match="of type 'Popen'"):
        nrfx.load(file, resnet())


def test_a_tensor_that_nothing_names_is_refused(file: Path) -> None:
    damage(file, lambda _, tensors: tensors.update({"optimizer/spare": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match="nothing in it says what these tensors are: optimizer/spare"):
        nrfx.load(file, resnet())


def test_missing_and_unexpected_tensors_are_counted_and_named(file: Path) -> None:
    def change(_: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors["fc.scale"] = tensors.pop("fc.bias")

    damage(file, change)
    with pytest.raises(CheckpointError, match=r"lacks 1 that the model has: fc\.bias.*has 1 that.*lacks: fc\.scale"):
        nrfx.load(file, resnet())


def test_a_model_of_another_depth_is_refused(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"layer2\.1\.\S+ is CrossConv2d.* in the file and missing in the model"):
        nrfx.load(file, resnet((1, 1)))


def test_a_model_with_other_outputs_is_refused_with_both_shapes(file: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"fc\.weight is \[5, \d+\] in the file and \[7, 16\] in the model|fc\.bias is \[5\].*\[7\]",
    ):
        nrfx.load(file, resnet(classes=7))


def test_a_model_with_another_kernel_is_refused(file: Path) -> None:
    model = resnet()
    model.conv1 = nn.Conv2d(3, 8, 5, padding=2, bias=False)
    with pytest.raises(CheckpointError, match=r"conv1\S* is \[\d+, 3, 3, 3\] in the file and \[8, 3, 5, 5\]"):
        nrfx.load(file, model)


def test_a_model_with_another_dilation_in_a_cross_layer_is_refused(file: Path) -> None:
    model = resnet()
    model.layer2[1].conv1 = nn.Conv2d(16, 16, 3, padding=2, dilation=2, bias=False)
    with pytest.raises(
        CheckpointError, match=r"layer2\.1\.conv1 is CrossConv2d.*in the file and Conv2d.*dilation=\(2, 2\)"
    ):
        nrfx.load(file, model)


def test_a_model_that_has_cross_layers_already_is_refused_where_the_file_has_none(tmp_path: Path) -> None:
    gm = nrfx.trace(calibrated(resnet()), image())
    nrfx.save(tmp_path / "plain", gm)
    with pytest.raises(CheckpointError, match="is a cross layer in the model and a plain one in the file"):
        nrfx.load(tmp_path / "plain", rejuvenated(resnet))


def test_widths_that_do_not_meet_are_refused_by_the_node(file: Path) -> None:
    def change(_: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("bn1.") and tensors[name].dim()]:
            tensors[name] = tensors[name][:-1].clone()

    damage(file, change)
    with pytest.raises(CheckpointError, match=r"Node bn1 .*a norm over \[\d+\] got \[\d+\]"):
        nrfx.load(file, resnet())


def test_blocks_that_are_not_those_of_their_cross_layer_are_refused(file: Path) -> None:
    def change(_: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        name = next(name for name in tensors if name.endswith("weights.0") and "/" not in name)
        tensors[name] = tensors[name][:-1].clone()

    damage(file, change)
    with pytest.raises(CheckpointError, match=r"weights\.0 is \["):
        nrfx.load(file, resnet())
