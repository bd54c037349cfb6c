"""A callback for the Trainer of transformers, in one process or in several.

The Trainer loads weights into the model before its callbacks are asked, so that a run that goes on behind an event
needs one line of its own: `callback.resume(model, folder)`, before `trainer.train(resume_from_checkpoint=folder)`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from nrfx.errors import CheckpointError
from nrfx.files import parsed, text_of, write
from nrfx.integrations.architecture import Kept, kept, network_in, rebuild, under
from nrfx.integrations.attached import attached, numbers
from nrfx.optimizers.wrappers import optimizers_of
from nrfx.plan.budget import Budget
from nrfx.plan.budget_request import parse_budget
from nrfx.tracing import TracedModule, trace
from nrfx.tracing.graph.original import traced_of
from nrfx.training.in_place import join_original
from nrfx.training.rejuvenator import Rejuvenator

FILE = "nrfx.json"
"""What a checkpoint folder of the Trainer gets beside its other files."""


class RejuvenatorCallback(TrainerCallback):
    """Rejuvenates the model of a transformers Trainer while it trains.

    Args:
        example_inputs: what the network is called with: a dictionary of keywords (as the Trainer calls its model), one
            tensor, or a tuple.
        budget: what the network may cost after an event: an `nrfx.Budget`, or a text such as "params=1.0x".
        network: the path of the network inside of the model; "" for the model itself.
        options: those of `nrfx.Rejuvenator`, such as `interval`, `trigger`, `delta_lambda`, `until`.

    Attributes:
        rejuvenator: the Rejuvenator, from the start of the training on; None before.

    Raises:
        TrainingError: when the training starts, what `nrfx.Rejuvenator` raises.

    >>> RejuvenatorCallback(torch.zeros(1, 3, 32, 32), interval=100).rejuvenator is None
    True
    """

    def __init__(
        self,
        example_inputs: Mapping[str, Any] | Tensor | tuple[Any, ...],
        budget: Budget | str = "params=1.0x",
        network: str = "",
        **options: Any,
    ) -> None:
        if isinstance(budget, str):
            parse_budget(budget)  # a mistake is told now, and not when the training starts
        self._budget, self._network, self._example_inputs = budget, network, example_inputs
        self._options = options
        self._traced: TracedModule | None = None
        self._loaded: Kept | None = None
        self.rejuvenator: Rejuvenator | None = None

    def resume(self, model: nn.Module, folder: str | Path) -> None:
        """Makes a fresh model the one of a checkpoint of the Trainer, in place, ahead of `trainer.train`.

        A checkpoint of before the first event is one as well; a model that has its shapes already stays as it is.

        Raises:
            CheckpointError: the folder holds no checkpoint with this callback, or one of another model.
        """
        path = Path(folder) / FILE
        loaded = parsed(Kept, json.loads(text_of(path, CheckpointError)), str(path), CheckpointError)
        self._traced = self._trace(model)
        rebuild(self._traced, loaded["plan"], under(self._network, _weights(Path(folder))), str(folder))
        self._loaded = loaded

    def on_init_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Traces the network, ahead of what accelerate wraps around its forward, and joins both.

        Joined later, the trace would hold other buffers: in several processes the model gets new ones.
        """
        if self._traced is None:
            self._traced = self._trace(given["model"])
            join_original(self._traced)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Builds and attaches the Rejuvenator."""
        model, optimizers = given["model"], optimizers_of(given["optimizer"])
        self._traced = self._traced or self._trace(model)
        self.rejuvenator = attached(self._traced, optimizers, self._budget, model, self._loaded, None, self._options)
        self._loaded = None

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Has the Trainer log in a step with a measurement."""
        if self._seen():
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **given: Any) -> None:
        """Adds what was measured in this step to what the Trainer logs."""
        if logs is not None and (values := self._seen()):
            logs.update(values)
            if state.log_history and state.log_history[-1].get("step") == state.global_step:
                state.log_history[-1].update(values)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Adds a file to the checkpoint: the architecture, the Rejuvenator's state, the names of parameters."""
        if self.rejuvenator is not None and state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write(folder / FILE, json.dumps(kept(self.rejuvenator, given["model"])).encode())

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Detaches the Rejuvenator: another training builds its own."""
        if self.rejuvenator is not None:
            self.rejuvenator.detach()

    def _seen(self) -> dict[str, float]:
        """The numbers of a measurement or event in the step that was counted last; none where there was none."""
        nr = self.rejuvenator
        if nr is None or nr.last is None or nr.last.step != nr.steps:
            return {}
        return numbers(nr.last, nr)

    def _trace(self, model: nn.Module) -> TracedModule:
        _, network = network_in(model, self._network)
        known = traced_of(network)
        if known is not None:
            return known
        if isinstance(self._example_inputs, Mapping):
            return trace(network, (), dict(self._example_inputs))
        return trace(network, self._example_inputs)


def _weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint folder of the Trainer, by name."""
    whole, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if whole.is_file():
        from safetensors.torch import load_file  # noqa: PLC0415

        tensors: dict[str, Tensor] = load_file(whole)
        return tensors
    if pickled.is_file():
        loaded: dict[str, Tensor] = torch.load(pickled, weights_only=True)
        return loaded
    raise CheckpointError(
        f"{folder} holds neither {whole.name} nor {pickled.name}: pass a checkpoint folder of the Trainer."
    )
