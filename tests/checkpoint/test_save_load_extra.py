"""What belongs to a run beside its network: saved in the same file, given back as it was, nothing pickled."""

import math
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

import nrfx
from nrfx.errors import CheckpointError
from tests.checkpoint.saved import damage, rejuvenated
from tests.zoo import resnet


def there_and_back(extra: dict[str, Any], folder: Path) -> dict[str, Any]:
    nrfx.save(folder / "net", rejuvenated(resnet), extra=extra)
    found: dict[str, Any] = {}
    nrfx.load(folder / "net", resnet(), extra=found)
    return found


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"lr": 1, "hook": print}, "extra/hook is a builtin_function_or_method, and a file holds numbers, text and"),
        ({"run": {"scaler": nn.Linear(2, 2)}}, "extra/run/scaler is a Linear"),
        ({"a": {(1, 2): 3}}, r"extra/a has a key \(1, 2\); expected numbers and text"),
        ({"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}}, "extra/a/b is the place of two tensors"),
        ({1: torch.ones(1), "1": torch.zeros(1)}, "extra/1 is the place of two tensors"),
        ([("epoch", 3)], "extra is a list; expected a dict"),
    ],
)  # fmt: skip
def test_what_is_no_plain_value_is_refused_by_its_place_and_nothing_is_written(
    tmp_path: Path, extra: Any, words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        nrfx.save(tmp_path / "net", rejuvenated(resnet), extra=extra)
    assert not list(tmp_path.iterdir())


def test_extra_is_asked_of_a_file_that_has_it(tmp_path: Path) -> None:
    nrfx.save(tmp_path / "net", rejuvenated(resnet))
    with pytest.raises(CheckpointError, match=r"holds no extra\. Load it without extra="):
        nrfx.load(tmp_path / "net", resnet(), extra={})
    with pytest.raises(CheckpointError, match="extra is a list; expected a dict that is to be filled"):
        nrfx.load(tmp_path / "net", resnet(), extra=[])  # type: ignore[arg-type]
    nrfx.save(tmp_path / "net", rejuvenated(resnet), extra={"epoch": 3})
    nrfx.load(tmp_path / "net", resnet())  # who does not ask gets none


@pytest.mark.parametrize("where", ["counter", "pairs", "dict", "a list"])
def test_extra_that_nrfx_did_not_write_is_refused(tmp_path: Path, where: str) -> None:
    nrfx.save(tmp_path / "net", rejuvenated(resnet), extra={"milestones": Counter({30: 1})})
    broken = {"counter": {"counter": {"list": []}}, "pairs": {"pairs": [[1]]}, "dict": {"dict": 3}, "a list": [1]}[
        where
    ]

    def change(content: dict[str, Any], _: Any) -> None:
        content["extra"] = {"dict": {"milestones": broken}} if where != "a list" else {"pairs": [broken]}

    damage(tmp_path / "net", change)
    found: dict[str, Any] = {}
    with pytest.raises(CheckpointError, match="net: its extra"):
        nrfx.load(tmp_path / "net", resnet(), extra=found)
    assert not found


def test_plain_values_and_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    extra: dict[str, Any] = {
        "epoch": 3, "best": math.inf, "loss": 0.1, "name": "é/\"run", "none": None, "flag": True,
        "seen": [1, (2, [3.5, "x"]), {}], "by_class": {0: 0.5, 1: 0.25, None: 1},
        "counts": Counter({30: 1, 60: 2}),
    }  # fmt: skip
    tensors = {"rng": torch.get_rng_state(), "ema": OrderedDict(a=torch.ones(2).half(), b=torch.tensor(3))}
    found = there_and_back({**extra, **tensors}, tmp_path)
    assert {name: found[name] for name in extra} == extra
    assert type(found["counts"]) is Counter and list(found) == [*extra, *tensors]
    assert torch.equal(found["rng"], tensors["rng"]) and found["ema"]["a"].dtype == torch.float16
    assert not found["ema"]["b"].dim() and found["ema"]["b"].dtype == torch.int64


def test_schedules_and_averages_go_on(tmp_path: Path) -> None:
    gm = rejuvenated(resnet)
    optimizer = SGD(gm.parameters(), lr=0.1, momentum=0.9)
    makers = (
        lambda: MultiStepLR(optimizer, [2, 5]), lambda: CosineAnnealingLR(optimizer, 10),
        lambda: OneCycleLR(optimizer, 0.1, total_steps=10), lambda: ReduceLROnPlateau(optimizer),
    )  # fmt: skip
    average = AveragedModel(gm)
    average.update_parameters(gm)
    states = [make().state_dict() for make in makers]
    found = there_and_back({"schedules": states, "average": average.state_dict()}, tmp_path)
    for make, state, was in zip(makers, found["schedules"], states, strict=True):
        schedule = make()
        schedule.load_state_dict(state)
        assert schedule.state_dict() == was
    loaded = nrfx.load(tmp_path / "net", resnet())
    twin = AveragedModel(loaded)
    twin.load_state_dict(found["average"])
    assert all(torch.equal(a, b) for a, b in zip(average.parameters(), twin.parameters(), strict=True))
