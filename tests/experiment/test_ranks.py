"""A run of two processes: the numbers of one, its files from the first, and resumed by one process alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nrfx
from nrfx.errors import UsageError
from nrfx.experiment.config import RunConfig
from nrfx.experiment.loop import Run, train
from nrfx.experiment.record import Epoch, Silent
from tests.experiment.test_loop import dataset
from tests.many import in_processes
from tests.training.test_together import network

CONFIG = RunConfig(
    *(3, 8), lr=0.05, interval=5, search=1.0, max_events=2, delta_lambda=0.01, shift=1, flip=True, scheme="removed"
)


class BreakingOff(Silent):
    def trained(self, epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt


def run(out: Path | None, breaks: bool = False, resume: bool = False, config: RunConfig = CONFIG) -> Run:
    gm = nrfx.trace(network(1), torch.zeros(2, 3, 8, 8))
    budget = nrfx.Budget.relative(gm, params=1.0)
    with torch.no_grad():
        for path in ("1", "4"):
            gamma = gm.get_parameter(f"{path}.weight")
            gamma[: gamma.numel() // 2] = 0
    watcher = BreakingOff() if breaks else None
    return train(gm, dataset(20, 8, 4), config, budget, out, watcher, resume)


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [each.detach().clone() for each in module.parameters()]


def in_two(rank: int, out: Path) -> tuple[Any, ...]:
    whole = run(out / "whole")
    with pytest.raises(UsageError, match="A batch of 7 cannot be shared by 2 processes"):
        run(None, config=replace(CONFIG, batch_size=7))
    try:
        run(out / "broken", breaks=True)
    except KeyboardInterrupt:
        logged = [replace(epoch, seconds=0) for epoch in whole.epochs], whole.events
        return whole.numbers(), weights(whole.module), logged
    raise AssertionError


def test_two_processes_give_the_run_of_one_which_can_go_on_alone(tmp_path: Path) -> None:
    ours, theirs = in_processes(in_two, tmp_path)
    assert not isinstance(ours, str), ours
    assert ours[2] == theirs[2] and ours[2][1][0].lagging_loss_before != ours[2][1][0].validation_loss_before
    alone = run(None)
    assert len(alone.events) == 1 and ours[0] == theirs[0] and ours[0]["events"][0]["step"] == 5
    resumed = run(tmp_path / "broken", resume=True)
    for a, b, c, d in zip(ours[1], theirs[1], weights(alone.module), weights(resumed.module), strict=True):
        assert torch.equal(a, b) and torch.allclose(a, c, atol=1e-5) and torch.allclose(a, d, atol=1e-5)
    assert (tmp_path / "whole" / "log.jsonl").read_text().count("\n") == 4
    assert abs(resumed.epochs[-1].loss - alone.epochs[-1].loss) < 1e-5
