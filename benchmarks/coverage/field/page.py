"""The section of docs/coverage.md about the models of the field."""

from collections.abc import Sequence

from benchmarks.coverage.field.row import Row

SUMMARY = ("package", "models", "families", "hold", "whole", "in parts", "refused", "rewritten")


def summary(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """A line for each package, under the headings SUMMARY, and one for all."""
    packages = dict.fromkeys(row.package for row in rows)
    lines = [_line(package, [row for row in rows if row.package == package]) for package in packages]
    return [*lines, _line("all", rows)]


def _line(name: str, rows: Sequence[Row]) -> tuple[str, ...]:
    forms = [sum(row.form == form for row in rows) for form in ("whole", "parts", "refused")]
    numbers = (len(rows), len({row.family for row in rows}), sum(row.sound for row in rows), *forms)
    return (name, *map(str, numbers), str(sum(bool(row.changed) for row in rows)))
