# ruff: noqa: PLC0415  torch takes seconds to import, and what the parser answers does not need it
"""The command line: every command prints a report, or with --json the same numbers; errors are one line on stderr.

Exit status: 0 done; 1 a defect of nrfx, with its traceback; 2 nothing was done, and the line says why; 128 + N ended
by signal N, such as 130 (SIGINT, Ctrl-C) and 143 (SIGTERM).
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nrfx.cli.endings import described, going_on_with, status_of, terminations
from nrfx.cli.parser import NEW_CHANNELS, arguments_parser
from nrfx.cli.start import imported
from nrfx.errors import AnalysisError, CheckpointError, NrfxError, TraceError, UsageError
from nrfx.plan.budget_request import parse_budget

if TYPE_CHECKING:
    from nrfx.analysis.utilization import Utilization
    from nrfx.deploy.latency import Latency
    from nrfx.models.names import ResolvedModel
    from nrfx.plan.budget import Budget
    from nrfx.rewrite.result import Rejuvenation
    from nrfx.rewrite.verify import Verification
    from nrfx.tracing import TracedModule

DONE, NOTHING_DONE = 0, 2


def main(argv: list[str] | None = None) -> int:
    """Runs a command line (None: that of the process) and returns its exit status."""
    try:
        parser = arguments_parser()
        arguments = parser.parse_args(argv)
        if "run" not in arguments:
            parser.print_help()
            return NOTHING_DONE
        with terminations():
            COMMANDS[arguments.run](arguments)
        sys.stdout.flush()
        return DONE
    except NrfxError as error:
        print(f"nrfx: error: {' '.join(str(error).split())}", file=sys.stderr)
        return NOTHING_DONE
    except KeyboardInterrupt as ending:
        print(" ".join((f"nrfx: {described(ending)}", *getattr(ending, "__notes__", ()))), file=sys.stderr)
        return status_of(ending)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _inspect(arguments: argparse.Namespace) -> None:
    imported("torch")
    from nrfx.cli.output import busy, show, written
    from nrfx.report import utilization_report

    if arguments.device is not None and not arguments.latency:
        raise UsageError("--device says where --latency measures: give both, or neither.")
    _check_writable(arguments.html)
    with busy(f"looking at {arguments.model}"):
        model = _resolved(arguments)
        traced = _traced_from(model)
        u = _measured(traced, arguments)
        verification = _agreement(model, traced) if arguments.verify else None
        time = _latency(traced, arguments) if arguments.latency else None
    plain = {"model": arguments.model, **json.loads(u.to_json())}
    if time is not None:
        plain["latency"] = asdict(time)
    ending = []
    if verification is not None:
        plain |= _comparisons(verification)
        difference = f"{verification.difference:.1e}"
        ending = [f"Verified: the traced network and the model differ by {difference} of the largest output, or less."]
        ending += _lines(verification)
    ending += written(arguments, u, _title(arguments))
    show(arguments, plain, utilization_report(u, _title(arguments), arguments.cost, time), ending)


def _latency(traced: "TracedModule", arguments: argparse.Namespace) -> "Latency":
    from nrfx.deploy.latency import latency, on_device

    return latency(on_device(traced, arguments.device or "cpu"))


def _why(arguments: argparse.Namespace) -> None:
    imported("torch")
    from nrfx.analysis.why import why
    from nrfx.cli.output import busy, show, written
    from nrfx.report import why_report

    _check_writable(arguments.html)
    with busy(f"looking at {arguments.model}"):
        traced = _traced(arguments)
        answer = why(traced, arguments.layer, threshold=arguments.threshold, residual=arguments.residual)
    plain = {"model": arguments.model, **json.loads(answer.to_json())}
    show(arguments, plain, why_report(answer, _title(arguments)), written(arguments, answer, _title(arguments)))


def _rejuvenate(arguments: argparse.Namespace) -> None:
    request = parse_budget(arguments.budget)
    _check_writable(arguments.output, arguments.html)

    imported("torch")
    import torch

    from nrfx.cli.output import busy, show, written
    from nrfx.report import rejuvenation_report

    torch.manual_seed(arguments.seed)
    with busy(f"rejuvenating {arguments.model}"):
        model = _resolved(arguments)
        traced = _traced_from(model)
        budget = request.of(traced)
        result = _rejuvenated(traced, budget, arguments)
        verification = _verified(model, traced, result) if arguments.verify else None
        _save(arguments, result)
    plain = _plain(arguments, result, budget, verification)
    ending = [*_endings(arguments, verification), *written(arguments, result, _title(arguments))]
    show(arguments, plain, rejuvenation_report(result, _title(arguments), budget), ending)


def _compact(arguments: argparse.Namespace) -> None:
    _check_writable(arguments.output, arguments.html)

    imported("torch")
    from nrfx.cli.output import busy, show, written
    from nrfx.report import rejuvenation_report
    from nrfx.rewrite.rejuvenate import compact

    with busy(f"compacting {arguments.model}"):
        model = _resolved(arguments)
        traced = _traced_from(model)
        result = compact(traced, residual=arguments.residual, threshold=arguments.threshold)
        if not result.changed:
            raise NrfxError(" ".join(result.notes))
        verification = _verified(model, traced, result) if arguments.verify else None
        _save(arguments, result)
    plain = _plain(arguments, result, None, verification)
    report = rejuvenation_report(result, _title(arguments), done="compacted")
    show(arguments, plain, report, [*_endings(arguments, verification), *written(arguments, result, _title(arguments))])


def _save(arguments: argparse.Namespace, result: "Rejuvenation") -> None:
    if arguments.output is not None:
        from nrfx.checkpoint import save

        save(arguments.output, result.module)


def _export(arguments: argparse.Namespace) -> None:
    _check_writable(arguments.output)

    imported("torch")
    from rich.text import Text

    from nrfx.cli.output import busy, show
    from nrfx.deploy.export import export, format_of

    format_of(arguments.output)
    with busy(f"exporting {arguments.model}"):
        exported = export(_traced(arguments), arguments.output, free=arguments.free, check=arguments.check)
    show(arguments, {"model": arguments.model, **asdict(exported), "path": str(exported.path)}, Text(str(exported)))


def _rejuvenated(traced: "TracedModule", budget: "Budget", arguments: argparse.Namespace) -> "Rejuvenation":
    import torch

    from nrfx.rewrite.rejuvenate import rejuvenate

    result = rejuvenate(
        traced,
        budget,
        scheme=arguments.scheme,
        rescale=arguments.rescale,
        reallocate=arguments.reallocate,
        residual=arguments.residual,
        threshold=arguments.threshold,
        gamma0=arguments.gamma0,
        **{name: value for name in NEW_CHANNELS if (value := getattr(arguments, name)) is not None},
        round_to=arguments.round_to,
        generator=torch.Generator().manual_seed(arguments.seed),
    )
    if not result.changed:
        raise NrfxError(" ".join(result.notes))
    return result


def _verified(model: "ResolvedModel", traced: "TracedModule", result: "Rejuvenation") -> "Verification":
    import torch

    from nrfx.rewrite.drawn import drawn
    from nrfx.rewrite.verify import verified

    args, kwargs = traced.facts.call(drawn(traced.inputs, torch.device("cpu")))
    return verified(traced, result, args, kwargs, model=model.module)


def _agreement(model: "ResolvedModel", traced: "TracedModule") -> "Verification":
    import torch

    from nrfx.rewrite.drawn import drawn
    from nrfx.rewrite.verify import agreement

    args, kwargs = traced.facts.call(drawn(traced.inputs, torch.device("cpu")))
    return agreement(traced, model.module, args, kwargs)


def _comparisons(verification: "Verification | None") -> dict[str, Any]:
    """What was compared, for JSON."""
    return {
        "difference": None if verification is None else verification.difference,
        "compared": [] if verification is None else list(verification.compared),
        "refused": [] if verification is None else list(verification.refused),
    }


def _lines(verification: "Verification") -> list[str]:
    """A line for each comparison, and for each size that the traced network does not take."""
    lines = [f"  {line}" for line in verification.compared]
    return [*lines, *(f"  Not taken by the traced network, on {line}" for line in verification.refused)]


def _plain(
    arguments: argparse.Namespace,
    result: "Rejuvenation",
    budget: "Budget | None",
    verification: "Verification | None",
) -> dict[str, Any]:
    from nrfx.report import widths

    return {
        "model": arguments.model,
        "budget": None if budget is None else asdict(budget),
        "alpha": result.alpha,
        "before": json.loads(result.before.to_json()),
        "after": json.loads(result.after.to_json()),
        "widths": {name: asdict(of) for name, of in widths(result).items()},
        "carriers": list(result.carriers),
        "notes": list(result.notes),
        **_comparisons(verification),
        "output": None if arguments.output is None else str(arguments.output),
    }


def _endings(arguments: argparse.Namespace, verification: "Verification | None") -> list[str]:
    ending = []
    if verification is not None:
        ending.append(f"Verified: outputs before and after differ by {verification.difference:.1e} of the largest one.")
        ending += _lines(verification)
    saved = "Nothing was saved: -o FILE does." if arguments.output is None else f"Saved to {arguments.output}."
    return [*ending, saved]


def _train(arguments: argparse.Namespace) -> None:
    imported("torch")
    from rich.console import Console

    from nrfx.cli import train as job
    from nrfx.cli.output import show

    if arguments.recipe == "list":
        _list_recipes(arguments)
        return
    asked = job.resumed(arguments.resume, vars(arguments)) if arguments.resume else job.asked(vars(arguments))
    out = arguments.resume or arguments.out or _free("train")
    console = Console(stderr=arguments.json)
    with going_on_with(f"nrfx train --resume {out}", out / "config.json"):
        log = arguments.log or ()
        finished = job.carry_out(asked, out, arguments.device, console, bool(arguments.resume), log)
    if finished.shown:
        show(arguments, finished.plain, finished.sentence)


def _advise(arguments: argparse.Namespace) -> None:
    imported("torch")
    from nrfx.cli import advise as job
    from nrfx.cli.output import show
    from nrfx.report import advice_report

    given = vars(arguments)
    asked, title = job.asked(given), str(arguments.model or arguments.recipe)
    advice = job.carry_out(asked, given)
    plain = {"model": asked.recipe.model, "data": asked.recipe.data.name, **advice.as_dict()}
    show(arguments, plain, advice_report(advice, title))


def _list_recipes(arguments: argparse.Namespace) -> None:
    from nrfx.cli.output import show
    from nrfx.experiment.recipe_file import names, read

    lines = {name: read(name) for name in names()}
    plain = {name: {"row": file.row.name, "model": file.model, "data": file.data.name} for name, file in lines.items()}
    wide = max(map(len, lines))
    report = "\n".join(f"{name:{wide}}  {' '.join(about.values())}" for name, about in plain.items())
    show(arguments, plain, report)


def _plot(arguments: argparse.Namespace) -> None:
    from nrfx.cli.output import show
    from nrfx.experiment.plot import plot

    files = [str(path) for path in plot(arguments.runs, arguments.output, arguments.cost)]
    show(arguments, {"files": files}, f"Written: {', '.join(files)}")


def _demo(arguments: argparse.Namespace) -> None:
    imported("torch")
    from rich.console import Console

    from nrfx.experiment.demo.show import FILE, JOBS, chosen, demo

    asked = {name: getattr(arguments, name) for name in ("data", "data_root", "seed", "seeds", "epochs")}
    given = {name: value for name, value in asked.items() if value is not None}
    if arguments.resume:
        if arguments.out is not None:
            given["out"] = arguments.out
        if given:
            name = next(iter(given)).replace("_", "-")
            raise UsageError(
                f"--{name} cannot be changed in a demo that goes on: give --resume {arguments.resume} alone."
            )
    out = arguments.resume or arguments.out or _free("demo")
    wanted = None if arguments.resume else chosen(given.pop("data", None), given.pop("data_root", None), **given)
    with going_on_with(f"nrfx demo --resume {out}", out / FILE):
        result = demo(out, wanted, arguments.jobs or JOBS, Console(stderr=arguments.json))
    if arguments.json:
        print(result.to_json())


def _doctor(arguments: argparse.Namespace) -> None:
    from nrfx.cli.doctor import examined, told
    from nrfx.cli.output import show

    found = examined()
    show(arguments, found, told(found))


COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "inspect": _inspect,
    "why": _why,
    "rejuvenate": _rejuvenate,
    "compact": _compact,
    "export": _export,
    "advise": _advise,
    "train": _train,
    "plot": _plot,
    "demo": _demo,
    "doctor": _doctor,
}
"""What each command does, by its name."""


def _free(name: str) -> Path:
    """runs/name, or the first of runs/name-2, runs/name-3, ... that does not exist."""
    candidates = (Path("runs", name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(path for path in candidates if not path.exists())


def _traced(arguments: argparse.Namespace) -> "TracedModule":
    return _traced_from(_resolved(arguments))


def _resolved(arguments: argparse.Namespace) -> "ResolvedModel":
    from nrfx.cli.output import remark
    from nrfx.models import resolve

    model = resolve(arguments.model, arguments.num_classes, arguments.weights, arguments.input)
    remark(model.notes)
    return model


def _traced_from(model: "ResolvedModel") -> "TracedModule":
    from nrfx.tracing import as_traced

    try:
        return as_traced(model.module, model.example_inputs)
    except TraceError as error:
        shapes = " and ".join("x".join(map(str, x.shape)) for x in model.example_inputs)
        raise TraceError(f"{error} (The input was {shapes}; --input gives another.)") from error


def _measured(traced: "TracedModule", arguments: argparse.Namespace) -> "Utilization":
    from nrfx.analysis.gammas import gammas_of
    from nrfx.analysis.liveness import liveness_of
    from nrfx.analysis.spaces import channels_of
    from nrfx.analysis.utilization import measure

    channels = channels_of(traced)
    gammas = gammas_of(traced, channels, arguments.residual)
    if not gammas.total:
        raise AnalysisError(f"{arguments.model}: {gammas.note}")
    return measure(traced, channels, liveness_of(traced, channels, arguments.threshold, arguments.residual))


def _title(arguments: argparse.Namespace) -> str:
    """The model's name; a named model without a file is untrained."""
    fresh = arguments.weights is None and _is_named(arguments.model)
    return f"{arguments.model} (untrained)" if fresh else str(arguments.model)


def _is_named(model: str) -> bool:
    """Whether it is a model of torchvision, timm or the paper, not the user's own."""
    return ":" not in model or model.startswith(("timm:", "nrfx:"))


def _check_writable(*paths: Path | None) -> None:
    """Refuses places where nothing can be written, before the work."""
    for path in filter(None, paths):
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder; expected the name of a file.")
        if not path.parent.is_dir():
            raise CheckpointError(f"{path} cannot be written: there is no folder {path.parent}.")
        if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise CheckpointError(f"{path} cannot be written: permission denied.")
