"""From an nn.Module and example inputs to a graph that knows its shapes and behaves like it in both modes."""

from nrfx.tracing.calls.known_forward import runs_known_forward
from nrfx.tracing.capture import as_traced, trace
from nrfx.tracing.graph.module import ByMode, TracedModule, propagate
from nrfx.tracing.graph.work import Measured, measured_work
from nrfx.tracing.partial.parts import PartialModule

__all__ = [
    "ByMode", "Measured", "PartialModule", "TracedModule", "as_traced", "measured_work", "propagate",
    "runs_known_forward", "trace",
]  # fmt: skip
