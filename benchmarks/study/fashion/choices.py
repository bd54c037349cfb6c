"""What was tried before the study: settings of a search and an event, on a network and seeds that are not in it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.study.fashion.plan import NONE_SPARED, OF_FAMILY, UNCHOSEN, Settings, Task

SEEDS = range(1000, 1005)
FAMILY, BUDGET = "late", "params"
STEPS = 2000

PROXIMAL: Mapping[str, Any] = {"penalty": "proximal"}
TOGETHER: Mapping[str, Any] = {**PROXIMAL, "weighted": "params", "gamma_new": 1.0, "warmup": 200}
"""What helped, or did no harm, by itself."""

VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "BL": ("BL", {}),
    "BL held": ("BL held", {}),
    "NR": ("NR", {}),
    "NR, proximal": ("NR", PROXIMAL),
    "NR, proximal, weighted by params": ("NR", {**PROXIMAL, "weighted": "params"}),
    "NR, proximal, weighted by flops": ("NR", {**PROXIMAL, "weighted": "flops"}),
    "NR, proximal, raised when late": ("NR", {**PROXIMAL, "raise_lambda": "late"}),
    "NR, proximal, half as fast": ("NR", {**PROXIMAL, "delta_lambda": 5e-4}),
    "NR, new gammas at 1": ("NR", {"gamma_new": 1.0}),
    "NR, cross weights drawn": ("NR", {"cross": "drawn"}),
    "NR, warm-up of 200": ("NR", {"warmup": 200}),
    "NR, together": ("NR", TOGETHER),
    "NR, together, raised when late": ("NR", {**TOGETHER, "raise_lambda": "late"}),
    "NR, together, large ones spared": ("NR", {**TOGETHER, "spare": "large"}),
    "NR-BR": ("NR-BR", {}),
    "NR-BR, factors up to 4": ("NR-BR", {"rescale_limit": 4.0}),
    "NR-BR, warm-up of 200": ("NR-BR", {"warmup": 200}),
    "NR-BR, together": ("NR-BR", TOGETHER),
    "NR-BR, together, factors up to 4": ("NR-BR", {**TOGETHER, "rescale_limit": 4.0}),
}
"""Name -> row, and the settings that differ from the family's."""

FIRST: Mapping[str, Any] = {**TOGETHER, "rescale_limit": 4.0}
"""What was chosen first, by the variants above, and what the trials below start from."""

CHOSEN: Mapping[str, Any] = {**FIRST, "spare": "large"}
"""For every row of the study that searches."""


def chosen(family: str, budget: str, row: str = "NR") -> Settings:
    """The settings of a row of a family in the study."""
    if row in UNCHOSEN:
        return OF_FAMILY[family]
    return _with(FIRST if row.endswith(NONE_SPARED) else CHOSEN, family, budget)


def _with(settings: Mapping[str, Any], family: str, budget: str) -> Settings:
    """The family's settings with these; weighted by flops where flops alone are bounded."""
    measure = "flops" if budget == "flops" else "params"
    return replace(OF_FAMILY[family], **{**settings, "weighted": measure})


GENTLER: Mapping[str, Mapping[str, Any]] = {
    "all pulled alike": {},
    "half as fast": {"delta_lambda": 5e-4},
    "a quarter as fast": {"delta_lambda": 2.5e-4},
    "raised when late": {"raise_lambda": "late"},
    "large ones spared": {"spare": "large"},
    "weighted alike": {"weighted": None},
}
"""Name -> settings of NR that may leave the network closer to plain training while it searches; and what weights by
multiply-adds do where those are bounded."""

CLOSE = ("all pulled alike", "large ones spared")
OFTEN = (*CLOSE, "weighted alike")
"""Of these with five seeds."""

GENTLER_ON: Mapping[tuple[str, str], Sequence[str]] = {
    ("late", "flops"): tuple(GENTLER),
    ("other densenet", "params"): CLOSE,
}
"""Where they were tried, families that are in no table with their budgets: and which."""

NAMED_ON = (
    *(("early", "flops"), ("level", "flops"), ("early resnet", "flops"), ("late resnet", "params")),
    *(("late densenet", "params"), ("late mobilenet", "params")),
)
"""Of which families it was to be seen on validation images whether NR wins something there, with their budgets."""

FEW_SEEDS = range(1000, 1003)
"""Of the three trials below."""


def tasks(seeds: Sequence[int] = SEEDS) -> dict[tuple[str, int], Task]:
    """The runs of all variants, by name and seed; none looks at test images."""
    plain = replace(OF_FAMILY[FAMILY], steps=STEPS)
    return {
        (name, seed): Task(FAMILY, row, BUDGET, seed, replace(plain, **settings), test=False)
        for seed in seeds
        for name, (row, settings) in VARIANTS.items()
    }


def all_tasks() -> Iterator[Task]:
    """The runs of all variants, and of the trials of gentler searches and of families."""
    yield from tasks().values()
    for where in GENTLER_ON:
        yield from gentler_tasks(*where).values()
    for where in NAMED_ON:
        yield from named_tasks(*where).values()


def gentler_tasks(family: str, budget: str) -> dict[tuple[str, int], Task]:
    """BL held, and NR with each of GENTLER, by name and seed."""
    return {("BL held", seed): unseen(family, "BL held", "params", seed, steps=STEPS) for seed in SEEDS} | {
        (name, seed): unseen(family, "NR", budget, seed, steps=STEPS, **GENTLER[name])
        for name in GENTLER_ON[family, budget]
        for seed in (SEEDS if name in OFTEN else FEW_SEEDS)
    }


def named_tasks(family: str, budget: str) -> dict[tuple[str, int], Task]:
    """BL and NR of a family, by row and seed."""
    rows = {"BL": "params", "NR": budget}
    return {
        (row, seed): unseen(family, row, bound, seed, steps=STEPS) for seed in FEW_SEEDS for row, bound in rows.items()
    }


def unseen(family: str, row: str, budget: str, seed: int, **settings: Any) -> Task:
    """A run with the chosen settings and these, which never looks at test images."""
    return Task(family, row, budget, seed, replace(_with(FIRST, family, budget), **settings), test=False)
