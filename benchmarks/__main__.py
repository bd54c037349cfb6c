"""`python -m benchmarks NAME [options]` runs one benchmark; without a name it lists them. Each has --help."""

import ast
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

BENCHMARKS: Mapping[str, str] = {
    "speed": "speed.run",
    "cross": "speed.cross",
    "gpu": "speed.gpu",
    "matrix": "soundness.matrix",
    "partial": "soundness.partial",
    "budgets": "soundness.budgets",
    "exports": "soundness.exports",
    "sanitizers": "soundness.sanitizers",
    "fuzz": "soundness.fuzz",
    "kills": "soundness.kills",
    "processes": "soundness.processes",
    "setups": "setups.run",
    "integrations": "setups.integrations",
    "coverage": "coverage.run",
    "digits": "study.digits",
    "demo": "study.demo",
    "search": "study.search",
    "held": "study.held",
    "recalibration": "study.recalibration",
    "study": "study.fashion.run",
    "wide": "study.fashion.wide",
    "advice": "study.advice.run",
    "stream": "study.stream",
}
"""The module of each benchmark. Its `main(arguments)` returns the exit status; the list shows its first line."""


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark that is named first, on one thread, with the options that follow; returns its exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\n\n{listed()}")
        return 0
    name, *options = arguments
    if name not in BENCHMARKS:
        print(f"There is no benchmark {name!r}. There are:\n\n{listed()}", file=sys.stderr)
        return 2
    import torch  # noqa: PLC0415 (slow, and not needed for the list)

    torch.set_num_threads(1)
    status: int = import_module(f"benchmarks.{BENCHMARKS[name]}").main(options)
    return status


def listed() -> str:
    """A line for each benchmark: its name, and the first line of its docstring. Imports none of them."""
    return "\n".join(f"{name:<14} {_first_line(path)}" for name, path in BENCHMARKS.items())


def _first_line(path: str) -> str:
    file = Path(__file__).parent.joinpath(*path.split(".")).with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
