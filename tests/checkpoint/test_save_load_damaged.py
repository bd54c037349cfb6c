"""save and load: what is not as it was written is refused by name, and changes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import SGD

import nrfx
from nrfx.errors import CheckpointError
from tests.zoo import resnet


def rewritten(file: Path, change: Callable[[dict[str, str], dict[str, Tensor]], Any]) -> None:
    """Rewrites the file with other metadata or tensors, and the digests as they were."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    change(metadata, tensors)
    save_file(tensors, file, metadata=metadata)


def swap(tensors: dict[str, Tensor], a: str, b: str) -> None:
    tensors[a], tensors[b] = tensors[b], tensors[a]


@pytest.mark.parametrize(("change", "words"), [
    (lambda _, t: t["fc.bias"].mul_(2), r"damaged: fc\.bias is not as"),
    (lambda _, t: t["fc.bias"].view(torch.uint8)[7:8].bitwise_xor_(1), r"damaged: fc\.bias is not as"),
    (lambda _, t: swap(t, "bn1.weight", "bn1.bias"), r"damaged: bn1\.bias, bn1\.weight are not as"),
    (lambda _, t: t.update({"fc.bias": t["fc.bias"].view(torch.int64)}), r"damaged: fc\.bias is not as"),
    (lambda _, t: t.update({"fc.bias": t["fc.bias"][None]}), r"damaged: fc\.bias is not as"),
    (lambda _, t: t.update({"fc.scale": t["fc.bias"].clone()}), r"damaged: fc\.scale is not as"),
    (lambda _, t: t.pop("optimizer/state/fc.bias/momentum_buffer"), r"damaged: optimizer/state/fc\.bias/momentum_buf"),
    (lambda _, t: t.pop("fc.bias"), r"damaged: fc\.bias is not as"),
    (lambda m, _: m.update(nrfx=m["nrfx"].replace("true", "false", 1)), "damaged: the plan is not as nrfx.save wrote"),
    (lambda m, _: m.update(nrfx=m["nrfx"] + " "), "damaged: the plan is not as nrfx.save wrote"),
    (lambda m, _: m.update(digests="{}"), "The digests of .* lacks 'content'"),
    (lambda m, _: m.update(digest=m.pop("digests")), "The metadata of .*: digest is unknown. Known are nrfx, digests"),
])  # fmt: skip
def test_a_damaged_file_is_refused_by_the_name_of_what_was_damaged(
    file: Path, change: Callable[[dict[str, str], dict[str, Tensor]], Any], words: str
) -> None:
    rewritten(file, change)
    model = resnet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        nrfx.load(file, model, SGD(model.parameters(), lr=0.1))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
