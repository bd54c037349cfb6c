"""The callback for the Trainer of transformers: an event, its log, and a run that goes on behind it."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.setups.training import X, Y, kill, network
from nrfx.errors import BudgetError, CheckpointError, TrainingError

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from nrfx.integrations.transformers import RejuvenatorCallback  # noqa: E402

OPTIONS: dict[str, Any] = {"interval": 1, "trigger": 0.8, "threshold": 0.2, "delta_lambda": 1e-4, "max_events": 2}
INPUTS = {"pixel_values": X, "labels": Y}
DATA = [{"pixel_values": x, "labels": y} for x, y in zip(X, Y, strict=True)]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Kills(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    def __init__(self, model: nn.Module) -> None:
        self.model, self.losses = model, []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            kill(self.model)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in (logs or {}):
            self.losses.append(logs["loss"])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def trained(
    model: nn.Module, callback: Any, folder: Path, steps: int, resume: Path | None = None
) -> tuple[Any, list[float]]:
    arguments = transformers.TrainingArguments(
        str(folder), use_cpu=True, per_device_train_batch_size=16, max_steps=steps, learning_rate=0.01, logging_steps=1,
        lr_scheduler_type="constant", report_to=[], save_strategy="steps", save_steps=6, disable_tqdm=True, seed=0,
    )  # fmt: skip
    kills = Kills(model)
    trainer = transformers.Trainer(model, arguments, train_dataset=DATA, callbacks=[callback, kills])
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer, kills.losses


def test_an_event_comes_in_the_training_and_is_logged(tmp_path: Path) -> None:
    model, callback = Model(), RejuvenatorCallback(INPUTS, **OPTIONS)
    trainer, losses = trained(model, callback, tmp_path, 12)
    nr = callback.rejuvenator
    assert nr is not None and nr.events == 1 and losses[-1] < losses[5] and losses[-1] < losses[0]
    held = {p for group in trainer.optimizer.optimizer.param_groups for p in group["params"]}
    assert held == {*model.parameters()}
    seen = [line for line in trainer.state.log_history if "nrfx/r" in line]
    assert len(seen) >= 12 and {line["nrfx/events"] for line in seen} == {0.0, 1.0}


def test_a_training_goes_on_behind_an_event_as_if_it_had_not_been_broken_off(tmp_path: Path) -> None:
    whole = Model()
    _, losses = trained(whole, RejuvenatorCallback(INPUTS, **OPTIONS), tmp_path, 12)
    second, callback = Model(), RejuvenatorCallback(INPUTS, **OPTIONS)
    callback.resume(second, tmp_path / "checkpoint-6")
    assert second.net[0].weight.shape == whole.net[0].weight.shape != network()[0].weight.shape
    _, rest = trained(second, callback, tmp_path / "second", 12, tmp_path / "checkpoint-6")
    assert callback.rejuvenator is not None and callback.rejuvenator.events == 1
    assert rest[-6:] == pytest.approx(losses[6:12], rel=1e-3)
    for name, value in whole.state_dict().items():
        assert torch.allclose(second.state_dict()[name], value, rtol=1e-4, atol=1e-6), name


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="expected params="):
        RejuvenatorCallback(X, "parms=1.0x")
    with pytest.raises(CheckpointError, match=r"nrfx\.json"):
        RejuvenatorCallback(INPUTS).resume(Model(), tmp_path)
    with pytest.raises(TrainingError, match="no submodule 'body'"):
        trained(Model(), RejuvenatorCallback(X, network="body", **OPTIONS), tmp_path, 1)
