"""Set-ups of a training loop: each trains across an event, and works, warns or is refused."""

import multiprocessing
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

import torch
from rich.console import Console

from benchmarks.command import DOCS, RESULTS, parser_of, verdict, write
from benchmarks.setups.page import with_table
from benchmarks.setups.setup import GOOD, Row, Setup, all_setups, tried
from benchmarks.table import progress_bar, read_csv, terminal, write_csv

PAGE, CSV = DOCS / "integrations.md", RESULTS / "setups.csv"
SECONDS = 300


def main(arguments: Sequence[str]) -> int:
    """Tries the set-ups and prints a row each; a full run writes the files. 1 if one ended otherwise than it may."""
    parser = parser_of("setups", __doc__, "--only ModelEmaV3")
    parser.add_argument("--only", metavar="TEXT", default="", help="set-ups with the text in name or group; no file")
    parser.add_argument("--again", metavar="TEXT", help="the same, whose rows take the places of those in the CSV")
    parser.add_argument("--page", action="store_true", help="only write the page, from the CSV")
    parser.add_argument("--list", action="store_true", help="the names of the set-ups")
    options = parser.parse_args(arguments)
    console = Console(width=160)
    if options.page:
        write({PAGE: with_table(PAGE.read_text(), read_csv(Row, CSV))}, console)
        return 0
    text = options.only if options.again is None else options.again
    chosen = [one for one in all_setups().values() if text in one.name or text in one.group]
    if options.list:
        console.print(*(f"{one.group}: {one.name}" for one in chosen), sep="\n", markup=False, highlight=False)
        return 0
    known = {} if options.again is None else {row.setup: row for row in read_csv(Row, CSV)}
    rows = []
    for row in _tried(chosen, console):
        rows.append(row)
        known[row.setup] = row
        if not options.only:
            write_csv([known[name] for name in all_setups() if name in known], CSV)
    cells = [(row.group, row.setup, row.outcome, row.detail, f"{row.seconds:.1f}") for row in rows]
    console.print(terminal("Set-ups", ("group", "set-up", "outcome", "detail", "s"), cells, left=4))
    if not options.only:
        write({PAGE: with_table(PAGE.read_text(), read_csv(Row, CSV))}, console)
    return verdict([row.outcome in GOOD for row in rows], "set-ups work, are refused or warn", console)


def _tried(chosen: Sequence[Setup], console: Console) -> Iterator[Row]:
    """The row of each set-up, as soon as it is there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.setups.preload"])
    with progress_bar(console) as bar:
        task = bar.add_task("", total=len(chosen))
        for one in chosen:
            bar.update(task, description=one.name[:48])
            here, there = multiprocessing.Pipe(duplex=False)
            process = context.Process(target=_try, args=(one.name, there))
            process.start()
            there.close()
            yield _received(one, here)
            process.kill()
            process.join()
            bar.advance(task)


def _received(one: Setup, connection: Connection) -> Row:
    try:
        if connection.poll(SECONDS):
            row: Row = connection.recv()
            return row
        ended = f"it took more than {SECONDS} s"
    except EOFError:
        ended = "the process died"
    return Row(one.group, one.name, "fails", ended, 0.0, torch.__version__)


def _try(name: str, connection: Connection) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    connection.send(tried(name))
    connection.close()
