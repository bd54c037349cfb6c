"""The page docs/field.md: how nrfx takes the models of many packages."""

from collections.abc import Sequence

from benchmarks.coverage import page as frame
from benchmarks.coverage.field.row import FieldRow
from benchmarks.coverage.page import failures, number, percent, worst
from benchmarks.table import markdown

SUMMARY = (
    *("package", "models", "families", "hold", "whole", "in parts", "refused", "rewritten", "loaded", "second size"),
)
DETAILS = (
    *("model", "family", "input", "second", "form", "inside", "can change", "with scales", "difference"),
    *("counts", "loaded", "at the second size"),
)
LENGTH = 160
"""Letters of a reason in the table."""

HOW = """
Small models of the packages that people use with PyTorch, each built without weights, as small as its package lets it
be. What is not installed keeps the row that it has: `pip install -e .[field]` brings the packages, and `pip install
--no-deps facenet-pytorch` one that asks for an old torch. Each model runs in a process of its own, with a limit of time
and memory.

```sh
python -m benchmarks coverage --field                        # all of them; rows are kept in build/field.jsonl
python -m benchmarks coverage --field --resume               # go on after a break
python -m benchmarks coverage --field --only 'ultralytics:*' # some of them
```

1. *Form*: `nrfx.trace(..., partial=True)` takes the model whole, in parts (*inside*: the share of its params that the
   parts hold), or refuses it with a reason.
2. *Second size*: inputs of another batch, and of another height, width or length where the model itself takes them. The
   traced model and the rewritten one must agree with the model there, or refuse them with an error of nrfx.
3. *Counts*: params, and flops of a model that is whole, equal to those counted without nrfx.
4. Half of the gammas are put to 0 ([as here](coverage.md)), and the model is rejuvenated to 1.0x of its params. Its
   outputs must be those of the model with the same gammas at 0, its params within the budget.
5. *Loaded*: what was rewritten is saved, loaded into a fresh model, and gives the same outputs.
6. Where `nrfx.insert_scales` lets at least 5 % more of the params change, the network with scales is rejuvenated too,
   and folded. *Can change*, *with scales*: shares of the params of convolutions and linear layers, without and with
   them.
"""


def summary(rows: Sequence[FieldRow]) -> list[tuple[str, ...]]:
    """A line for each package, under the headings SUMMARY, and one for all."""
    packages = dict.fromkeys(row.package for row in rows)
    lines = [_line(package, [row for row in rows if row.package == package]) for package in packages]
    return [*lines, _line("all", rows)]


def _line(name: str, rows: Sequence[FieldRow]) -> tuple[str, ...]:
    numbers = (
        len(rows),
        len({row.family for row in rows}),
        sum(row.sound for row in rows),
        *(sum(row.form == form for row in rows) for form in ("whole", "parts", "refused")),
        sum(bool(row.changed) for row in rows),
        sum(bool(row.loaded) for row in rows),
        sum(row.second_size == "equal" for row in rows),
    )
    return (name, *map(str, numbers))


def page(rows: Sequence[FieldRow], missing: int) -> str:
    """The page docs/field.md. missing: number of models that have no row yet."""
    families, sound = len({row.family for row in rows}), sum(row.sound for row in rows)
    result = f"{len(rows)} models of {families} families; every check holds for {sound} of them."
    result += f" {missing} more are not examined yet." if missing else ""
    reasons = [f"- {row.model} ({row.form}): {row.reason}" for row in rows if row.form in ("parts", "refused")]
    sections = {
        "Packages": markdown(SUMMARY, summary(rows)),
        "In parts, or refused": reasons or ["None."],
        "Failures": failures(rows),
        "Models": markdown(DETAILS, [_details(row) for row in rows]),
    }
    return frame.page(rows, "coverage --field", "Models of the field", f"{result}\n{HOW}", sections)


def _details(row: FieldRow) -> tuple[str, ...]:
    counts = [equal for equal in (row.params_equal, row.flops_equal) if equal is not None]
    return (
        *(row.model, row.family, row.input, row.second, row.form or "-"),
        *(percent(share) for share in (row.inside, row.mortal, row.scaled)),
        number(worst(row.difference, row.scaled_difference), ".0e"),
        ("equal" if all(counts) else "differ") if counts else "-",
        "-" if row.loaded is None else "yes" if row.loaded else "no",
        row.second_size[:LENGTH] or "-",
    )
