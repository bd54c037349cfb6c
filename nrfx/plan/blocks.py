"""Which layers become cross layers, and what their blocks are.

A layer can become one when it is an ungrouped convolution or a linear layer, called through its own module, with a
weight that nothing else reads. It becomes one when it gets new channels on both sides. A cross layer stays one and
gains a generation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from nrfx.analysis.channels import Channels, readers
from nrfx.nn import Cross
from nrfx.plan.grown_births import births_in_order, grows_at_its_end
from nrfx.plan.origins import NEW
from nrfx.rules import Family, Reading, op_of
from nrfx.tracing import TracedModule


def crossable(traced: TracedModule, channels: Channels) -> tuple[dict[str, Reading], tuple[str, ...]]:
    """Key -> the weights of each layer that has a cross form; and a note for each other layer with weights."""
    readings, notes = {}, []
    attributes = {str(step.node.target) for step in channels.steps if step.node.op == "get_attr"}
    # tensors that the graph reads by themselves
    read = channels.shared | {channels.aliases.get(name, name) for name in attributes}
    in_order = births_in_order(channels)
    for step in readers(channels.steps).values():
        reading = step.effect.reading
        assert reading is not None
        module = traced.get_submodule(reading.path)
        reason = _noform_of(module, step.effect.family, read, reading)
        if reason is None and not isinstance(module, Cross) and reading.key not in in_order:
            inside = not grows_at_its_end(channels, reading.key)
            reason = "its new channels would stand between the old ones" if inside else None
        if reason is None:
            readings[reading.key] = reading
        elif step.effect.family is not Family.GROUPED:
            notes.append(f"{reading.key} stays dense: {reason}.")
    return readings, tuple(dict.fromkeys(notes))


def _noform_of(module: nn.Module, family: Family, shared: frozenset[str], reading: Reading) -> str | None:
    """Why the layer cannot become a cross layer; None where it can."""
    if isinstance(module, Cross):
        return None
    obstacles = {
        "a grouped convolution has no cross connections": family is Family.GROUPED,
        "it is called as a function": reading.functional,
        "its weight is read elsewhere too": reading.weight in shared,
        "it has backward hooks, which a new layer would lose": module._backward_hooks or module._backward_pre_hooks,
        "a cross layer pads with zeros": getattr(module, "padding_mode", "zeros") != "zeros",
        f"{type(module).__name__} has no cross form": form_of(module) is None,
    }
    return next((reason for reason, holds in obstacles.items() if holds), None)


def form_of(module: nn.Module) -> type[Cross] | None:
    """The class of cross layer that can stand for the module, None where there is none."""
    if isinstance(module, Cross):
        return type(module)
    op = op_of(module)
    form: type[Cross] | None = op.cross_form if op is not None else None  # type: ignore[assignment]
    return form


@dataclass(frozen=True)
class Blocks:
    """The generations of a layer that will be a cross layer.

    Attributes:
        rows: int64 [rows], the generation of each output channel.
        columns: int64 [columns], the generation of each input channel.
        count: generations.
        present: for each output generation, the input generations that it reads.
    """

    rows: Tensor
    columns: Tensor
    count: int
    present: tuple[tuple[int, ...], ...]

    def runs(self) -> tuple[tuple[int, int], ...]:
        """(generation, width) runs of the columns, in order."""
        return tuple((generation, len(list(run))) for generation, run in groupby(self.columns.tolist()))

    def parts(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(generation, rows, columns) of each output generation that has rows and reads columns; int64 positions."""
        for index, reads in enumerate(self.present):
            rows = (self.rows == index).nonzero().flatten()
            columns = torch.isin(self.columns, torch.tensor(reads, dtype=torch.int64)).nonzero().flatten()
            if rows.numel() and columns.numel():
                yield index, rows, columns


def blocks_after(
    module: nn.Module, reading: Reading, rows: Tensor, columns: Tensor, head: bool = False, merge: bool = False
) -> Blocks | None:
    """The blocks of a layer after a rejuvenation, None where it needs no cross form.

    Args:
        rows, columns: int64, the origin of each row and column of the new weight.
        head: whether the layer gains a head (see heads.py): a generation that it reads, even if that has no channels.
        merge: whether all old generations become one.
    """
    fresh_rows, fresh_columns = bool((rows == NEW).any()), bool((columns == NEW).any())
    if merge or not isinstance(module, Cross):
        if not (fresh_rows and fresh_columns) and not head and not isinstance(module, Cross):
            return None
        zeros = torch.zeros(1, dtype=torch.int64)
        old = zeros.expand(reading.rows.numel()), zeros.expand(reading.cols.numel())
        return _grown(*old, 1, ((0,),), rows, columns, head)  # all that is old is generation 0
    assert reading.out_generation is not None and reading.generation is not None
    present = module.present if module.scheme == "removed" else tuple((i,) for i in range(len(module.in_generations)))
    count = len(module.in_generations)
    return _grown(reading.out_generation, reading.generation, count, present, rows, columns, head)


def unmergeable(module: Cross, reading: Reading, weight: Tensor, rows: Tensor, columns: Tensor) -> str | None:
    """Why the generations of a layer cannot become one without changing what it computes; None where they can.

    Attention multiplies what a generation gets from others. Where all weights between generations are 0 that is 0, and
    the layer computes what one generation with the same weights computes.

    Args:
        weight: [rows, columns, *kernel] after the rewrite.
        rows, columns: int64, the origin of each row and column, NEW for new ones.
    """
    assert reading.out_generation is not None and reading.generation is not None
    old_rows, old_columns = (rows != NEW).nonzero().flatten(), (columns != NEW).nonzero().flatten()
    row_of, column_of = reading.out_generation[rows[old_rows]], reading.generation[columns[old_columns]]
    if module.scheme == "removed":
        # without cross connections a merge is exact for one output generation that reads every input generation
        read = [torch.isin(column_of, torch.tensor(module.present[i])).all() for i in row_of.unique().tolist()]
        return None if len(read) < 2 and all(read) else "its cross weights do not exist"
    # an output generation without inputs of its own has y_ii = 0 and the factor 2 sigmoid(0) = 1: it sums plainly
    crossing = (row_of[:, None] != column_of) & torch.isin(row_of, column_of)[:, None]
    old = weight[old_rows.to(weight.device)][:, old_columns.to(weight.device)]
    used = int((old.flatten(2).count_nonzero(2) if old.dim() > 2 else old)[crossing.to(old.device)].count_nonzero())
    return f"{used} of {int(crossing.sum())} cross weights are in use" if used else None


def _grown(
    old_rows: Tensor,
    old_columns: Tensor,
    count: int,
    present: Sequence[Sequence[int]],
    rows: Tensor,
    columns: Tensor,
    head: bool,
) -> Blocks:
    """The old blocks; where rows or columns are new, or the layer gains a head, with one generation more."""
    fresh_rows, fresh_columns = bool((rows == NEW).any()), bool((columns == NEW).any())
    row_of = torch.where(rows == NEW, count, old_rows[rows.clamp(min=0)])
    column_of = torch.where(columns == NEW, count, old_columns[columns.clamp(min=0)])
    if not fresh_rows and not fresh_columns and not head:
        return Blocks(row_of, column_of, count, tuple(tuple(reads) for reads in present))
    if fresh_rows and fresh_columns:
        return Blocks(row_of, column_of, count + 1, (*(tuple(reads) for reads in present), (count,)))
    if not fresh_rows:  # there are no new rows to read the new columns: all old ones do
        there = set(row_of.tolist())
        reads_it = ((*reads, count) if index in there else tuple(reads) for index, reads in enumerate(present))
        return Blocks(row_of, column_of, count + 1, (*reads_it, ()))
    # new rows alone read all old columns
    return Blocks(row_of, column_of, count + 1, (*(tuple(reads) for reads in present), tuple(range(count))))
