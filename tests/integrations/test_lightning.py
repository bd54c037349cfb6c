"""The callback for Lightning: an event in the middle of a fit, a run that goes on behind it, and what is refused."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import nrfx
from benchmarks.setups.training import X, Y, kill, network
from nrfx.errors import BudgetError, CheckpointError, TrainingError
from tests.integrations.networks import Images

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    L = pytest.importorskip("lightning.pytorch")

from nrfx.integrations.lightning import RejuvenatorCallback

OPTIONS: dict[str, Any] = {"interval": 1, "trigger": 0.8, "threshold": 0.2, "delta_lambda": 1e-4}


class Classifier(L.LightningModule):  # type: ignore[misc, name-defined]
    """A user's module: channels die ahead of a step, then an event must come."""

    def __init__(self, dies: int = 3, manual: bool = False) -> None:
        super().__init__()
        self.net = network()
        self.dies, self.losses = dies, []
        self.automatic_optimization = not manual

    def training_step(self, batch: Any, index: int) -> Tensor:
        if self.global_step == self.dies:
            kill(self.net)
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.losses.append(float(loss))
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9)]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = dict(os.environ)  # the strategy ddp leaves there what a process of a group needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    os.environ.clear()
    os.environ.update(before)


def fit(module: Any, callback: Any, folder: Path, epochs: int, checkpoint: str | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    logger = L.loggers.CSVLogger(folder)
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, callbacks=[callback], logger=logger, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(Images(), batch_size=16), ckpt_path=checkpoint, weights_only=False)
    return trainer


def test_an_event_comes_in_the_fit_and_is_logged(tmp_path: Path) -> None:
    module = Classifier()
    callback = RejuvenatorCallback(example_inputs=X, restart=True, **OPTIONS)
    trainer = fit(module, callback, tmp_path, 12, gradient_clip_val=1.0)
    nr = callback.rejuvenator
    assert nr is not None and nr.events == 1 and module.losses[-1] < module.losses[5]
    held = {p for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {*module.parameters()}
    module.eval()
    assert torch.allclose(module.net(X), nr.module.eval()(X))
    logged = (next(tmp_path.rglob("metrics.csv"))).read_text()
    assert all(name in logged for name in ("nrfx/r", "nrfx/lambda", "nrfx/params", "nrfx/flops", "nrfx/events"))


def test_a_fit_goes_on_behind_an_event_as_if_it_had_not_been_broken_off(tmp_path: Path) -> None:
    whole = Classifier()
    fit(whole, RejuvenatorCallback(example_inputs=X, max_events=2, **OPTIONS), tmp_path / "whole", 12)
    first = Classifier()
    trainer = fit(first, RejuvenatorCallback(example_inputs=X, max_events=2, **OPTIONS), tmp_path / "first", 6)
    trainer.save_checkpoint(tmp_path / "six.ckpt")
    second = Classifier()
    callback = RejuvenatorCallback(example_inputs=X, max_events=2, **OPTIONS)
    fit(second, callback, tmp_path / "second", 12, str(tmp_path / "six.ckpt"))
    assert callback.rejuvenator is not None and callback.rejuvenator.events == 1 and callback.rejuvenator.steps == 12
    assert first.losses == whole.losses[:6]
    assert second.losses == pytest.approx(whole.losses[6:], rel=1e-5)
    assert second.net.state_dict().keys() == whole.net.state_dict().keys()


def test_manual_optimization_and_ddp_have_events_too(tmp_path: Path) -> None:
    for name, module, options in (
        ("manual", Classifier(manual=True), {}),
        ("ddp", Classifier(), {"strategy": "ddp"}),
    ):
        callback = RejuvenatorCallback(example_inputs=X, network="net", **OPTIONS)
        fit(module, callback, tmp_path / name, 10, **options)
        assert callback.rejuvenator is not None and callback.rejuvenator.events == 1, name
        assert module.losses[-1] < module.losses[5], name
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_what_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="expected params="):
        RejuvenatorCallback("parms=1.0x")
    with pytest.raises(TrainingError, match=r"example_inputs=, or the Classifier an example_input_array"):
        fit(Classifier(), RejuvenatorCallback(**OPTIONS), tmp_path, 1)
    with pytest.raises(TrainingError, match=r"no submodule 'model'. It has net \(Sequential\)"):
        fit(Classifier(), RejuvenatorCallback(network="model", example_inputs=X, **OPTIONS), tmp_path, 1)
    two = Classifier()
    two.other = nn.Linear(1, 1)
    with pytest.raises(TrainingError, match=r"It has net \(Sequential\), other \(Linear\) with parameters. Name one"):
        fit(two, RejuvenatorCallback(example_inputs=X, **OPTIONS), tmp_path, 1)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    trainer = fit(Classifier(), RejuvenatorCallback(example_inputs=X, **OPTIONS), tmp_path, 6)
    trainer.save_checkpoint(tmp_path / "six.ckpt")
    other = Classifier()
    other.net[8] = nn.Linear(16, 7)
    with pytest.raises(CheckpointError, match="RejuvenatorCallback"):
        fit(other, RejuvenatorCallback(example_inputs=X, **OPTIONS), tmp_path, 8, str(tmp_path / "six.ckpt"))
    assert other.net[8].weight.shape == (7, 16) and nrfx.Budget and len(Y) == len(X)
