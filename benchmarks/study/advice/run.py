"""What `nrfx advise` says of a network, and what full runs then did.

`python -m benchmarks advice --data-root DIR` trains what is missing in benchmarks/results/advice_runs.csv, a line a run.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.command import RESULTS, parser_of
from benchmarks.study.advice.runs import full_runs
from benchmarks.study.advice.settings import SETTINGS

RUNS = RESULTS / "advice_runs.csv"


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing."""
    parser = parser_of("advice", __doc__, "--data-root /usr/share/datasets/fashion-mnist")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of Fashion-MNIST's files")
    parser.add_argument("--seeds", type=int, default=4, metavar="N", help="0 to N - 1 (4)")
    options = parser.parse_args(arguments)
    full_runs([*SETTINGS], options.seeds, RUNS, options.data_root, Console())
    return 0
