# ruff: noqa: E501  the lines of the page are as long as those of the other documents
"""The page docs/results.md, written from the lines of the runs."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.study.fashion import choices
from benchmarks.study.fashion.cost import HEADINGS as COST_HEADINGS
from benchmarks.study.fashion.cost import Cost
from benchmarks.study.fashion.cost import line as cost_line
from benchmarks.study.fashion.everywhere import HEADINGS as EVERYWHERE_HEADINGS
from benchmarks.study.fashion.everywhere import NAMED, behind, everywhere, since
from benchmarks.study.fashion.loop import CALIBRATION, EVERY, SEEN
from benchmarks.study.fashion.plan import BUDGETS, NONE_SPARED, OF_FAMILY, WITHOUT_BUDGET, Line, Settings
from benchmarks.study.fashion.plot import drawn
from benchmarks.study.fashion.rates import RATE_HEADINGS, TUNED_HEADINGS, rate_rows, tuned_rows
from benchmarks.study.fashion.runs import ROWS
from benchmarks.study.fashion.tables import HEADINGS, SPARED_HEADINGS, Runs, by_row, paired, rows, spared_rows, told
from benchmarks.study.fashion.trials import (
    CHOICE_HEADINGS,
    GENTLER_HEADINGS,
    NAMED_HEADINGS,
    choice_rows,
    gentler_rows,
    named_rows,
)
from benchmarks.study.intervals import interval
from benchmarks.table import markdown

PICTURED = "vgg"
SEEDS = 5
"""Of every row, 0 to 4."""


def page(
    lines: Sequence[Line],
    tried: Sequence[Line],
    tuned: Sequence[Line],
    costs: Sequence[Cost],
    picture: Path,
    wide: Sequence[Line] = (),
) -> str:
    """The text; the picture is drawn where its family has runs.

    Args:
        lines: of the study.
        tried: of what the settings were chosen by.
        tuned: with the learning rates of rates.py.
        costs: in time.
        picture: the file.
        wide: the runs of wide.py.
    """
    tables = "\n".join(_tables(lines))
    pictured = _of(lines, PICTURED, "params")
    figure = ""
    if "BL" in pictured and "NR" in pictured:
        drawn(PICTURED, pictured, picture)
        figure = f"![Validation error on the way, and widths before and after, of {PICTURED}]({picture.name})\n"
    against, on_the_way = everywhere(_all(lines)), behind(_all(lines))
    vgg = by_row(line for line in lines if line.family == "vgg" and line.budget == "params")
    plain, few = Settings(), f"{choices.FEW_SEEDS.start} to {choices.FEW_SEEDS.stop - 1}"
    last = lines[-1]
    return f"""# Results: does it help?

Rows of the paper's Table 1 and their controls on Fashion-MNIST, each against plain training (BL) of the same network, the same seed
and, where the table does not say otherwise, the same number of steps. This page is made by

```sh
python -m benchmarks study --page
```

from [the lines of {len(lines)} runs](../benchmarks/results/fashion.csv); an older study on the handwritten digits has
[a page of its own](digits.md).

## NR everywhere

NR with the defaults of a search, its layers dense, is the row that was named before any of its runs: it is what was chosen on another network
([below](#what-the-settings-were-chosen-by)), but for `spare`, which was chosen there as well, when test errors of the defaults before it were known. Against plain
training on all networks and budgets at once, each p value corrected for all of them:

{_lines(EVERYWHERE_HEADINGS, (each.line() for each in against))}

This is what the verdicts on NR below go by. Seeds from {SEEDS} on were added where five left a wide interval, after a look at it; by themselves they give
{_added(lines)}.

Of the other rows these are better or worse than BL, corrected for the rows of their tables:

{_verdict(lines)}

{figure}
## When to expect a gain

- Where width lies in the wrong places: in the vgg, wide where images are small, within its params, its flops and both; in early, wide where they are
  large, within its flops; in the late densenet; in [the demo](demo.md), a smaller vgg on the digits, over ten seeds. NR brings
  such a network about to where one drawn with care is (even, whose widths double with each pooling): test errors are {_even(lines)}.
- There it makes no difference that could be told how old and new channels are joined: dense (NR), with cross attention (NR-CA), with
  rescaling (NR-BR), with both (NR-CA-BR, the default), or not at all (NR-CR). New channels in the old widths (NR-IP) win nothing, and
  NR-CR wins more than two heads do (two towers).
- So what is won is the architecture: trained from scratch (NR-FS, all steps) it does as well. What an event keeps is the training that was done up to it.
  MorphNet, with half as many steps again, finds one as good; Network Slimming, from twice the width, gets a part of the way ({_difference(vgg, "NR", "Network Slimming")}
  points, NR minus it). The strengths of their penalties were not tuned (`benchmarks/study/fashion/others.py`). Random widths: {_difference(vgg, "NR", "random widths")}; one
  draw of widths is as good as NR's, another far worse.
- In networks of a good shape nothing could be shown: not in the resnet, however its stream is held, and not in the densenet, by whatever row, those of Network
  Slimming and MorphNet among them. Only longer training (BL longer) makes them better, and what an event left, from scratch in the steps that
  are left (NR-FS), is worse. Within params and flops at once the resnet rather gets worse ({_against(lines, "resnet", "both")}, by itself). Nor in the mobilenet, which gets worse within its flops
  ({_against(lines, "mobilenet", "flops")}: its params rise by six tenths, where images are small, and early layers pay for them) and rather within both ({_against(lines, "mobilenet", "both")}, by itself). Nor in a resnet with a wide first or last stage, over three seeds each, on the images that settings were chosen by,
  where a VGG of one width (level) got a little worse; of the
  eight networks with full runs in [advise](advise.md#was-it-right) one has a gain that three seeds can tell from chance; of ten rows on
  [the digits](digits.md) one (NR-CR), which one of so many can be by chance.
- A restart, the paper's convention, wins as much as NR, in {_steps(vgg, "NR restarted")} steps; plain training of {_steps(vgg, "BL longer")} steps is worse ({_difference(vgg, "NR restarted", "BL longer")}, NR restarted minus BL longer).
- A second event wins no more in the vgg, and a third takes back what was won. The second moves more params to early layers: multiply-adds rise.
- Where params alone are held, multiply-adds rise, for early layers get wider: by half in the vgg. `budget="params=1.0x,flops=1.0x"` holds both, and wins
  two thirds as much there, with fewer params.

`nrfx advise` tells beforehand, for one's own network and images.

## What a search costs on the way

Under the penalty, and up to the event, the weights are behind those of plain training of the same step; the event itself costs nothing,
for it keeps the function, and with it the penalty ends. Where all gammas are pulled alike, as in the paper, they are up to 5 points
behind in the mean of the seeds. With `spare="large"`, the default, large gammas are pulled less and small ones more
([training](training.md#what-a-search-does-otherwise-than-the-paper)): as many channels go, sooner, and the network stays close to plain
training: within {on_the_way.worst:.1f} points of it in the mean of the seeds, in every row with one event, with no less of a gain.
{on_the_way} Several events cost more. Of the same seeds:

{_lines(SPARED_HEADINGS, _spared(lines))}

A lambda that rises
more slowly was tried before ([below](#what-the-settings-were-chosen-by)): the fewer points it costs, the later r falls below the trigger, or
never, and a search without an event has cost something for nothing.

In time, each step of a search has a proximal step on the gammas besides, and every {plain.interval}th a measurement. In CPU time, in turns with plain
training (`python -m benchmarks study --cost`):

{_lines(COST_HEADINGS, map(cost_line, costs))}

## Utilization under the penalty

As in the paper's Figure 1, without an event: the penalty on its own, all gammas pulled alike, over eight epochs of 20,000 images, on the vgg (wide_late) and the resnet
(bottlenecks) of the tables; for that, `:bottlenecks` and `runs/bottlenecks` in the same command.

```sh
nrfx train benchmarks.study.fashion.networks:wide_late --data fashion --data-root /usr/share/datasets/fashion-mnist --size 14 \\
    --count 20000 --epochs 8 --batch 64 --lr 0.1 --budget params=1.0x --trigger 0.01 --until 2504 --interval 20 --delta-lambda 0.001 \\
    --spare none --out runs/wide_late
nrfx plot runs/wide_late runs/bottlenecks -o docs/figure1.png
```

![Utilization of params and validation accuracy of both networks over eight epochs](figure1.png)

Half of the params are dead within two epochs; where width lies in the wrong places, nine tenths (read off the picture; these two runs are in no table). Lambda goes on rising where no event ends the
search, and accuracy falls in the end: a trigger, or `until`, should come before.

## How to read the tables

- *minus BL*: the mean over seeds of the difference in test error to BL of the same seed, with its 95 % interval (Student's t, paired). **Bold**:
  0 lies outside. *corrected*: the reach of the interval with which all differences of a table hold together (Bonferroni).
- *BL held*: its learning rate stays for the time of a search before it falls, as it does for the rows that search.
- *behind BL held at worst*: how many points of validation error the weights were behind those of BL held at the same step, at any point of
  the search and the 100 steps behind the event: of *one seed*, the worst; of the *mean of seeds*. In brackets: what plain runs of two seeds are
  apart at worst over the same steps, which is chance alone. Both are scored with running statistics taken anew from {CALIBRATION} batches: under a penalty,
  and behind an event, running statistics lag behind the weights, and a score with them shows another network than the one that is trained.
- *NR as in the paper*: without what was chosen (below): a proximal penalty weighted by cost that spares large gammas, gammas of new channels at 1, a warm-up of 200 steps
  behind the event, and factors of rescaling up to 4.
- *NR, up to N events*: the search goes on behind an event, with lambda from 0, up to half of the steps (the paper's Table 5). *event at step*: of the last
  one, in the mean, and how many there were.
- *NR-FS*: the architecture that NR found, from scratch, in the steps that were left; *all steps*: in as many steps as BL has, so that the search
  comes on top. *NR restarted*: the paper's convention, in which an event sets the schedule back, against *BL longer*, which has as many steps as a
  restart can give. *random widths*: each layer keeps a random share, and all widen to the budget. *two towers*: two networks of half the
  cost with a loss each, as NR-CR has them. *Network Slimming*: from a network of twice the cost, cut to the budget after half of the steps.
  *MorphNet*: a search of half of the steps, one expansion, and all steps from scratch behind it.
- *params <= 0.5x* is the compression of the paper's Table 4.

{tables}

## At the paper's own width, on a GPU

The paper's VGG-19 for CIFAR, 20 million params, on all images at 28 x 28, in bfloat16 (`python -m benchmarks wide --data-root DIR`, eight minutes).

{_of_a_gpu(wide)}

## The set-up

20,000 images of 14 x 14 (means of 2 x 2 pixels) to train on, 5,000 for validation, all 10,000 of the test, which are looked at once, when a run
ends. One choice was made when test errors of earlier defaults were known: to spare large gammas, for what a search costs on the way, on networks and seeds of no table. Networks of 9,000 to 77,000 params (`benchmarks/study/fashion/networks.py`), gammas from 0.5. SGD with momentum {plain.momentum}, weight decay {plain.weight_decay:g},
learning rate {plain.lr}, batches of {plain.batch_size}; {plain.steps:,} steps of vgg and early, {OF_FAMILY["resnet"].steps:,} of the others. The learning rate falls to 0 along a half
cosine, from the event on where there is one, else from the first step. Of a search: an interval of {plain.interval} steps, delta_lambda {plain.delta_lambda:g}, up to
half of the steps; T_r is {OF_FAMILY["vgg"].trigger} for vgg, early and late densenet, and {OF_FAMILY["resnet"].trigger} for the others, as far as their searches come: it was set with the network and not
tuned. The weights are scored every {EVERY} steps on {SEEN:,} validation images. {last.cpu}, torch {last.torch},
{last.date}.

## What the settings were chosen by

On another network ("late": wide where images are small, with other widths), other seeds ({choices.SEEDS.start} to {choices.SEEDS.stop - 1}), {choices.STEPS:,} steps, and without a look at the test
images (`python -m benchmarks study --choose`, [lines](../benchmarks/results/fashion_choices.csv)):

{_lines(CHOICE_HEADINGS, choice_rows(tried))}

What one setting adds is mostly too small for five seeds; together they tell.

Can a search leave the network closer to plain training on its way? Tried on networks that are in no table of results, seeds from {choices.SEEDS.start}. Within flops gammas are
pulled by what their channels cost in multiply-adds; *weighted alike*: all by as much.

{_lines(GENTLER_HEADINGS, gentler_rows(tried))}

How large gammas are spared was found in searches alone, up to 100 steps behind the event, on these networks and seeds, and is not in the lines.
Pulled by the mean of their own layer, all layers lose alike, and widths hardly change. With a knee at the mean of all, r stops falling before
the trigger; at twice the mean, or weights of 1 / gamma, the network is as far behind as without. A least pull on large gammas, which would
bring r down in every case, costs what it was to save.

Which networks have something to win? Before any of their runs in the study, on validation images, seeds {few}:

{_lines(NAMED_HEADINGS, named_rows(tried))}

The learning rate, for BL and NR alike, seeds {few} or the first of them (`python -m benchmarks study --rates`). Validation error, %, the least in bold. All rows of all
networks were trained with {plain.lr}:

{_lines(RATE_HEADINGS, rate_rows(tried))}

Each with the rate that was best for it, on the images and seeds of the study (`python -m benchmarks study --tuned`,
[lines](../benchmarks/results/fashion_tuned.csv)), the test images looked at once; *corrected*: all networks of this table at once. What wins and
what does not stays the same. (0.4 is the largest rate that was tried; on the test images plain training of the vgg does no better with it than with {plain.lr}.)

{_lines(TUNED_HEADINGS, tuned_rows(tried, [*lines, *tuned], range(SEEDS)))}
"""


def _lines(headings: Sequence[str], table: Iterable[Sequence[str]]) -> str:
    return "\n".join(markdown(headings, table))


def _of(lines: Sequence[Line], family: str, budget: str) -> dict[str, dict[int, Line]]:
    """The runs of one table, rows in the order of ROWS; rows of one seed say nothing and are left out."""
    found = by_row(
        line for line in lines if line.family == family and (line.budget == budget or line.row in WITHOUT_BUDGET)
    )
    return {row: found[row] for row in ROWS if len(found.get(row, ())) > 1 and not row.endswith(NONE_SPARED)}


def _all(lines: Sequence[Line]) -> dict[tuple[str, str], dict[str, dict[int, Line]]]:
    """The runs of every table, by family and budget."""
    places = [(family, budget) for family in OF_FAMILY for budget in BUDGETS]
    found = {place: _of(lines, *place) for place in places}
    return {place: runs for place, runs in found.items() if any(row not in WITHOUT_BUDGET for row in runs)}


def _difference(runs: Runs, row: str, other: str) -> str:
    return told(paired(runs.get(row, {}), runs.get(other, {}), "test")) or "not known"


def _added(lines: Sequence[Line]) -> str:
    """NR minus BL of the seeds that were added, where there are some."""
    tables = {place: since(runs, SEEDS) for place, runs in _all(lines).items()}
    found = {place: paired(runs.get(NAMED, {}), runs.get("BL", {}), "test") for place, runs in tables.items()}
    told_of = [f"{difference} in {family}, {budget}" for (family, budget), difference in found.items() if difference]
    return "; ".join(told_of) or "nothing"


def _against(lines: Sequence[Line], family: str, budget: str) -> str:
    """NR minus BL."""
    runs = _of(lines, family, budget)
    return _difference(runs, NAMED, "BL")


def _steps(runs: Runs, row: str) -> str:
    steps = [line.steps for line in runs.get(row, {}).values()]
    return f"{mean(steps):,.0f}" if steps else "no"


def _even(lines: Sequence[Line]) -> str:
    """How good a VGG of the paper's habit is without and with NR, and one whose widths double with each pooling."""
    families = [
        by_row(line for line in lines if line.family == name and line.budget == "params") for name in ("vgg", "even")
    ]
    tests = {
        (name, row): [line.test for line in runs.get(row, {}).values() if line.test is not None]
        for name, runs in zip(("vgg", "even"), families, strict=True)
        for row in ("BL", "NR")
    }
    if any(len(errors) < 2 for errors in tests.values()):
        return "not measured"
    return ", ".join(
        f"{row} of {name} {interval(errors)} %"
        + (f" ({families[1][row][0].params:,} params)" if name == "even" and row == "BL" else "")
        for (name, row), errors in tests.items()
    )


def _of_a_gpu(wide: Sequence[Line]) -> str:
    """The table of the runs at the paper's width, or that there are none."""
    if not wide:
        return "Not run yet: no GPU was at hand."
    last = wide[-1]
    return f"{_lines(HEADINGS, rows(by_row(wide)))}\n\n{last.cpu}, torch {last.torch}, {last.date}."


def _tables(lines: Sequence[Line]) -> Iterator[str]:
    for (family, budget), runs in _all(lines).items():
        bound = " and ".join(f"{measure} <= {times:g}x" for measure, times in BUDGETS[budget].items())
        yield f"## {family}, {bound}\n"
        yield "\n".join(markdown(HEADINGS, rows(runs)))
        yield ""


def _spared(lines: Sequence[Line]) -> Iterator[tuple[str, ...]]:
    """A line for each row that was trained in both ways."""
    for family in OF_FAMILY:
        for budget in BUDGETS:
            own = [each for each in lines if each.family == family and each.budget in (budget, "params")]
            found = by_row(each for each in own if each.budget == budget or each.row in WITHOUT_BUDGET)
            for cells in spared_rows(found):
                yield family, budget, *cells


def _verdict(lines: Sequence[Line]) -> str:
    """A sentence for each table that has rows, other than NR, better or worse than BL with the corrected interval."""
    said = []
    for (family, budget), runs in _all(lines).items():
        if "BL" in runs:
            others = {
                row: paired(own, runs["BL"], "test", len(runs) - 1)
                for row, own in runs.items()
                if row not in ("BL", NAMED)
            }
            better = [row for row, found in others.items() if found and found.apart and found.mean < 0]
            worse = [row for row, found in others.items() if found and found.apart and found.mean > 0]
            if better or worse:
                said.append(f"- {family}, {budget}: better than BL: {_named(better)}; worse: {_named(worse)}.")
    return "\n".join(said)


def _named(rows: Sequence[str]) -> str:
    return ", ".join(f"`{row}`" for row in rows) or "none"
