"""`python -m benchmarks [NAME] [options]`; without a name, passes and flops. The names are the keys of BENCHMARKS."""

import sys
from collections.abc import Callable, Mapping, Sequence

from benchmarks import (
    bench_cross,
    budgets,
    coverage,
    digits,
    flops,
    held,
    matrix,
    partial,
    passes,
    recalibration,
    search,
)
from benchmarks.soundness import sanitizers

BENCHMARKS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "passes": passes.main,
    "flops": flops.main,
    "matrix": matrix.main,
    "held": held.main,
    "recalibration": recalibration.main,
    "search": search.main,
    "partial": partial.main,
    "cross": bench_cross.main,
    "coverage": coverage.main,
    "budgets": budgets.main,
    "digits": digits.main,
    "sanitizers": sanitizers.main,
}


def main(arguments: Sequence[str]) -> int:
    """Runs what is named, with the options that follow; the worst exit status."""
    if arguments and arguments[0] in BENCHMARKS:
        return BENCHMARKS[arguments[0]](arguments[1:])
    if arguments:
        print(f"{__doc__}\nUnknown: {arguments[0]}. Each has --help.", file=sys.stderr)
        return 2
    return max(passes.main([]), flops.main([]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
