"""Whether a network, a dataset and the settings of a run fit each other."""

from torch import Tensor

from nrfx.errors import UsageError
from nrfx.experiment.config import RunConfig
from nrfx.experiment.data import Dataset
from nrfx.tracing import TracedModule


def check_fit(gm: TracedModule, data: Dataset, config: RunConfig) -> None:
    """Raises the UsageError that `train` would raise where network, dataset and config do not fit each other."""
    if len(data.train) < config.batch_size:
        raise UsageError(
            f"A batch of {config.batch_size} is larger than the training part of {data.name}: {len(data.train)} images."
        )
    wanted, actual = list(gm.inputs[0][0][1:]), list(data.train.shape)
    if wanted != actual:
        raise UsageError(
            f"The network was traced for images of {wanted}, and {data.name} has {actual}: make one fit the other."
        )
    output = next(iter(reversed(gm.graphs["eval"].nodes))).meta["val"]
    logits = output.shape if isinstance(output, Tensor) else None
    if logits is None or len(logits) != 2 or logits[1] < data.classes:
        described = "something else" if logits is None else f"{list(logits)}"
        raise UsageError(f"{data.name} needs logits [N, {data.classes}], and the network returns {described}.")
