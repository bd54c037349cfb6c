# ruff: noqa: E501  the lines of the page are as long as those of the other documents
"""The page docs/demo.md and its picture, from the lines of the runs."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from benchmarks.study.intervals import interval
from benchmarks.table import markdown
from nrfx.experiment.demo.picture import Pair
from nrfx.experiment.demo.setting import SETTINGS
from nrfx.experiment.demo.show import SEEDS as SHOWN
from nrfx.experiment.demo.show import report
from nrfx.experiment.demo.training import Row, Trained
from nrfx.experiment.demo.verdict import verdict

COLUMNS = 80


@dataclass(frozen=True)
class Line:
    """A run of the demo: the fields of `Trained`, sequences as text, and of which setting it is.

    test: None where the setting is chosen.
    """

    key: str
    setting: str
    seed: int
    row: Row
    params: int
    flops: int
    layers: str
    widths: str
    steps: int
    event: int
    r: float
    alpha: float
    validation: float
    test: float | None
    curve: str
    seconds: float
    note: str
    torch: str
    date: str
    cpu: str

    def trained(self) -> Trained:
        """What the demo shows of it; a test error that was not looked at is that of validation."""
        points = (point.partition(":") for point in self.curve.split())
        return Trained(
            seed=self.seed,
            row=self.row,
            params=self.params,
            flops=self.flops,
            layers=tuple(self.layers.split()),
            widths=tuple(map(int, self.widths.split())),
            steps=self.steps,
            event=self.event,
            r=self.r,
            alpha=self.alpha,
            validation=self.validation,
            test=self.validation if self.test is None else self.test,
            curve=tuple((int(step), float(error)) for step, _, error in points),
            seconds=self.seconds,
            note=self.note,
        )


def pairs_of(lines: Iterable[Line]) -> list[Pair]:
    """The seeds of which both runs are there, in order."""
    runs = {(line.setting, line.seed, line.row): line.trained() for line in lines}
    both = [key[:2] for key in runs if key[2] == "plain" and (*key[:2], "nr") in runs]
    return [Pair(runs[*key, "plain"], runs[*key, "nr"]) for key in both]


HEADINGS = (
    *(
        "data",
        "seeds",
        "plain, %",
        "NR, %",
        "NR - plain",
        "NR better in",
        "params",
        "flops",
        "event at step",
        "r",
        "wider",
    ),
)


def rows(lines: Sequence[Line]) -> Iterator[tuple[str, ...]]:
    """A line for each setting: mean test errors, and the paired 95 % interval of the difference."""
    yield from _rows(lines, "test")


CHOICE_HEADINGS = ("setting", *HEADINGS[1:])


def choice_rows(lines: Sequence[Line]) -> Iterator[tuple[str, ...]]:
    """The same for what the setting was chosen by, with validation errors."""
    yield from _rows(lines, "validation")


def _rows(lines: Sequence[Line], measure: str) -> Iterator[tuple[str, ...]]:
    for name in dict.fromkeys(line.setting for line in lines):
        pairs = pairs_of(line for line in lines if line.setting == name)
        if len(pairs) < 2:
            continue
        plain, ours = (
            [getattr(run, measure) for run in runs] for runs in ([p.plain for p in pairs], [p.nr for p in pairs])
        )
        found = interval([b - a for a, b in zip(plain, ours, strict=True)])
        events = [pair.nr for pair in pairs if pair.nr.event]
        yield (
            name,
            str(len(pairs)),
            str(interval(plain)),
            str(interval(ours)),
            f"**{found}**" if found.apart else str(found),
            f"{sum(b < a for a, b in zip(plain, ours, strict=True))} of {len(pairs)}",
            f"{pairs[0].plain.params:,}",
            f"x {mean(pair.nr.flops / pair.plain.flops for pair in pairs):.2f}",
            f"{mean(run.event for run in events):,.0f} ({len(events)} of {len(pairs)})" if events else "none",
            f"{mean(run.r for run in events):.2f}" if events else "",
            f"x {mean(run.alpha for run in events):.2f}" if events else "",
        )


def page(lines: Sequence[Line], tried: Sequence[Line], seeds: range) -> str:
    """The text of docs/demo.md."""
    setting, config = SETTINGS["digits"], SETTINGS["digits"].config
    fashion, other = SETTINGS["fashion"], SETTINGS["fashion"].config
    last = lines[-1]
    return f"""# The demo, over {len(seeds)} seeds

`nrfx demo` trains one network twice from each of three seeds, plainly and with Neural Rejuvenation (NR), and says what came of it. This
page is the same over {len(seeds)} seeds, made by

```sh
python -m benchmarks demo
```

from [a line for each run](../benchmarks/results/demo.csv). A seed decides the split of the images, the initial weights, the order of the images and
the new weights. *NR - plain* is the mean of the differences in test error, in points, with its 95 % interval (Student's t, paired by seed; **bold**: 0 lies
outside).

{chr(10).join(markdown(HEADINGS, rows(lines)))}

{_verdicts(lines)}

![What nrfx demo shows of seeds 0 to 2](demo.svg)

## What it is a demo of

The network ({", ".join("pool" if width is None else str(width) for width in setting.widths)} channels, {pairs_of(lines)[0].plain.params:,} params) has its width in the wrong places: as in the
paper's VGG-16, most params lie in the last layers, where the images are small, and the first layers are too narrow for the task. NR takes params from
the last layers and widens the first. That is when a gain is to be expected, and a large one here, for the shape is an extreme one. In a network of a good
shape there is little or nothing to win: [the digits](digits.md) has ten rows of Table 1 on one, and [the results](results.md) what was measured
elsewhere. Params are held, and multiply-adds are not: early layers are run at more places, so that NR's network takes
more of them. A network that somebody shapes by hand may do as well as what NR finds.

## The set-up

**Digits.** The 1,797 handwritten digits of scikit-learn, {setting.side} x {setting.side} pixels: {_percent(1 - setting.validation - setting.test)} to train on, moved by up to
{config.shift} pixel at random, {_percent(setting.validation)} for validation and {_percent(setting.test)} for the test. {config.epochs} epochs of batches of {config.batch_size}. SGD with momentum {config.momentum},
weight decay {config.weight_decay:g}, learning rate {config.lr}: in plain training it falls along a half cosine from the start, in NR from the event on (or
from the end of the search, {_percent(config.search)} of the epochs). Row NR of Table 1: T_r = {config.trigger}, an interval of {config.interval} steps, delta_lambda = {config.delta_lambda:g}, and as in
[the study](results.md) a proximal penalty weighted by params that spares large gammas, gammas of new channels at {config.gamma_new:g}, a warm-up of {config.warmup} steps behind the event.

**Fashion-MNIST** (`nrfx demo --data-root DIR`, or where Debian's package dataset-fashion-mnist has put it): {fashion.count:,} images of {fashion.side} x {fashion.side} pixels to train on,
the network {", ".join("pool" if width is None else str(width) for width in fashion.widths)}, {other.epochs} epochs of batches of {other.batch_size}, learning rate {other.lr}, delta_lambda {other.delta_lambda:g}; the rest as above. That is
row NR of [the study](results.md) with fewer images, and nothing of it was chosen on this network. With 12,000 images and 16 epochs, which
took longer than three minutes on two slow cores, NR won 1.03 ± 0.24 points over the same seeds. Its lines are made by
`python -m benchmarks demo --data digits fashion --data-root DIR`.

The validation errors in the curves are those of the weights, with running statistics taken anew ([training](training.md#which-score-is-whose)); the
test error is that of the network as it is saved. One thread a run; {last.cpu}, torch {last.torch}, {last.date}.

## What the setting was chosen by

The learning rate, for both trainings, by validation errors of seeds 1000 to 1002, with {_percent(setting.test)} of the images for validation and the test images not
looked at (`python -m benchmarks demo --choose`, [lines](../benchmarks/results/demo_choices.csv)). Before that, the same shape of network was tried with 1.5 and 2
times the channels, images moved by up to 2 pixels, and 40 epochs, in single runs of these seeds. In 40 epochs NR won nothing, for the event came too
late; else it was better in each. Wider networks won less, and over three seeds that cannot always be told from chance.

{chr(10).join(markdown(CHOICE_HEADINGS, choice_rows(tried)))}
"""


def _percent(part: float) -> str:
    return f"{round(100 * part)} %"


def _verdicts(lines: Sequence[Line]) -> str:
    names = dict.fromkeys(line.setting for line in lines)
    return "\n".join(f"- {name}: {verdict(pairs_of(line for line in lines if line.setting == name))}" for name in names)


THEME = TerminalTheme(
    (255, 255, 255),
    (40, 44, 52),
    [
        (40, 44, 52),
        (180, 40, 30),
        (0, 115, 60),
        (160, 110, 0),
        (0, 90, 160),
        (140, 60, 130),
        (0, 120, 130),
        (90, 90, 90),
    ],
    [
        (120, 125, 135),
        (180, 40, 30),
        (0, 115, 60),
        (160, 110, 0),
        (0, 90, 160),
        (140, 60, 130),
        (0, 120, 130),
        (60, 60, 60),
    ],
)
"""Dark on white, readable in a light and a dark page."""

SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
<rect fill="#ffffff" stroke="#c8ccd2" x="1" y="1" width="99.7%" height="99.7%" rx="6"/>
<text class="{unique_id}-matrix" x="{terminal_x}" y="30" fill="#28292c">$ nrfx demo</text>
<g transform="translate({terminal_x}, {terminal_y})">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def picture(lines: Sequence[Line]) -> str:
    """What the demo prints of its seeds on the digits, as an SVG without fonts of its own."""
    pairs = [pair for pair in pairs_of(line for line in lines if line.setting == "digits") if pair.plain.seed < SHOWN]
    console = Console(
        file=io.StringIO(),
        width=COLUMNS,
        record=True,
        force_terminal=True,
        color_system="standard",
        legacy_windows=False,
    )
    console.print("", *report(pairs), verdict(pairs), sep="\n", highlight=False)
    return console.export_svg(title="", theme=THEME, code_format=SVG, unique_id="demo")
