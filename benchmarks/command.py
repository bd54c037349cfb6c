"""What the commands of the benchmarks have in common: the parser, the files of a full run, and the exit status."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.table import write_csv

ROOT = Path(__file__).parent.parent
DOCS, RESULTS = ROOT / "docs", ROOT / "benchmarks" / "results"


def parser_of(name: str, doc: str | None, example: str = "") -> argparse.ArgumentParser:
    """The parser of a benchmark, described by the first line of its docstring.

    Args:
        example: options that the help shows.
    """
    command = f"python -m benchmarks {name}"
    return argparse.ArgumentParser(
        prog=command,
        description=(doc or "").partition("\n")[0],
        epilog=f"example: {command} {example}" if example else None,
    )


def add_models(parser: argparse.ArgumentParser, names: Sequence[str], *, others: bool = False) -> None:
    """The option --models, which takes some of the names, or with `others` any name; the default is all of `names`."""
    parser.add_argument(
        "--models",
        nargs="+",
        default=list(names),
        choices=None if others else list(names),
        metavar="NAME",
        help=f"{'torchvision names; ' if others else ''}a run over some models writes no file (all)",
    )


def write(files: Mapping[Path, Sequence[Any] | str], console: Console) -> None:
    """Writes each file, rows as CSV and text as it is, and prints the names of the files."""
    for path, content in files.items():
        if isinstance(content, str):
            path.write_text(content)
        else:
            write_csv(content, path)
    console.print(f"Written: {', '.join(str(path.relative_to(ROOT)) for path in files)}")


def verdict(passed: Sequence[bool], what: str, console: Console) -> int:
    """Says how many of the checks passed ("3 of 4 cases hold"), and returns the exit status: 1 if any did not."""
    console.print(f"{sum(passed)} of {len(passed)} {what}.")
    return 0 if all(passed) else 1
