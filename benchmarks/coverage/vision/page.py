"""The summary of the coverage table by family, compared with the goals, and the page docs/coverage.md."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from benchmarks.coverage import page as frame
from benchmarks.coverage.page import failures, number, percent, worst
from benchmarks.coverage.vision.row import RESIDUALS, WholeRow
from benchmarks.outputs import LISTENS, TOLERANCE
from benchmarks.table import markdown

GOALS: Mapping[str, float] = {
    **dict.fromkeys(("VGG", "ResNet", "DenseNet", "MobileNet", "EfficientNet", "RegNet", "ResNeXt"), 0.95),
    **dict.fromkeys(("ShuffleNet", "ConvNeXt"), 0.80),
    **dict.fromkeys(("ViT", "Swin"), 0.60),
}
"""The least share of convolution and linear params that should be able to change width, with inserted scales where
they help."""

SUMMARY = ("family", "models", "hold", "traced", "counts equal", "can change", "goal", "difference", "analysis")
DETAILS = (
    *("model", "input", "params", "free", "has a gamma", "with scales", "live part", "alpha", "difference"),
    *("budget used", "hold", "rewrite", "analysis", "what pins the rest"),
)
PINS_SHOWN = 2
CLOSE = TOLERANCE[torch.float64]


def summary(rows: Sequence[WholeRow]) -> list[tuple[str, ...]]:
    """A line for each family, under the headings SUMMARY: how many models hold, and the worst number of any model."""
    groups: dict[str, list[WholeRow]] = {}
    for row in rows:
        groups.setdefault(row.family if row.package == "torchvision" else f"{row.package} {row.family}", []).append(row)
    return [_family(name, group) for name, group in groups.items()]


def _family(name: str, group: Sequence[WholeRow]) -> tuple[str, ...]:
    least = min(row.share_mortal for row in group)
    goal = GOALS.get(name)
    return (
        *(name, str(len(group))),
        str(sum(row.sound for row in group)),
        str(sum(row.nodes is not None for row in group)),
        str(sum(bool(row.params_equal and row.flops_equal) for row in group)),
        percent(least),
        "" if goal is None else f"{goal:.0%}" if least >= goal else f"{goal:.0%}, missed",
        number(worst(*(_difference(row) for row in group)), ".0e"),
        _times(worst(*(row.analysis for row in group))),
    )


def _difference(row: WholeRow) -> float | None:
    return worst(row.difference_live, row.difference_fixed, row.difference_coupled)


def page(rows: Sequence[WholeRow], missing: int) -> str:
    """The page docs/coverage.md, which is written when no model is missing."""
    packages = Counter(row.package for row in rows)
    sound = Counter(row.package for row in rows if row.sound)
    held = ", ".join(f"{sound[package]} of {count} of {package}" for package, count in packages.items())
    families = [
        "Of each family the worst model. *Can change*: see above; the goals are for torchvision's families.",
        "",
    ]
    sections = {
        "Families": [*families, *markdown(SUMMARY, summary(rows))],
        "Failures": failures(rows),
        "Models": [MODELS, *markdown(DETAILS, [_details(row) for row in rows])],
    }
    return frame.page(rows, "coverage", "Coverage", f"Every check holds for {held}.\n{HOW}", sections)


HOW = f"""
Run it (results of each model are kept in build/coverage.jsonl as they come):

```sh
python -m benchmarks coverage                               # all models, one after the other
python -m benchmarks coverage --resume --jobs 2             # go on after a break, two at a time
python -m benchmarks coverage --only 'resnet*' 'timm:vit*'  # some of them
```

All classification, segmentation and video models of torchvision, and small models of timm (without it they are left
out). Each runs in a process of its own, with a limit of time and memory, so that whatever happens to one is a line
below. Weights are random; inputs are as small as the model takes. Everything is float64, or float32 (marked) for the
largest models. The reference is always the eager model (or the one with scales, see 5), and counts are not nrfx's own.

1. *Traced*: `nrfx.trace` takes the model whole.
2. *Counts equal*: params by counting parameters, and flops by FlopCounterMode / 2 on one example with fused attention
   off, are what `nrfx.utilization` says.
3. Half of the gammas are put to 0, in each space of channels in one of three ways: a channel in every norm that it
   passes (streams and groups of convolutions die whole), every norm for itself, or a mixture. Betas are normal(0,
   0.1), but 0 beside dead gammas of every other space. Batch norms get the statistics of random images, and the
   outputs must change with the input by more than {LISTENS:.0e}.
4. Six rewrites: `residual=` "live", "fixed", "coupled", each to 1.0x of the params and to the middle between the live
   cost and 1.0x; the schemes "attention", "dense" and "removed" take turns. For each: eval outputs differ by at most
   {CLOSE:.0e} of the largest in float64 and 1e-4 in float32; counting params and flops of the result gives what
   `result.after` says; the params are within the budget; a train-mode forward gives outputs of the old shapes and a
   backward a finite gradient to every new parameter and to every one that had a gradient before; the model is as it
   was.
5. Where `nrfx.insert_scales` lets at least 5 % more of the params change, steps 3 and 4 work on the network with
   scales, and `nrfx.fold_scales` of each result must keep its outputs.

*Can change*: the share of the params of convolutions, linear layers and attention projections in layers that have an
axis that `rejuvenate` may widen or narrow under residual="coupled": no pin, no frozen parameter, and a gamma (or an
inserted scale) that tells which channels are dead. *Analysis*: CPU time of `nrfx.utilization` on the traced model as
a multiple of `torch.fx.symbolic_trace` of the model in the same process, on one thread.
"""

MODELS = """*Free*: an axis that nothing pins, whether or not there is a gamma; *has a gamma*: can change as it
stands; *with scales*: can change after `insert_scales`. *Live part* of the params and *alpha* at 1.0x: under live,
fixed, coupled. *Difference*: the largest of the six rewrites. *Budget used*: the least. *Hold*: rewrites whose checks
all hold, of six, and how many of them had nothing to do. *Rewrite*: CPU seconds, the mean.
"""


def _details(row: WholeRow) -> tuple[str, ...]:
    more = len(row.pins) - PINS_SHOWN
    pins = "; ".join(row.pins[:PINS_SHOWN]) + (f"; {more} more" if more > 0 else "")
    return (
        row.model,
        row.input + (", float32" if row.dtype == "float32" else ""),
        "-" if row.params is None else f"{row.params / 1e6:.1f} M",
        *(percent(share) for share in (row.free, row.mortal, row.scaled)),
        " ".join(percent(getattr(row, f"r_{residual}")) for residual in RESIDUALS),
        " ".join(number(getattr(row, f"alpha_{residual}"), ".2f") for residual in RESIDUALS),
        number(_difference(row), ".0e"),
        number(row.share, ".3%"),
        f"{row.cases}" + (f" ({row.idle} idle)" if row.idle else ""),
        "-" if row.seconds_rewrite is None else f"{row.seconds_rewrite:.1f} s",
        _times(row.analysis),
        pins.replace("|", "\\|"),
    )


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}x"
