"""A training as the command line asks for it: options over a recipe, or a run that was broken off and goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator
from rich.console import Console

from nrfx.choices import LogName, PenaltyName, Spare, Weighted
from nrfx.cli.output import remark
from nrfx.cli.parser import NEW_CHANNELS
from nrfx.errors import CheckpointError, TraceError, UsageError
from nrfx.experiment.config import RunConfig
from nrfx.experiment.data import Dataset
from nrfx.experiment.datasets import DataConfig, dataset
from nrfx.experiment.fit import check_fit
from nrfx.experiment.loop import Run, train
from nrfx.experiment.metrics import Watchers, metrics
from nrfx.experiment.progress import Screen
from nrfx.experiment.ranks import launched, ranks
from nrfx.experiment.recipe import recipe
from nrfx.experiment.recipe_file import OF_THE_FILE, RecipeFile, Row, read
from nrfx.experiment.record import Silent, check_free, check_resumable, is_free
from nrfx.files import parsed, text_of
from nrfx.models import resolve
from nrfx.plan.budget import Budget
from nrfx.plan.budget_request import parse_budget
from nrfx.rewrite.cross_attend import cross_attend
from nrfx.tracing import TracedModule, as_traced
from nrfx.training.processes import Alone

OF_THE_PENALTY = ("delta_lambda", "penalty", "weighted", "spare", "raise_lambda", "shrink_beta")

SETTINGS = {
    "batch": "batch_size",
    **{name: name for name in ("epochs", "lr", "warmup", "trigger", "interval", "until", "window")},
    **{name: name for name in (*OF_THE_PENALTY, *NEW_CHANNELS)},
}
"""Options of the command line -> settings of a recipe."""

DATA = {"data": "name", "data_root": "root", **{name: name for name in ("download", "size", "channels", "count")}}
"""Options of the command line -> fields of DataConfig."""

COUNTED = ("shapes", "fashion")
"""The datasets that have a count of images."""

SHORT_SCHEDULE: Mapping[str, Any] = {"delta_lambda": None}
"""Where there is no recipe: the paper's delta_lambda is for epochs of thousands of steps."""

ROW_OF = {"attention": "NR-CA-BR", "dense": "NR-BR", "removed": "NR-CR"}
"""The row that a scheme means where none is named: the one that rescales, where there is one."""

OF_A_SEARCH = (
    *("budget", "warmup", "trigger", *OF_THE_PENALTY, "interval", "until", "window", "scheme"),
    *NEW_CHANNELS,
)
"""Options that mean nothing where nothing is rejuvenated."""

GOES_ON = {"resume", "data_root", "device", "json", "run", "log"}
"""Options that may stand beside --resume."""


@dataclass(frozen=True)
class Job:
    """A training to be carried out: a recipe, and a file of weights to start from if there is one."""

    recipe: RecipeFile
    weights: str | None = None

    def to_plain(self) -> dict[str, Any]:
        """What config.json needs beside the settings of the run, so that `resumed` finds the same job."""
        file = self.recipe
        return {
            "row": file.row.name,
            "model": file.model,
            "num_classes": file.num_classes,
            "budget_asked": file.budget,
            "weights": self.weights,
            "data": asdict(file.data),
        }


@dataclass(frozen=True)
class Finished:
    """What came of a job: the numbers as JSON values, and a sentence; of several processes the first one shows it."""

    plain: Mapping[str, Any]
    sentence: str
    shown: bool = True


def asked(options: Mapping[str, Any]) -> Job:
    """The job that options of `nrfx train` describe; those that are None were not given.

    Raises:
        UsageError: there is neither a model nor a recipe, or options contradict each other.
    """
    file = _base(options)
    if options["row"]:
        file = replace(file, row=recipe(options["row"]))
    if options["scheme"] and (options["row"] or options["recipe"]):
        raise UsageError(f"--scheme {options['scheme']} and a row contradict each other: the row decides the scheme.")
    idle = [name for name in OF_A_SEARCH if options[name] is not None and not file.row.rejuvenates]
    if idle:
        raise UsageError(
            f"--{idle[0].replace('_', '-')} has no meaning for {file.row.name}, which rejuvenates nothing: leave it "
            "out, or give a --budget or a --row such as NR-CA-BR."
        )
    chosen = options["data"] or file.data.name
    if options["count"] is not None and chosen not in COUNTED:
        raise UsageError(f"--count has no meaning for {chosen}: leave it out, or give --data {' or '.join(COUNTED)}.")
    settings = {field: options[name] for name, field in SETTINGS.items() if options[name] is not None}
    places = {field: options[name] for name, field in DATA.items() if options[name] is not None}
    own = {name: options[name] for name in ("model", "num_classes", "budget", "seed") if options[name] is not None}
    known = {name: value for name, value in file.train.items() if name != "search" or "window" not in settings}
    changed = replace(file, train={**known, **settings}, data=replace(file.data, **places), **own)
    return Job(changed, options["weights"])


def _base(options: Mapping[str, Any]) -> RecipeFile:
    if options["recipe"]:
        return read(options["recipe"])
    if not options["model"]:
        raise UsageError("There is nothing to train: name a MODEL such as resnet18, or a --recipe (--recipe list).")
    row = ROW_OF[options["scheme"] or "attention"] if options["budget"] else "BL"
    return RecipeFile(recipe(row), options["model"], train=SHORT_SCHEDULE)


def resumed(out: Path, options: Mapping[str, Any]) -> Job:
    """The job of a run that was broken off, from the config.json in its folder.

    Raises:
        UsageError: the folder holds no run, or an option is given that would change it.
        CheckpointError: config.json is not that of `nrfx train`.
    """
    given = sorted(name for name, value in options.items() if value is not None and name not in GOES_ON)
    if given:
        raise UsageError(
            f"--{given[0].replace('_', '-')} cannot be changed in a run that goes on: give --resume {out} alone."
        )
    path = out / "config.json"
    if not path.is_file():
        raise UsageError(f"{out} holds no run: there is no {path.name} in it.")
    if not is_free(out):
        check_resumable(out)
    told = parsed(_Told, text_of(path, CheckpointError), str(path), CheckpointError)
    data = replace(told.data, root=root) if (root := options["data_root"]) else told.data
    train = {name: getattr(told, name) for name in OF_THE_FILE}
    file = RecipeFile(told.row, told.model, told.budget_asked, told.num_classes, told.seed, data, train)
    return Job(file, told.weights)


@dataclass(frozen=True, kw_only=True)
class _Told(RunConfig):
    """The content of a config.json of `nrfx train`; what a file of before does not name was as in the paper."""

    penalty: PenaltyName = "sign"
    weighted: Annotated[Weighted, BeforeValidator(lambda name: "alike" if name is None else name)] = "alike"
    spare: Spare = "none"
    gamma_new: float | None = None
    rescale_limit: float | None = None
    warmup: int | None = 0
    row: Row
    model: str
    num_classes: int | None
    budget_asked: str
    weights: str | None
    data: DataConfig
    budget: Budget | None


def carry_out(
    job: Job,
    out: Path,
    device: str,
    console: Console,
    resume: bool = False,
    log: Sequence[LogName] = (),
) -> Finished:
    """Trains, shows it on the console, and leaves the run in the folder `out`.

    Args:
        job: what to train.
        out: the run's folder.
        device: of torch.
        console: where the run shows itself.
        resume: go on with the run in `out`, or begin it if it was killed before its first checkpoint.
        log: what else its numbers are written to, in the folder.

    Raises:
        NrfxError: something is not there, or does not fit.
    """
    with launched(device) as own:
        return _carried_out(job, out, own, console, resume, log)


def _carried_out(job: Job, out: Path, device: str, console: Console, resume: bool, log: Sequence[LogName]) -> Finished:
    file, together = job.recipe, ranks()
    wanted = parse_budget(file.budget) if file.row.rejuvenates else None
    with together.telling("the start of the training"):
        others = metrics(log, out) if together.rank == 0 else ()
        torch.manual_seed(file.config.seed)
        data = _first_first(together, file)
        traced = on_device(network(job, data), device)
        budget = None if wanted is None else wanted.of(traced)
        check_fit(traced, data, file.config)
        if not resume and together.rank == 0:
            check_free(out)
        told = {name: job.to_plain()[name] for name in ("row", "model", "budget_asked")}
        resume = together.agree("the start of the training", told, resume and not is_free(out))
    if together.rank:
        run = train(traced, data, file.config, budget, out, Silent(), resume=resume, about=job.to_plain())
        return replace(_finished(job, run, budget, out), shown=False)
    title = file.model.rpartition(":")[2]  # a line of a run shall fit into 80 columns
    with Screen(console, title, file.config, budget, network=file.model) as screen:
        watchers = Watchers(screen, *others)
        run = train(traced, data, file.config, budget, out, watchers, resume=resume, about=job.to_plain())
    return _finished(job, run, budget, out)


def _first_first(together: Alone, file: RecipeFile) -> Dataset:
    """The dataset, which the first process gets before the others: it may download it."""
    place = "the dataset"
    if together.rank:
        together.agree(place, {})
    data = dataset(file.data, file.config.seed)
    if together.rank == 0:
        together.agree(place, {})
    return data


def network(job: Job, data: Dataset) -> TracedModule:
    """The network of a job, for the images of a dataset; untrained, it is drawn from torch's own generator."""
    file = job.recipe
    classes = file.num_classes or (data.classes if _takes_classes(file.model) else None)
    shape = (2, *data.train.shape)
    model = resolve(file.model, classes, job.weights, [shape])
    remark(model.notes)
    try:
        traced = as_traced(model.module, model.example_inputs)
    except TraceError as error:
        images = f"The input was {'x'.join(map(str, shape))}, the images of {data.name}"
        raise TraceError(f"{error} ({images}; --channels and --size, or [data], give others.)") from error
    return cross_attend(traced, parts=2) if file.row.attends else traced


def _takes_classes(model: str) -> bool:
    """Whether a model is known to take a number of classes: a factory of the user's own need not."""
    kind, colon, _ = model.partition(":")
    return not colon or kind in ("timm", "nrfx")


def on_device(traced: TracedModule, device: str) -> TracedModule:
    """The network on a device of torch.

    Raises:
        UsageError: there is no such device.
    """
    try:
        return traced.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"There is no device {device!r} here ({str(error).splitlines()[0]}).") from error


def _finished(job: Job, run: Run, budget: Budget | None, out: Path) -> Finished:
    plain = {
        "model": job.recipe.model,
        "row": job.recipe.row.name,
        "budget": None if budget is None else asdict(budget),
        **run.numbers(),
        "note": run.note,
        "seconds": run.seconds,
        "out": str(out),
    }
    count, last = len(run.events), run.epochs[-1]
    recalibrated = "" if last.lagging_error is None else f" ({last.validation_error:.2f} % recalibrated)"
    sentence = (
        f"test error {run.test.error:.2f} %, validation error {run.validation.error:.2f} %{recalibrated}, "
        f"{run.params:,} params, {run.flops:,} flops, {count} rejuvenation{'' if count == 1 else 's'}. Saved in {out}."
    )
    return Finished(plain, sentence)
