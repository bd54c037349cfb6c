"""The arguments of the command line. Needs no torch: `--help` and mistakes are answered at once."""

import argparse
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, get_args

from nrfx.choices import (
    CrossWeights,
    DatasetName,
    DemoData,
    Free,
    LogName,
    Measure,
    PenaltyName,
    RaiseLambda,
    Residual,
    Scheme,
    Spare,
    Suffix,
    Weighted,
)
from nrfx.errors import UsageError
from nrfx.plan.budget_request import parse_budget

MODEL = (
    "a torchvision name, timm:NAME, nrfx:NAME (the paper's), or package.module:factory (the current directory is "
    "importable)"
)

WEIGHTS = "a checkpoint in any usual form, or a file that nrfx wrote; KEY is the entry of it to take, such as ema"

NEW_CHANNELS = ("gamma_new", "rescale_limit", "cross")
"""Options of what happens to new channels, by the names of `nrfx.rejuvenate`; None where one is not given."""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is a UsageError."""

    def error(self, message: str) -> NoReturn:
        """One line: what is close to what was meant, and where to read more."""
        if chosen := re.search(r"invalid choice: '(.+)' \(choose from (.*)\)", message):
            message += _close(chosen[1], re.findall(r"[^\s',]+", chosen[2]))
        raise UsageError(f"{message} (see {self.prog} --help)")

    # a command refuses here what it does not know: its parent, which would do it otherwise, has other options
    def parse_known_args(self, *given: Any, **named: Any) -> tuple[Any, list[str]]:
        """All that was given, known; an option that is not is an error."""
        known, unknown = super().parse_known_args(*given, **named)
        if unknown:
            options = [name for action in self._actions for name in action.option_strings]
            hints = [_close(each.partition("=")[0], options) for each in unknown if each.startswith("-")]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{next(filter(None, hints), '')}")
        return known, unknown


def _close(name: str, names: Iterable[str]) -> str:
    """The names that are close to it, as the end of a sentence.

    >>> _close("--wieghts", ["--weights", "--help"]), _close("inspct", ["why", "inspect"]), _close("--no", ["--json"])
    ('; close to it: --weights', '; close to it: inspect', '')
    """
    bare = {each.lstrip("-"): each for each in names}
    close = get_close_matches(name.lstrip("-"), bare)
    return f"; close to it: {', '.join(bare[each] for each in close)}" if close else ""


class _Version(argparse.Action):
    """Prints the version of what is installed, looked up when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import version  # noqa: PLC0415 (takes longer than all of --help)

        print(f"nrfx {version('nrfx')}")
        parser.exit()


def _help(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32)


def arguments_parser() -> argparse.ArgumentParser:
    """The parser. Of what it parsed, `run` is the name of the command; without one there is no `run`."""
    parser = _Parser(
        prog="nrfx",
        description="See the waste in a network while it trains, and give it back.",
        epilog="example:\n  nrfx inspect resnet50 --weights checkpoint.pt",
        formatter_class=_help,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show the version and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_inspect(commands)
    _add_why(commands)
    _add_rejuvenate(commands)
    _add_compact(commands)
    _add_export(commands)
    _add_advise(commands)
    _add_train(commands)
    _add_plot(commands)
    _add_demo(commands)
    _command(
        commands, "doctor", "show versions, devices and kernels: what to say of a machine in a report", "nrfx doctor"
    )
    return parser


def _command(commands: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=_help,
        allow_abbrev=False,
    )
    parser.set_defaults(run=name)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the report")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("--weights", metavar="FILE[:KEY]", help=WEIGHTS)
    parser.add_argument("--num-classes", type=_positive, metavar="N", help="outputs of the model")


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input", type=_shape, action="append", metavar="SHAPE", help="such as 1,3,32,32; once per input of the model"
    )


def _add_analysis(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_input(parser)
    parser.add_argument(
        "--threshold", type=float, default=0.01, metavar="T", help="dead below T x the layer's largest gamma (0.01)"
    )
    parser.add_argument(
        "--residual",
        choices=get_args(Residual),
        default="live",
        help="what may die on residual streams (live: nothing)",
    )


def _add_html(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the report as a page, in one HTML file")


def _add_inspect(commands: Any) -> None:
    summary = "show which layers of a network waste what they cost"
    parser = _command(commands, "inspect", summary, "nrfx inspect resnet50 --weights FILE --cost flops")
    _add_analysis(parser)
    parser.add_argument(
        "--cost", choices=get_args(Measure), default="params", help="the measure that ranks layers (params)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare the traced network with the model, at several sizes and batches"
    )
    _add_html(parser)
    parser.add_argument("--latency", action="store_true", help="measure how long a forward takes, for some seconds")
    parser.add_argument("--device", metavar="D", help="of --latency: cpu, cuda, cuda:1, mps (cpu)")


def _add_why(commands: Any) -> None:
    summary = "show what pins or holds the channels of a layer, node by node"
    parser = _command(commands, "why", summary, "nrfx why resnet18 layer1.0.conv2")
    _add_analysis(parser)
    _add_html(parser)
    parser.add_argument(
        "layer",
        metavar="LAYER",
        nargs="?",
        default="",
        help="a module path, or a parameter; of a container, or without one: all in it",
    )


def _add_rejuvenate(commands: Any) -> None:
    summary = "drop dead channels and widen what lives, within a budget"
    example = "nrfx rejuvenate resnet50 --weights FILE --budget flops=1.0x -o better.safetensors"
    parser = _command(commands, "rejuvenate", summary, example)
    _add_analysis(parser)
    parser.add_argument(
        "--budget",
        type=_budget,
        metavar="BUDGET",
        help="what it may cost: params=11.7M, flops=1.0x (of what it costs now), or both with a comma",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to save the result")
    _add_html(parser)
    parser.add_argument("--scheme", choices=get_args(Scheme), default="attention", help="how old and new channels meet")
    parser.add_argument("--no-rescale", dest="rescale", action="store_false", help="leave small gammas small")
    parser.add_argument(
        "--no-reallocate", dest="reallocate", action="store_false", help="every layer back to its own old width"
    )
    parser.add_argument("--round-to", type=int, default=1, metavar="N", help="widths are multiples of N (1)")
    parser.add_argument("--gamma0", type=float, metavar="G", help="initial level of gammas (the model's)")
    _add_new_channels(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of new weights (0)")
    parser.add_argument(
        "--verify", action="store_true", help="compare outputs with the model and before and after, at several sizes"
    )


def _add_new_channels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gamma-new", type=float, metavar="G", help="where gammas of new channels start (1)")
    parser.add_argument("--rescale-limit", type=float, metavar="S", help="the largest factor of rescaling (4)")
    parser.add_argument(
        "--cross", choices=get_args(CrossWeights), help="weights through which new channels read old ones (zero)"
    )


def _add_compact(commands: Any) -> None:
    summary = "drop dead channels, and put nothing in their place"
    parser = _command(commands, "compact", summary, "nrfx compact resnet50 --weights FILE -o small.safetensors")
    _add_analysis(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to save the result")
    _add_html(parser)
    parser.add_argument(
        "--verify", action="store_true", help="compare outputs with the model and before and after, at several sizes"
    )


def _add_export(commands: Any) -> None:
    summary = "write a network as ONNX or as a program of torch.export, checked against it"
    parser = _command(commands, "export", summary, "nrfx export resnet50 --weights better.safetensors -o better.onnx")
    _add_model(parser)
    _add_input(parser)
    parser.add_argument(
        "-o", "--output", type=_exported, metavar="FILE", required=True, help="NAME.onnx, or NAME.pt2 for torch.export"
    )
    parser.add_argument(
        "--free",
        choices=get_args(Free),
        default="batch",
        help="which sizes other inputs may have: the batch, each that the network leaves free, none (batch)",
    )
    parser.add_argument(
        "--no-check", dest="check", action="store_false", help="write the file without comparing it with the network"
    )


def _add_train(commands: Any) -> None:
    summary = "train a network, and rejuvenate it on the way; or a row of the paper's tables"
    example = (
        "nrfx train --recipe digits --row NR-CA-BR\n  nrfx train resnet18 --size 32 --channels 3 --budget params=1.0x"
    )
    parser = _command(commands, "train", summary, example)
    parser.add_argument("model", metavar="MODEL", nargs="?", help=f"{MODEL}; a recipe names its own")
    parser.add_argument("--recipe", metavar="NAME", help="a TOML file, or a recipe of nrfx's own (--recipe list)")
    parser.add_argument("--row", metavar="ROW", help="of the paper's Table 1, such as BL or NR-CA-BR")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with a run that was broken off")
    parser.add_argument("--weights", metavar="FILE[:KEY]", help=WEIGHTS)
    parser.add_argument("--num-classes", type=_positive, metavar="N", help="outputs of the model")
    _add_data(parser)
    parser.add_argument(
        "--budget", type=_budget, metavar="BUDGET", help="as for rejuvenate; without one it is plain training"
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="(30)")
    parser.add_argument("--batch", type=int, metavar="N", help="images a step (16)")
    parser.add_argument("--lr", type=float, metavar="LR", help="learning rate (0.02)")
    parser.add_argument("--warmup", type=int, metavar="N", help="steps in which it rises again after an event (200)")
    _add_penalty(parser)
    parser.add_argument("--interval", type=int, metavar="N", help="steps between two measurements (an epoch)")
    parser.add_argument("--until", type=_positive, metavar="N", help="last step in which it may rejuvenate")
    parser.add_argument("--window", type=_positive, metavar="N", help="the same in epochs (half of them)")
    parser.add_argument(
        "--scheme", choices=get_args(Scheme), help="how old and new channels meet (attention; or give a row)"
    )
    _add_new_channels(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (runs/train, or the next free one)")
    parser.add_argument("--seed", type=int, metavar="N", help="of data, weights and order (0)")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu, cuda, cuda:1, mps (cpu)")
    parser.add_argument(
        "--log", type=_logs, metavar="NAMES", help="csv, tensorboard, or both with a comma: numbers for other tools"
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", choices=get_args(DatasetName), help="(digits, which need no download)")
    parser.add_argument(
        "--data-root", metavar="DIR", help="folder of the files of CIFAR or fashion, or of train/ and val/"
    )
    parser.add_argument("--download", action="store_const", const=True, help="fetch CIFAR if it is not there")
    parser.add_argument("--size", type=_positive, metavar="N", help="side of the images (8; fashion 28, shapes 32)")
    parser.add_argument(
        "--count", type=_positive, metavar="N", help="images of shapes (6000), or of fashion to train on"
    )
    parser.add_argument("--channels", type=int, choices=(1, 3), metavar="N", help="colours of the images (1)")


def _add_penalty(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trigger", type=float, metavar="R", help="rejuvenate at a utilization below R (0.5)")
    parser.add_argument(
        "--delta-lambda", type=float, metavar="D", help="how fast the penalty grows (by the search's length)"
    )
    parser.add_argument(
        "--penalty", choices=get_args(PenaltyName), help="a step of its own to exact zeros, or a gradient (proximal)"
    )
    parser.add_argument("--weighted", choices=get_args(Weighted), help="pull gammas by what channels cost (budget)")
    parser.add_argument("--spare", choices=get_args(Spare), help="pull large gammas less, or all alike (large)")
    parser.add_argument(
        "--raise-lambda",
        choices=get_args(RaiseLambda),
        help="when r falls too slowly, or only where it would come late (slow)",
    )
    parser.add_argument("--shrink-beta", type=float, metavar="S", help="also pull betas that hold dead channels (0)")


def _add_advise(commands: Any) -> None:
    summary = "say from a short search whether a rejuvenation would help, and which layers starve or waste"
    example = "nrfx advise resnet18 --data fashion --data-root DIR --size 14 --channels 3 --batch 64 --lr 0.1"
    parser = _command(commands, "advise", summary, example)
    parser.add_argument("model", metavar="MODEL", nargs="?", help=f"{MODEL}; a recipe names its own")
    parser.add_argument("--recipe", metavar="NAME", help="as for train, whose settings it takes")
    parser.add_argument("--weights", metavar="FILE[:KEY]", help=f"to search from: {WEIGHTS}")
    parser.add_argument("--num-classes", type=_positive, metavar="N", help="outputs of the model")
    _add_data(parser)
    parser.add_argument(
        "--budget", type=_budget, metavar="BUDGET", help="as for rejuvenate: what is tried (params=1.0x)"
    )
    parser.add_argument("--steps", type=_positive, metavar="N", help="of each search and each trial (300)")
    parser.add_argument("--seeds", type=_positive, metavar="N", help="how many searches, from --seed on (2)")
    parser.add_argument(
        "--no-trial", dest="trial", action="store_false", help="search alone, a third of the time: no gain is promised"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="images a step (16)")
    parser.add_argument("--lr", type=float, metavar="LR", help="learning rate (0.02)")
    _add_penalty(parser)
    parser.add_argument("--scheme", choices=get_args(Scheme), help="how old and new channels would meet (attention)")
    parser.add_argument("--seed", type=int, metavar="N", help="the first, of data, weights and order (0)")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu, cuda, cuda:1, mps (cpu)")


def _add_plot(commands: Any) -> None:
    summary = "draw utilization and validation accuracy of runs over their epochs"
    parser = _command(commands, "plot", summary, "nrfx plot runs/demo/seed-0/plain runs/demo/seed-0/nr -o figure.png")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="the folder of a run")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", default=Path("runs.png"), help="(runs.png, runs.svg)"
    )
    parser.add_argument("--cost", choices=get_args(Measure), default="params", help="whose utilization (params)")


def _add_demo(commands: Any) -> None:
    summary = "train a network plainly and with Neural Rejuvenation, over three seeds, and compare"
    parser = _command(commands, "demo", summary, "nrfx demo")
    parser.add_argument(
        "--data", choices=get_args(DemoData), help="the images (Fashion-MNIST where its files are found, else digits)"
    )
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="the folder of Fashion-MNIST's four files")
    parser.add_argument("--seed", type=int, metavar="N", help="the first seed: of data, weights and order (0)")
    parser.add_argument("--seeds", type=_positive, metavar="N", help="how many (3)")
    parser.add_argument("--epochs", type=_positive, metavar="N", help="of each training (the demo's)")
    parser.add_argument("--jobs", type=_positive, metavar="N", help="processes that train at a time (2)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of all runs (runs/demo, or the next free one)")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the demo in DIR")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _logs(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in get_args(LogName)]:
        raise argparse.ArgumentTypeError(f"there is no log {unknown[0]!r}; expected {', '.join(get_args(LogName))}")
    return names


def _budget(text: str) -> str:
    """The text, if it is that of a budget; the BudgetError says what is wrong."""
    parse_budget(text)
    return text


def _exported(text: str) -> Path:
    if Path(text).suffix not in get_args(Suffix):
        raise argparse.ArgumentTypeError(f"{text!r} is neither NAME.onnx, for ONNX, nor NAME.pt2, for torch.export")
    return Path(text)


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.replace("x", ",").split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; expected sizes such as 1,3,32,32")
    return tuple(int(size) for size in sizes)
