"""The interpretation of a graph on label tensors at other widths than those of the trace."""

from collections.abc import Callable, Mapping

from torch import Tensor, fx

from nrfx.analysis.channels import Channels, Mismatch
from nrfx.analysis.interpret import LabelInterpreter, first_line
from nrfx.labels import OPAQUE
from nrfx.rules import Before, Call, Effect, Family, tensors, unknown
from nrfx.tracing import TracedModule


class Relabeler(LabelInterpreter):
    """The interpretation of the same graphs with other births, each of which brings the given labels into being.

    channel_of: the channel of each label, old or new. shapes: the shape that a parameter or buffer will have, by name.
    An op that does not take the new widths raises a Mismatch.
    """

    resized = True

    def __init__(
        self,
        traced: TracedModule,
        old: Channels,
        births: Mapping[str, Tensor],
        channel_of: Tensor,
        shapes: Callable[[str], tuple[int, ...]],
    ) -> None:
        super().__init__(traced, old.axes)
        self.born = dict(births)
        self.aliases = dict(old.aliases)
        self.reasons = list(old.reasons)
        self.codes = {reason: OPAQUE - index for index, reason in enumerate(self.reasons)}
        self.old = {(step.mode, step.node.name): step.effect for step in old.steps}
        self.channel_of, self.shapes_by_name = channel_of, shapes
        self.old_labels = old.channel_of.numel()

    def effect(self, mode: str, call: Call, sources: list[fx.Node]) -> Effect:
        """As at the widths of the trace; what was not understood there is not understood here."""
        old = self.old[mode, call.node.name]
        if old.family is Family.UNKNOWN:
            return unknown(call, old.reason)
        return super().effect(mode, call, sources)

    def unfit(self, call: Call, error: Exception) -> Effect:
        touched = tuple(tensors((call.args, call.kwargs)))
        reason = f"it does not take another width ({first_line(error)})"
        raise Mismatch(call.node.name, reason, touched) from error

    def before(self, mode: str, node: fx.Node) -> Before | None:
        return Before(self.old[mode, node.name].out, self.channel_of, self.old_labels)

    def shape_of(self, name: str) -> tuple[int, ...]:
        return self.shapes_by_name(name)

    def check_axes(self, effect: Effect) -> None:
        """The axes are those of the trace."""

    def check_broadcast(self, operands: list[Tensor]) -> None:
        """The axes are those of the trace."""
