# ruff: noqa: PLC0415  torch takes seconds to import, and `nrfx --help` does not need it
"""The command line: every command prints a report, or with --json the same numbers; errors are one line on stderr.

Exit status: 0 done; 1 a defect of nrfx, with its traceback; 2 nothing was done, and the line says why; 130 interrupted.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nrfx.errors import AnalysisError, CheckpointError, NrfxError, TraceError, UsageError
from nrfx.plan.budget_request import parse_budget

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nrfx.analysis.utilization import Utilization
    from nrfx.plan.budget import Budget
    from nrfx.rewrite.result import Rejuvenation
    from nrfx.tracing import TracedModule

DONE, NOTHING_DONE, INTERRUPTED = 0, 2, 130
RESIDUALS = ("live", "fixed", "coupled")
SCHEMES = ("attention", "dense", "removed")
MODEL = (
    "a torchvision name, timm:NAME, nrfx:NAME (the paper's), or package.module:factory (the current directory is "
    "importable)"
)


def main(argv: list[str] | None = None) -> int:
    """Runs a command line (None: that of the process) and returns its exit status."""
    try:
        arguments = _parser().parse_args(argv)
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except NrfxError as error:
        print(f"nrfx: error: {' '.join(str(error).split())}", file=sys.stderr)
        return NOTHING_DONE
    except KeyboardInterrupt:
        print("nrfx: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


# Arguments


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is a UsageError."""

    def error(self, message: str) -> NoReturn:
        """One line, and where to read more."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def _help(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="nrfx",
        description="See the waste in a network while it trains, and give it back.",
        epilog="example:\n  nrfx inspect resnet50 --weights checkpoint.pt",
        formatter_class=_help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nrfx {version('nrfx')}")
    parser.set_defaults(run=lambda _: _no_command(parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_inspect(commands)
    _add_why(commands)
    _add_rejuvenate(commands)
    _add_train(commands)
    _add_plot(commands)
    _add_demo(commands)
    return parser


def _no_command(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return NOTHING_DONE


def _command(commands: Any, name: str, run: Any, summary: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=_help,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the report")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("--weights", metavar="FILE", help="a state_dict, or a file that nrfx wrote")
    parser.add_argument("--num-classes", type=_positive, metavar="N", help="outputs of the model")


def _add_analysis(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument(
        "--input", type=_shape, action="append", metavar="SHAPE", help="such as 1,3,32,32; once per input of the model"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.01, metavar="T", help="dead below T x the layer's largest gamma (0.01)"
    )
    parser.add_argument(
        "--residual", choices=RESIDUALS, default="live", help="what may die on residual streams (live: nothing)"
    )


def _add_inspect(commands: Any) -> None:
    summary = "show which layers of a network waste what they cost"
    parser = _command(commands, "inspect", _inspect, summary, "nrfx inspect resnet50 --weights FILE --cost flops")
    _add_analysis(parser)
    parser.add_argument(
        "--cost", choices=("params", "flops"), default="params", help="the measure that ranks layers (params)"
    )


def _add_why(commands: Any) -> None:
    summary = "show what pins or holds the channels of a layer, node by node"
    parser = _command(commands, "why", _why, summary, "nrfx why resnet18 layer1.0.conv2")
    _add_analysis(parser)
    parser.add_argument(
        "layer", metavar="LAYER", nargs="?", default="", help="a module path; of a container, or without one: all in it"
    )


def _add_rejuvenate(commands: Any) -> None:
    summary = "drop dead channels and widen what lives, within a budget"
    example = "nrfx rejuvenate resnet50 --weights FILE --budget flops=1.0x -o better.safetensors"
    parser = _command(commands, "rejuvenate", _rejuvenate, summary, example)
    _add_analysis(parser)
    parser.add_argument(
        "--budget",
        metavar="BUDGET",
        help="what it may cost: params=11.7M, flops=1.0x (of what it costs now), or both with a comma",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to save the result")
    parser.add_argument("--scheme", choices=SCHEMES, default="attention", help="how old and new channels meet")
    parser.add_argument("--no-rescale", dest="rescale", action="store_false", help="leave small gammas small")
    parser.add_argument(
        "--no-reallocate", dest="reallocate", action="store_false", help="every layer back to its own old width"
    )
    parser.add_argument("--round-to", type=int, default=1, metavar="N", help="widths are multiples of N (1)")
    parser.add_argument("--gamma0", type=float, metavar="G", help="initial level of gammas (the model's)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of new weights (0)")
    parser.add_argument("--verify", action="store_true", help="compare outputs before and after on a random input")


def _add_train(commands: Any) -> None:
    summary = "train a network, and rejuvenate it on the way; or a row of the paper's tables"
    example = (
        "nrfx train --recipe digits --row NR-CA-BR\n  nrfx train resnet18 --size 32 --channels 3 --budget params=1.0x"
    )
    parser = _command(commands, "train", _train, summary, example)
    parser.add_argument("model", metavar="MODEL", nargs="?", help=f"{MODEL}; a recipe names its own")
    parser.add_argument("--recipe", metavar="NAME", help="a TOML file, or a recipe of nrfx's own (--recipe list)")
    parser.add_argument("--row", metavar="ROW", help="of the paper's Table 1, such as BL or NR-CA-BR")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with a run that was broken off")
    parser.add_argument("--weights", metavar="FILE", help="a state_dict, or a file that nrfx wrote")
    parser.add_argument("--num-classes", type=_positive, metavar="N", help="outputs of the model")
    parser.add_argument(
        "--data", choices=("digits", "shapes", "cifar10", "cifar100", "folder"), help="(digits, which need no download)"
    )
    parser.add_argument("--data-root", metavar="DIR", help="folder of CIFAR's files, or of train/ and val/")
    parser.add_argument("--download", action="store_const", const=True, help="fetch CIFAR if it is not there")
    parser.add_argument("--size", type=_positive, metavar="N", help="side to which images are resized (8; shapes 32)")
    parser.add_argument("--channels", type=int, choices=(1, 3), metavar="N", help="colours of the images (1)")
    parser.add_argument("--budget", metavar="BUDGET", help="as for rejuvenate; without one it is plain training")
    parser.add_argument("--epochs", type=int, metavar="N", help="(30)")
    parser.add_argument("--batch", type=int, metavar="N", help="images a step (16)")
    parser.add_argument("--lr", type=float, metavar="LR", help="learning rate (0.02)")
    parser.add_argument("--trigger", type=float, metavar="R", help="rejuvenate at a utilization below R (0.5)")
    parser.add_argument("--delta-lambda", type=float, metavar="D", help="how fast the penalty grows (5e-4)")
    parser.add_argument("--shrink-beta", type=float, metavar="S", help="also pull betas that hold dead channels (0)")
    parser.add_argument("--interval", type=int, metavar="N", help="steps between two measurements (an epoch)")
    parser.add_argument("--scheme", choices=SCHEMES, help="how old and new channels meet (attention; or give a row)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (runs/train, or the next free one)")
    parser.add_argument("--seed", type=int, metavar="N", help="of data, weights and order (0)")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu, cuda, cuda:1, mps (cpu)")


def _add_plot(commands: Any) -> None:
    summary = "draw utilization and validation accuracy of runs over their epochs"
    parser = _command(commands, "plot", _plot, summary, "nrfx plot runs/demo/plain runs/demo/nr -o figure.png")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="the folder of a run")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", default=Path("runs.png"), help="(runs.png, runs.svg)"
    )
    parser.add_argument("--cost", choices=("params", "flops"), default="params", help="whose utilization (params)")


def _add_demo(commands: Any) -> None:
    summary = "train a small network twice, plainly and with Neural Rejuvenation, and compare"
    parser = _command(commands, "demo", _demo, summary, "nrfx demo")
    parser.add_argument("--epochs", type=int, metavar="N", help="of each training (the demo's)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of both runs (runs/demo, or the next free one)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of data, weights and order (0)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.replace("x", ",").split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; expected sizes such as 1,3,32,32")
    return tuple(int(size) for size in sizes)


# Commands


def _inspect(arguments: argparse.Namespace) -> int:
    from nrfx.report import utilization_report

    with _busy(f"looking at {arguments.model}"):
        u = _measured(_traced(arguments), arguments)
    plain = {"model": arguments.model, **json.loads(u.to_json())}
    _print(arguments, plain, utilization_report(u, _title(arguments), arguments.cost))
    return DONE


def _why(arguments: argparse.Namespace) -> int:
    from nrfx.analysis.why import why
    from nrfx.report import why_report

    with _busy(f"looking at {arguments.model}"):
        traced = _traced(arguments)
        answer = why(traced, arguments.layer, threshold=arguments.threshold, residual=arguments.residual)
    plain = {"model": arguments.model, **json.loads(answer.to_json())}
    _print(arguments, plain, why_report(answer, _title(arguments)))
    return DONE


def _rejuvenate(arguments: argparse.Namespace) -> int:
    import torch

    from nrfx.report import rejuvenation_report

    request = parse_budget(arguments.budget)
    _check_writable(arguments.output)
    torch.manual_seed(arguments.seed)
    with _busy(f"rejuvenating {arguments.model}"):
        traced = _traced(arguments)
        budget = request.of(traced)
        result = _rejuvenated(traced, budget, arguments)
        difference = _verified(traced, result) if arguments.verify else None
        if arguments.output is not None:
            from nrfx.checkpoint import save

            save(arguments.output, result.module)
    plain = _plain(arguments, result, budget, difference)
    _print(arguments, plain, rejuvenation_report(result, _title(arguments), budget), _endings(arguments, difference))
    return DONE


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
        round_to=arguments.round_to,
        generator=torch.Generator().manual_seed(arguments.seed),
    )
    if not result.changed:
        raise NrfxError(" ".join(result.notes))
    return result


def _verified(traced: "TracedModule", result: "Rejuvenation") -> float:
    import torch

    from nrfx.rewrite.verify import verify

    return verify(traced, result, tuple(torch.randn(shape).to(dtype) for shape, dtype in traced.inputs))


def _plain(
    arguments: argparse.Namespace, result: "Rejuvenation", budget: "Budget", difference: float | None
) -> dict[str, Any]:
    from nrfx.report import widths

    return {
        "model": arguments.model,
        "budget": asdict(budget),
        "alpha": result.alpha,
        "before": json.loads(result.before.to_json()),
        "after": json.loads(result.after.to_json()),
        "widths": {name: asdict(of) for name, of in widths(result).items()},
        "carriers": list(result.carriers),
        "notes": list(result.notes),
        "difference": difference,
        "output": None if arguments.output is None else str(arguments.output),
    }


def _endings(arguments: argparse.Namespace, difference: float | None) -> list[str]:
    ending = []
    if difference is not None:
        ending.append(f"Verified: outputs before and after differ by {difference:.1e} of the largest one.")
    saved = "Nothing was saved: -o FILE does." if arguments.output is None else f"Saved to {arguments.output}."
    return [*ending, saved]


def _train(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from nrfx.cli import train as job

    if arguments.recipe == "list":
        return _list_recipes(arguments)
    asked = job.resumed(arguments.resume, vars(arguments)) if arguments.resume else job.asked(vars(arguments))
    out = arguments.resume or arguments.out or _free("train")
    console = Console(stderr=arguments.json)
    finished = job.carry_out(asked, out, arguments.device, console, resume=bool(arguments.resume))
    _print(arguments, finished.plain, finished.sentence)
    return DONE


def _list_recipes(arguments: argparse.Namespace) -> int:
    from nrfx.experiment.recipe_file import names, read

    lines = {name: read(name) for name in names()}
    plain = {name: {"row": file.row.name, "model": file.model, "data": file.data.name} for name, file in lines.items()}
    wide = max(map(len, lines))
    report = "\n".join(f"{name:{wide}}  {' '.join(about.values())}" for name, about in plain.items())
    _print(arguments, plain, report)
    return DONE


def _plot(arguments: argparse.Namespace) -> int:
    from nrfx.experiment.plot import plot

    files = [str(path) for path in plot(arguments.runs, arguments.output, arguments.cost)]
    _print(arguments, {"files": files}, f"Written: {', '.join(files)}")
    return DONE


def _demo(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from nrfx.experiment.demo import demo

    console = Console(stderr=arguments.json)
    chosen = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    result = demo(arguments.out or _free("demo"), seed=arguments.seed, console=console, **chosen)
    if arguments.json:
        print(result.to_json())
    return DONE


def _free(name: str) -> Path:
    """runs/name, or the first of runs/name-2, runs/name-3, ... that does not exist."""
    candidates = (Path("runs", name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(path for path in candidates if not path.exists())


# What commands share


def _traced(arguments: argparse.Namespace) -> "TracedModule":
    from nrfx.models import resolve
    from nrfx.tracing import as_traced

    model = resolve(arguments.model, arguments.num_classes, arguments.weights, arguments.input)
    try:
        return as_traced(model.module, model.example_inputs)
    except TraceError as error:
        shapes = " and ".join("x".join(map(str, x.shape)) for x in model.example_inputs)
        raise TraceError(f"{error} (The input was {shapes}; --input gives another.)") from error


def _measured(traced: "TracedModule", arguments: argparse.Namespace) -> "Utilization":
    from nrfx.analysis.liveness import liveness_of
    from nrfx.analysis.spaces import channels_of
    from nrfx.analysis.utilization import measure

    channels = channels_of(traced)
    if not channels.norms:
        raise AnalysisError(
            f"{arguments.model} has no gamma at all: nothing tells which channels are dead. "
            "Neural Rejuvenation needs layers with a batch norm."
        )
    return measure(traced, channels, liveness_of(traced, channels, arguments.threshold, arguments.residual))


def _title(arguments: argparse.Namespace) -> str:
    """The model's name; a named model without a file is untrained."""
    fresh = arguments.weights is None and _is_named(arguments.model)
    return f"{arguments.model} (untrained)" if fresh else str(arguments.model)


def _is_named(model: str) -> bool:
    """Whether it is a model of torchvision, timm or the paper, not the user's own."""
    return ":" not in model or model.startswith(("timm:", "nrfx:"))


def _check_writable(path: Path | None) -> None:
    """Refuses a place where nothing can be written, before the work."""
    if path is None:
        return
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; expected the name of a file.")
    if not path.parent.is_dir():
        raise CheckpointError(f"{path} cannot be written: there is no folder {path.parent}.")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise CheckpointError(f"{path} cannot be written: permission denied.")


@contextmanager
def _busy(what: str) -> Iterator[None]:
    """A spinner on stderr, if that is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(f"{what} ..."):
        yield


def _print(
    arguments: argparse.Namespace, plain: Mapping[str, Any], report: "RenderableType", ending: Sequence[str] = ()
) -> None:
    """JSON, or the report: with colours on a terminal, plain elsewhere."""
    from rich.console import Console, Group

    from nrfx.report import columns, render

    if arguments.json:
        print(json.dumps(plain, indent=2))
        return
    whole = Group(report, *(["", *ending] if ending else []))
    console = Console(width=columns())
    if console.is_terminal:
        console.print(whole, highlight=False)
    else:
        print(render(whole))
