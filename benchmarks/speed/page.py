"""The page docs/speed.md: what is measured and how, the goals and whether each is met, and a section for each part."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.command import DOCS
from benchmarks.speed.part import Goal, Part
from benchmarks.table import markdown

PAGE = DOCS / "speed.md"
PLOT = DOCS / "speed.png"
HEAD = """# What nrfx costs

Written by `python -m benchmarks speed` ([benchmarks](../benchmarks/README.md)) from the CSVs in `benchmarks/results`.

- Times are CPU times of one thread, medians with the quartiles in brackets. What is compared is called in turns in one
  process, in another order each round, so that whatever else the machine does disturbs all of it alike.
- Milliseconds depend on the machine; ratios within one table hold elsewhere, to some ten percent.
- Goals are those of the project. A goal that is not met says so.
"""
GOALS = ("figure", "measured", "goal", "")


def text(parts: Sequence[Part], rows: Mapping[str, Sequence[Any]], missing: str) -> str:
    """The page.

    Args:
        rows: of each part by its name; a part without rows is named as not measured.
        missing: the section on what could not be measured.
    """
    there = [part for part in parts if rows.get(part.name)]
    goals = [goal for part in there for goal in part.goals(rows[part.name])]
    sections = [f"## {part.title}\n\n{chr(10).join(part.section(rows[part.name]))}" for part in there]
    absent = [part.title for part in parts if part not in there]
    unmeasured = [f"No rows yet: {', '.join(absent)}."] if absent else []
    plot = [f"![{ALTERNATIVE}]({PLOT.name})"] if PLOT.exists() else []
    blocks = [HEAD.rstrip(), *plot, *goal_section(goals), *sections, *unmeasured, missing.rstrip()]
    return "\n\n".join(blocks) + "\n"


ALTERNATIVE = (
    "Ratios to torch.fx.symbolic_trace of nrfx and other tools on four networks, and of nrfx on all of torchvision"
)


def goal_section(goals: Sequence[Goal]) -> list[str]:
    """How many goals are met, and a line for each."""
    met = sum(goal.met for goal in goals)
    table = "\n".join(markdown(GOALS, [goal.line() for goal in goals]))
    return [f"## Goals\n\n{met} of {len(goals)} are met.", table] if goals else []
