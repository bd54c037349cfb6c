"""Trainers that have the loop themselves."""

import tempfile
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import nrfx
from benchmarks.setups.setup import setup
from benchmarks.setups.training import (
    EVENT,
    Training,
    X,
    Y,
    agree,
    check_held,
    check_same_everywhere,
    expect,
    in_a_group,
    kill,
    network,
    of_all,
)

GROUP = "trainers"

OPTIONS: dict[str, Any] = {"interval": 1, "trigger": 0.8, "threshold": 0.2, "delta_lambda": 1e-4}


def _ended(nr: Any, model: nn.Module, optimizers: list[Any], losses: list[float]) -> str:
    expect(nr is not None and nr.events == 1, f"events: {nr and nr.events}")
    losses = of_all(losses)
    expect(losses[-1] < min(losses[0], losses[EVENT + 1]), f"the loss does not fall: {losses}")
    check_held(optimizers, list(model.parameters()))
    check_same_everywhere(model)
    count = agree(nr.module, [model], X)
    parameters = len(list(model.parameters()))
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f}, {parameters} parameters held, {count} holders agree"


@setup(GROUP, "Lightning, nrfx.integrations.lightning", "lightning")
def _lightning() -> str:
    return lit()


@setup(GROUP, "Lightning, manual optimization", "lightning")
def _lightning_manual() -> str:
    return lit(manual=True)


@setup(GROUP, "Lightning, bf16-mixed, accumulated gradients, clipping", "lightning")
def _lightning_mixed() -> str:
    return lit(precision="bf16-mixed", accumulate_grad_batches=2, gradient_clip_val=1.0)


@setup(GROUP, "Lightning, strategy ddp, one process", "lightning")
def _lightning_ddp() -> str:
    return lit(strategy="ddp")


def lit(manual: bool = False, devices: int = 1, **options: Any) -> str:
    """Lightning, across an event."""
    import lightning.pytorch as L  # noqa: PLC0415

    from nrfx.integrations.lightning import RejuvenatorCallback  # noqa: PLC0415

    class Classifier(L.LightningModule):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.automatic_optimization = network(), not manual
            self.losses: list[float] = []

        def training_step(self, batch: Any, index: int) -> Tensor:
            if len(self.losses) == EVENT:
                kill(self.net)
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.losses.append(float(loss))
            if manual:
                optimizer: Any = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    module, callback = Classifier(), RejuvenatorCallback(example_inputs=X, **OPTIONS)
    copies = int(options.get("accumulate_grad_batches", 1))
    loader = DataLoader(TensorDataset(X.repeat(copies, 1, 1, 1), Y.repeat(copies)), batch_size=16)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=14, accelerator="cpu", devices=devices, callbacks=[callback], logger=False,
            default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, **options,
        )  # fmt: skip
        trainer.fit(module, loader)
    return _ended(callback.rejuvenator, module.net, trainer.optimizers, module.losses)


class _Labelled(nn.Module):
    """A model as the Trainer of transformers calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.losses: list[float] = []

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


@setup(GROUP, "transformers Trainer, nrfx.integrations.transformers", "transformers", "accelerate")
def _transformers() -> str:
    return hugging()


@setup(GROUP, "transformers Trainer, bf16, accumulated gradients, network= a submodule", "transformers", "accelerate")
def _transformers_mixed() -> str:
    return hugging(inside=True, bf16=True, gradient_accumulation_steps=2)


@setup(GROUP, "transformers Trainer, bf16, the model as a whole", "transformers", "accelerate")
def _transformers_mixed_whole() -> str:
    return hugging(bf16=True)


def hugging(inside: bool = False, **options: Any) -> str:
    """The Trainer of transformers, across an event."""
    import transformers  # noqa: PLC0415

    from nrfx.integrations.transformers import RejuvenatorCallback  # noqa: PLC0415

    model = _Labelled()
    inputs: Any = X if inside else {"pixel_values": X, "labels": Y}
    callback = RejuvenatorCallback(inputs, network="net" if inside else "", **OPTIONS)

    class Kills(transformers.TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == EVENT:
                kill(model.net)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in (logs or {}):
                model.losses.append(float(logs["loss"]))

    copies = int(options.get("gradient_accumulation_steps", 1))
    data = [{"pixel_values": x, "labels": y} for _ in range(copies) for x, y in zip(X, Y, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, use_cpu=True, per_device_train_batch_size=16, num_train_epochs=14, learning_rate=0.01,
            logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True, **options,
        )  # fmt: skip
        trainer: Any = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback, Kills()])
        trainer.train()
    inner = trainer.optimizer.optimizer
    nr = callback.rejuvenator
    expect(nr is not None and nr.events == 1, f"events: {nr and nr.events}")
    check_held([inner], list(model.parameters()))
    check_same_everywhere(model)
    dtypes: list[torch.dtype] = []
    with _Convolved(dtypes):
        trainer.model(X, Y)
    expect(bool(options.get("bf16")) is (dtypes[0] is torch.bfloat16), f"convolutions run in {dtypes[0]}")
    model.losses = of_all(model.losses)
    expect(model.losses[-1] < model.losses[0], f"the loss does not fall: {model.losses}")
    return f"loss {model.losses[0]:.2f} to {model.losses[-1]:.2f}, {len(list(model.parameters()))} parameters held"


@setup(GROUP, "accelerate, the Rejuvenator built ahead of prepare", "accelerate")
def _accelerate_ahead() -> str:
    return accelerated(ahead=True)


@setup(GROUP, "accelerate, the Rejuvenator given what prepare returned", "accelerate")
def _accelerate_behind() -> str:
    return accelerated(ahead=False)


@setup(GROUP, "accelerate, bf16, the Rejuvenator built ahead of prepare", "accelerate")
def _accelerate_mixed() -> str:
    return accelerated(ahead=True, mixed_precision="bf16")


@setup(GROUP, "accelerate, bf16, the Rejuvenator given what prepare returned", "accelerate")
def _accelerate_mixed_behind() -> str:
    return accelerated(ahead=False, mixed_precision="bf16")


@setup(GROUP, "accelerate, bf16, a prepared optimizer and accelerator.autocast()", "accelerate")
def _accelerate_autocast() -> str:
    return accelerated(ahead=True, prepare_model=False, mixed_precision="bf16")


def accelerated(ahead: bool, prepare_model: bool = True, **options: Any) -> str:
    """A loop with accelerate, across an event."""
    from accelerate import Accelerator  # noqa: PLC0415

    accelerator = Accelerator(cpu=True, **options)
    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    budget = nrfx.Budget.relative(model, params=1.0, example_inputs=X)

    def watched(one: nn.Module, optimizer: Any) -> nrfx.Rejuvenator:
        return nrfx.Rejuvenator(one, optimizer, budget, example_inputs=X, **OPTIONS).attach()

    nr = watched(model, inner) if ahead else None
    optimizer = accelerator.prepare(inner)
    prepared = accelerator.prepare(model) if prepare_model else model
    nr = nr or watched(prepared, optimizer)
    dtypes: list[torch.dtype] = []
    losses = []
    x, y = (each.chunk(accelerator.num_processes)[accelerator.process_index] for each in (X, Y))
    for number in range(14):
        if number == EVENT:
            kill(model)
        with accelerator.accumulate(prepared):
            with _Convolved(dtypes), nullcontext() if prepare_model else accelerator.autocast():
                loss = F.cross_entropy(prepared(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
            optimizer.step()
        losses.append(float(loss))
    said = _ended(nr, model, [inner], losses)
    expect(len({*dtypes}) == 1, f"convolutions run in {dtypes[0]} ahead of the event, in {dtypes[-1]} behind it")
    return f"{said}, convolutions in {dtypes[0]}"


class _Convolved(TorchDispatchMode):
    """Notes the dtypes in which convolutions are computed."""

    def __init__(self, dtypes: list[torch.dtype]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtypes = dtypes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "convolution" in str(func):
            self._dtypes.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@setup(GROUP, "timm: create_optimizer_v2, NativeScaler, schedule, ModelEmaV3 behind the search", "timm")
def _timm() -> str:
    timm: Any = import_module("timm")
    for room in ("optim", "scheduler", "utils"):
        import_module(f"timm.{room}")

    def make(gm: nn.Module) -> Any:
        return timm.optim.create_optimizer_v2(
            gm, opt="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, filter_bias_and_bn=True
        )

    one = Training(optimizer=make)
    schedule, _ = timm.scheduler.create_scheduler_v2(
        one.optimizer, sched="cosine", num_epochs=14, warmup_epochs=2, warmup_lr=0.02
    )
    scaler = timm.utils.NativeScaler(device="cpu")
    held: dict[str, Any] = {}
    steps = 0

    def step() -> Tensor:
        nonlocal steps
        loss = one.mixed_loss()
        one.optimizer.zero_grad()
        scaler(loss, one.optimizer, clip_grad=1.0, parameters=one.model.parameters())
        if not one.nr.searching:
            held.setdefault("ema", timm.utils.ModelEmaV3(one.model, decay=0.5)).update(one.model, step=steps)
        steps += 1
        schedule.step(steps)
        return loss

    said = one.train(step).checked()
    for ours, theirs in zip(one.model.parameters(), held["ema"].module.parameters(), strict=True):
        expect(ours.shape == theirs.shape, "the average has other shapes")
    return f"{said}; the average has its shapes"


@setup(GROUP, "fully_shard (FSDP2), one process, gloo")
def _fsdp2() -> str:
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

    def sharded(model: nn.Module) -> nn.Module:
        fully_shard(model)
        return model

    return in_a_group(sharded)


@setup(GROUP, "FullyShardedDataParallel (FSDP1), one process, gloo")
def _fsdp1() -> str:
    from torch.distributed.fsdp import FullyShardedDataParallel  # noqa: PLC0415

    return in_a_group(lambda model: FullyShardedDataParallel(model, device_id=torch.device("cpu")))
