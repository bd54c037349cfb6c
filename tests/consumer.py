"""What a user of nrfx writes, under `mypy --strict`: each value has the type that is said of it (installed.py)."""

from pathlib import Path
from typing import assert_type

import torch
from torch import Tensor, nn

import nrfx
from nrfx.analysis.utilization import Share
from nrfx.deploy.latency import Latency, latency
from nrfx.training.recalibrate import recalibrated
from nrfx.training.schedule import suggest_delta_lambda


def train(model: nn.Module, images: Tensor, labels: Tensor, folder: Path) -> nn.Module:
    gm = nrfx.trace(model, images)
    assert_type(gm, nrfx.TracedModule)
    optimizer = torch.optim.SGD(gm.parameters(), lr=0.1)
    budget = nrfx.Budget.relative(gm, params=1.0)
    assert_type(budget, nrfx.Budget)
    delta = suggest_delta_lambda(lr=0.1, steps=400, interval=100)
    assert_type(delta, float)
    nr = nrfx.Rejuvenator(gm, optimizer, budget, interval=100, delta_lambda=delta, scheme="dense", on_event=print)
    for _ in range(3):
        nn.functional.cross_entropy(gm(images), labels).backward()
        nr.penalize()
        optimizer.step()
        seen = nr.step()
        assert_type(seen, nrfx.Measurement | nrfx.Event | None)
        if isinstance(seen, nrfx.Event):
            assert_type(seen.result, nrfx.Rejuvenation)
        elif seen is not None:
            assert_type(seen.params, Share)
            assert_type(seen.params.ratio, float)
    assert_type(nr.attach(), nrfx.Rejuvenator)
    nrfx.save(folder / "model.safetensors", gm, optimizer=optimizer, rejuvenator=nr, extra={"epoch": 3})
    assert_type(nrfx.load(folder / "model.safetensors", model), nrfx.TracedModule)
    with recalibrated(gm, [images]):
        gm.eval()
    return gm


def rewrite(model: nn.Module, images: Tensor, file: str) -> float:
    gm = nrfx.trace(model, images)
    seen = nrfx.utilization(gm, liveness=nrfx.liveness.Activation([images], tau=0.1))
    assert_type(seen, nrfx.Utilization)
    assert_type(seen.params.live, int)
    assert_type(nrfx.why(gm, "0"), nrfx.Why)
    result = nrfx.rejuvenate(gm, nrfx.Budget(params=1_000), scheme="removed", residual="coupled")
    assert_type(result, nrfx.Rejuvenation)
    assert_type(result.module, nrfx.TracedModule)
    assert_type(nrfx.compact(gm, liveness="weight").notes, tuple[str, ...])
    assert_type(nrfx.verify(gm, result, images), float)
    assert_type(nrfx.export(result.module, file), nrfx.Exported)
    assert_type(nrfx.plain(result.module), torch.fx.GraphModule)
    assert_type(latency(result.module), Latency)
    result.to_html(file, title="a network")
    nrfx.apply(model, result)
    optimizer = torch.optim.AdamW(gm.parameters())
    for note in nrfx.migrate(optimizer, gm, result):
        assert_type(note, str)
    try:
        nrfx.recalibrate(result.module, [images], result.origins)
    except nrfx.TrainingError as error:
        assert_type(error, nrfx.TrainingError)
    loss = nrfx.HeadLoss(nn.CrossEntropyLoss())
    assert_type(loss(result.module, images, images), Tensor)
    return result.alpha


def wrong(model: nn.Module, images: Tensor) -> None:
    """Each line is a mistake that a type checker must see; an ignore that is not needed is an error under --strict."""
    gm = nrfx.trace(model, images)
    nrfx.rejuvenate(gm, nrfx.Budget(params=1), scheme="thick")  # type: ignore[arg-type]
    nrfx.rejuvenate(gm)  # type: ignore[call-arg]
    nrfx.Budget(params="many")  # type: ignore[arg-type]
    nrfx.rejuvenat(gm)  # type: ignore[attr-defined]
