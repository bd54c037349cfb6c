"""Products between the examples of a batch (a similarity of each with each): of one example they are no number.

They count as the share of one of the examples that were traced, so that all of these together make the multiply-adds
of the batch. At another batch size the share is another one, which the report says.
"""

from collections.abc import Iterator

from torch import Tensor

from nrfx.analysis.channels import Channels
from nrfx.analysis.cost import eval_steps
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.examples import batch_of, of_one_example


def of_one_run(traced: TracedModule) -> Iterator[str]:
    """The sentence that multiply-adds are not those of one example, where the model is traced in parts."""
    if traced.facts.parts:
        yield (
            "The model is traced in parts: multiply-adds are those of its run on the example inputs. Trace it on one "
            "example for those of one."
        )


def between_examples(traced: TracedModule, channels: Channels) -> Iterator[str]:
    """The sentence that names the first node that multiplies examples with each other, if one does."""
    asked = [step.node for step in eval_steps(channels) if step.effect.between]
    first = of_one_example(traced) if asked else None
    if first is None:
        return
    batch = batch_of(traced)
    found = [node.name for node in asked if _numel(node.meta["val"]) > batch * _numel(first[node])]
    if found:
        others = f" and {len(found) - 1} other nodes" if len(found) > 1 else ""
        yield (
            f"{found[0]}{others}: examples of the batch are multiplied with each other. Multiply-adds of one example "
            f"are those of the {batch} examples of the trace, divided by {batch}; they grow with the batch."
        )


def _numel(value: object) -> int:
    return value.numel() if isinstance(value, Tensor) else 0
