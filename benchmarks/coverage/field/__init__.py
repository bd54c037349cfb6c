"""Models of many packages that people use with PyTorch: how nrfx takes each of them."""

from collections.abc import Iterator

from benchmarks.coverage.field import hugging, restoration, sequences, vision
from benchmarks.coverage.field.model import Model


def models() -> Iterator[Model]:
    """Every model whose package is installed."""
    for module in (hugging, vision, restoration, sequences):
        yield from (model for model in module.models() if model.installed)
