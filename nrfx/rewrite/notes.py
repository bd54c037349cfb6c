"""What a rewrite notes: what it held, where carriers stand, which layers kept their width, and what did not merge."""

from nrfx.analysis.liveness import Liveness
from nrfx.analysis.utilization import by_reason
from nrfx.nn import Cross
from nrfx.plan.options import Options
from nrfx.plan.survivors import Survivors
from nrfx.tracing import TracedModule


def held_notes(before: Liveness, options: Options) -> list[str]:
    """How many dead channels stay, by reason."""
    dead = "gamma-dead" if options.criterion is None else "dead"
    return [f"Held: {count} {dead} channels, {reason}." for reason, count in by_reason(before.held)]


def carrier_notes(carried: tuple[str, ...]) -> list[str]:
    """How many carriers there are, and in which spaces."""
    return [f"Carriers of constants: {len(carried)}, in {', '.join(dict.fromkeys(carried))}."] if carried else []


def width_notes(survivors: Survivors, options: Options) -> list[str]:
    """Notes on spaces with gammas that kept their width, or were not widened, though no rule pins them."""
    channels = survivors.channels
    fixed = [space for space in channels.spaces if space.normed and space.pinned_by in space.births]
    frozen = [space.name for space in channels.spaces if space.frozen and space.free and space.normed]
    notes = [f"{space.name}: width fixed: {space.pinned}." for space in fixed]
    narrow = {
        space.name: why for space in channels.spaces for key, why in survivors.no_growth.items() if key in space.births
    }
    notes += [f"{name}: not widened: {why}." for name, why in narrow.items()]
    if options.cramped:
        notes.append("Layers stay dense: the budget has no room for the carriers that cross attention needs.")
    if frozen:
        notes.append(f"Not widened, for they have frozen parameters: {', '.join(frozen)}.")
    if options.round_to > 1 and not options.reallocate:
        notes.append("round_to has no meaning with reallocate=False: every layer has its old width back.")
    return notes


def merge_notes(traced: TracedModule, survivors: Survivors, options: Options) -> list[str]:
    """A note where merge=True found no layer with several generations."""
    layers = [traced.get_submodule(reading.path) for reading in survivors.forms.values()]
    if not options.merge or any(isinstance(layer, Cross) and len(layer.in_generations) > 1 for layer in layers):
        return []
    return ["merge=True had nothing to merge: no layer had more than one generation before this rewrite."]
