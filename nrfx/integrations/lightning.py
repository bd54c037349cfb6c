"""A callback for Lightning, also under its older name pytorch_lightning.

The network inside of the LightningModule is traced when the optimizers are there, its Rejuvenator attached to them.
Checkpoints hold what a run needs to go on behind an event. Of strategies: one device, and DistributedDataParallel.
"""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nrfx.errors import CheckpointError, TrainingError
from nrfx.files import parsed
from nrfx.integrations.architecture import Kept, kept, network_in, rebuild, under
from nrfx.integrations.attached import attached, numbers
from nrfx.plan.budget import Budget
from nrfx.plan.budget_request import parse_budget
from nrfx.tracing import TracedModule, as_traced
from nrfx.tracing.graph.original import traced_of
from nrfx.training.rejuvenator import Rejuvenator


def _callback() -> Any:
    """The class Callback of the Lightning that is in use, or else of the one that is installed."""
    names = ("lightning.pytorch", "pytorch_lightning")
    for name in (*(name for name in names if name in sys.modules), *names):
        try:
            return importlib.import_module(name).Callback
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError("nrfx.integrations.lightning needs Lightning: pip install lightning", name="lightning")


class RejuvenatorCallback(_callback()):  # type: ignore[misc]
    """Rejuvenates the network of a LightningModule while a Lightning Trainer trains it.

    The callback traces the network when the fit starts, attaches a Rejuvenator to all optimizers of its module,
    and logs `nrfx/r`, `nrfx/lambda`, `nrfx/params`, `nrfx/flops` and `nrfx/events`. An event changes the network in
    place: the attributes of the LightningModule stay what they are. `Trainer.fit(..., ckpt_path=)` goes on behind
    an event, with a fresh LightningModule of the same class.

    Args:
        budget: what the network may cost after an event: an `nrfx.Budget`, or a text such as "params=1.0x" (of what it
            costs when the fit starts).
        network: the path of the network inside of the LightningModule, such as "model"; "" for the LightningModule
            itself. None for its only child with parameters.
        example_inputs: what the network is called with, one tensor or a tuple; None for the LightningModule's
            `example_input_array`.
        restart: whether an event sets the learning rate schedules back to their epoch 0, as the paper does.
        options: those of `nrfx.Rejuvenator`, such as `interval`, `trigger`, `delta_lambda`, `until`.

    Attributes:
        rejuvenator: the Rejuvenator, from the start of the fit on; None before.

    Raises:
        TrainingError: when the fit starts: which module is the network, or what it is called with, cannot be told; the
            strategy is neither one device nor DistributedDataParallel; or what `nrfx.Rejuvenator` raises.
        CheckpointError: when a checkpoint is loaded that does not fit the LightningModule.

    >>> RejuvenatorCallback("params=1.0x", network="model", interval=100).state_key
    'nrfx.RejuvenatorCallback[model]'
    """

    def __init__(
        self,
        budget: Budget | str = "params=1.0x",
        network: str | None = None,
        example_inputs: Tensor | tuple[Tensor, ...] | None = None,
        restart: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(budget, str):
            parse_budget(budget)  # a mistake is told now, and not when the fit starts
        self._budget, self._network, self._example_inputs = budget, network, example_inputs
        self._restart, self._options = restart, options
        self._traced: TracedModule | None = None
        self._loaded: Kept | None = None
        self._told = -1
        self.rejuvenator: Rejuvenator | None = None

    @property
    def state_key(self) -> str:
        """The name of the callback's state in a checkpoint."""
        return f"nrfx.RejuvenatorCallback[{self._network or ''}]"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Sees to it that a checkpoint finds the network that it was saved from."""
        if stage != "fit":
            return
        self._traced = self._loaded = None
        own = pl_module.on_load_checkpoint

        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            vars(pl_module).pop("on_load_checkpoint", None)
            own(checkpoint)
            self._load(pl_module, checkpoint)

        pl_module.__dict__["on_load_checkpoint"] = on_load_checkpoint

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Builds and attaches the Rejuvenator."""
        vars(pl_module).pop("on_load_checkpoint", None)
        if not isinstance(trainer.strategy.model, type(pl_module) | DistributedDataParallel):
            raise TrainingError(
                f"The strategy {type(trainer.strategy).__name__} shards or wraps the network in a "
                f"{type(trainer.strategy.model).__name__}, in which an event cannot change it: use one device or 'ddp'."
            )
        traced = self._trace(pl_module)
        optimizers = list(trainer.optimizers)
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        scheduler = schedulers[0] if self._restart and schedulers else None
        self.rejuvenator = attached(traced, optimizers, self._budget, pl_module, self._loaded, scheduler, self._options)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs what was measured."""
        nr = self.rejuvenator
        if nr is None or nr.last is None or nr.last.step != nr.steps or nr.steps == self._told:
            return
        self._told = nr.steps
        pl_module.log_dict(numbers(nr.last, nr), on_step=True, on_epoch=False)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Detaches the Rejuvenator: another fit builds its own."""
        if self.rejuvenator is not None:
            self.rejuvenator.detach()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Adds to the checkpoint what it needs beside weights."""
        if self.rejuvenator is not None:
            checkpoint[self.state_key] = dict(kept(self.rejuvenator, pl_module))

    def _load(self, pl_module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
        """Makes the network the one of the checkpoint, ahead of its weights."""
        if self.state_key not in checkpoint:
            return
        place = f"The checkpoint's {self.state_key}"
        loaded = parsed(Kept, checkpoint[self.state_key], place, CheckpointError)
        path, _ = network_in(pl_module, self._network)
        rebuild(self._trace(pl_module), loaded["plan"], under(path, checkpoint["state_dict"]), place)
        self._loaded = loaded

    def _trace(self, pl_module: nn.Module) -> TracedModule:
        """The traced network, which is traced once in each fit."""
        if self._traced is None:
            path, network = network_in(pl_module, self._network)
            inputs = self._example_inputs
            if inputs is None:
                inputs = getattr(pl_module, "example_input_array", None)
            if inputs is None:
                raise TrainingError(
                    f"What is {path or type(pl_module).__name__} called with? Give the callback example_inputs=, or "
                    f"the {type(pl_module).__name__} an example_input_array."
                )
            self._traced = traced_of(network) or as_traced(network, inputs)
        return self._traced
