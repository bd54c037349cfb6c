"""The laws (laws/) on networks that nobody wrote (networks/).

The suite tries a few, always the same. A long search finds the smallest network that breaks a law:

    python -m tests.test_laws --networks 5000 [--seed 1] [--law NAME ...]
"""

import argparse
import gc
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.laws import LAWS, REPLAY, Law, Options, Trial, obeyed, options
from tests.networks import (
    Again,
    Attention,
    Branches,
    Computed,
    Gate,
    Move,
    Plan,
    Selected,
    Single,
    Split,
    TwoNorms,
    Unit,
    Wild,
    plans,
)

EXAMPLES = 20
CHUNK = 100
"""Networks that hypothesis draws in one go: over thousands it slows down, and each go finds its own failures."""
COMMON: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def test_every_law_holds_on_networks_that_nobody_wrote() -> None:
    @settings(max_examples=EXAMPLES, derandomize=True, phases=[Phase.generate], print_blob=False, **COMMON)
    @given(plans(), options())
    def holds(plan: Plan, how: Options) -> None:
        trial = Trial(plan, how)
        for law in LAWS.values():
            obeyed(trial, law)

    holds()


ONCE_BROKEN = (
    # a criterion in a network with a layer of train mode alone
    Trial(
        Plan((Unit(width=3, groups=2, bias=True, act="prelu"), Single(kind="train only"), Gate(squeezed=4))), Options()
    ),
    # two chunks of one channel each, side by side again
    Trial(Plan((Unit(width=6), Split(join="add", body=()), Split(body=()))), Options(times=2.5)),
    # a reshape to the shape of a value that grows where the reshaped one does not
    Trial(Plan((Unit(), Attention(heads=1, residual=False), Unit(kernel=3))), Options(times=1.5)),
    # a view by numbers, which the file must know
    Trial(Plan((Unit(width=6), Branches(((),)), Selected(kernel=1), Move("shuffle literal"))), Options(times=2.5)),
    # an einsum over one channel
    Trial(Plan((Unit(), Computed()), dead=("x.",)), Options()),
    # a layer norm over one channel, which does not show that it lies there
    Trial(
        Plan((Unit(groups=0), Attention(heads=1, residual=False), Split(join="add", body=(Unit(norm="layer"),)))),
        Options(times=1.5),
    ),
    # a layer called twice, which reads padded zeros in the place of channels
    Trial(Plan((Unit(), Move("pad shortcut"), Again(residual=False)), dead=("x.",)), Options()),
    # a token beside channels that are there twice: at a width of one, other labels stood for both
    Trial(
        Plan((Unit(norm="plain"), TwoNorms(unit=Unit(width=3)), Wild("tokens by class")), dead=("xx.",), frozen=2),
        Options(),
    ),
    # chunks by width, of which other widths have another number
    Trial(
        Plan((Unit(), Unit(), Unit(), Wild("chunks by width", normed=False)), dead=(".", "xxxx....")),
        Options(),
    ),
    # groups of a function by a width that grows
    Trial(Plan((Unit(width=3), Unit(kernel=3), Computed("F.conv2d depthwise")), dead=("x.",)), Options()),
    # padded zeros in a transposed map, whose labels lie in memory in another order
    Trial(Plan((Unit(), Move(), Gate(), Move(how="pad channels"), Move())), Options()),
    # slices of an axis that holds each channel twice, in two of them
    Trial(Plan((Unit(), TwoNorms(), Split(how="slice", body=()), Unit())), Options(times=1.5)),
    # unshuffled pixels of one channel that is left, cut in two by a view
    Trial(Plan((Unit(), Move(how="pixels"), Gate(), Move()), dead=(".xxxxxxxxxxxxxxxxxxx",)), Options()),
    # channels that stand on an axis twice, rolled by a number of places
    Trial(Plan((Unit(), Move(), TwoNorms(), Move(how="roll"))), Options(times=1.5)),
    # norms without parameters, whose width only the file tells
    Trial(Plan((Unit(norm="plain instance"), Single("plain norm"), Unit()), dead=("x.",)), Options()),
    # a group norm over one number, which torch refuses for one example
    Trial(Plan((Unit(), Unit(width=1, norm="group")), dead=("x.",), image=(2, 3, 1, 1)), Options()),
)


@pytest.mark.parametrize("trial", ONCE_BROKEN, ids=lambda trial: str(trial.plan))
def test_every_law_holds_where_it_once_broke(trial: Trial) -> None:
    for law in LAWS.values():
        obeyed(trial, law)


def search(laws: list[Law], networks: int, number: int, tick: Callable[[Trial], None]) -> list[str]:
    """Tries laws on that many networks; a text for each way in which one fails, with its smallest example."""

    broken: list[Law] = []  # once a law is broken, the smallest network that breaks it is looked for, and no other law

    @seed(number)
    @settings(max_examples=networks, phases=[Phase.generate, Phase.target, Phase.shrink], print_blob=False, **COMMON)
    @given(plans(), options())
    def holds(plan: Plan, how: Options) -> None:
        trial = Trial(plan, how)
        for law in broken or laws:
            try:
                obeyed(trial, law)
            except Exception:
                broken[:] = [law]
                raise
        if not broken:
            tick(trial)

    try:
        holds()
    except Exception as error:  # whatever breaks a law is what is looked for
        failures = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
        return [told(failure) for failure in failures]
    return []


def told(error: BaseException) -> str:
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith(REPLAY)]
    return f"{type(error).__name__}: {error}\n  " + "\n  ".join(notes[-1:])


def main(arguments: list[str] | None = None) -> int:
    """The long search: 0 where every law holds, 1 where one does not."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.test_laws", description="Look for networks that break a law."
    )
    parser.add_argument("--networks", type=int, default=500, help="how many (default: 500); each meets every law")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other networks (default: 0)")
    parser.add_argument("--law", action="append", choices=LAWS, metavar="NAME", help=f"only: {', '.join(LAWS)}")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.set_warn_always(True)
    warnings.simplefilter("error")
    torch.backends.mha.set_fastpath_enabled(False)  # FlopCounterMode does not see it
    laws = [LAWS[name] for name in chosen.law or LAWS]
    failures: list[str] = []
    seen: Counter[str] = Counter()
    started = time.perf_counter()
    columns = (
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=Console()) as progress:
        task = progress.add_task("networks", total=chosen.networks, rate="")

        def tick(trial: Trial) -> None:
            seen[outcome(trial)] += 1
            rate = f"{(time.perf_counter() - started) / seen.total():.2f} s each"
            progress.update(task, advance=1, rate=rate)

        for chunk in range(0, chosen.networks, CHUNK):
            size = min(CHUNK, chosen.networks - chunk)
            for text in search(laws, size, 1_000_000 * chosen.seed + chunk, tick):
                failures.append(text)
                progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
            progress.update(task, completed=chunk + size)
            gc.collect()  # graph modules lie in reference cycles
    print(
        ", ".join(f"{count:,} {what}" for what, count in seen.most_common()),
        f"in {time.perf_counter() - started:,.0f} s.",
    )
    print(f"{len(failures)} ways to break a law." if failures else "Every law holds.")
    return int(bool(failures))


def outcome(trial: Trial) -> str:
    result = trial.result
    if result is None:
        return "with too small a budget"
    return "rewritten" if result.changed else "left as they were"


if __name__ == "__main__":
    sys.exit(main())
