"""The study on Fashion-MNIST: each row runs within its budget, and a study that was broken off goes on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks.study.fashion import cost, loop, runs
from benchmarks.study.fashion.networks import FAMILIES, network
from benchmarks.study.fashion.plan import NONE_SPARED, OF_FAMILY, Line, Task, points_of
from benchmarks.study.fashion.runs import ROWS, carried_out, kept, lines
from benchmarks.study.fashion.searches import budget_of
from nrfx.experiment.data import Dataset, Images

QUICK = {"steps": 24, "batch_size": 8, "interval": 2, "delta_lambda": 0.04, "trigger": 0.98, "penalty": "proximal"}


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise with a row that tells the class, scored every eighth step."""
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> Images:
        x, y = torch.randn(count, 1, 14, 14, generator=generator), torch.arange(count) % 10
        x[torch.arange(count), 0, y] += 3
        return Images(x, y)

    data = Dataset("few", 10, *map(part, (520, 30, 30)))
    monkeypatch.setattr(runs, "images", lambda root: data)
    monkeypatch.setattr(loop, "EVERY", 8)
    monkeypatch.setattr(loop, "SEEN", 30)


def task(row: str = "NR", family: str = "vgg", budget: str = "params", seed: int = 0, **settings: object) -> Task:
    return Task(family, row, budget, seed, replace(OF_FAMILY[family], **{**QUICK, **settings}))


def held(line: Line, job: Task) -> bool:
    budget = budget_of(job)
    return all(
        bound is None or spent <= bound for bound, spent in ((budget.params, line.params), (budget.flops, line.flops))
    )


@pytest.mark.parametrize("row", [*(row for row in ROWS if not row.endswith(NONE_SPARED)), "NR" + NONE_SPARED])
def test_each_row_ends_within_its_budget_and_says_what_it_did(row: str) -> None:
    job = task(row)
    line = carried_out(job, Path())
    assert held(line, job) and 0 <= line.validation <= 100 and 0 <= line.test <= 100
    searching = row.startswith("NR")
    assert (line.events > 0) == (searching or row in ("Network Slimming", "MorphNet"))
    whole = {"BL longer": 36, "NR restarted": 24 + line.event, "NR-FS all steps": 24, "MorphNet": 36}
    assert line.steps == whole.get(row, 24)
    points = points_of(line.curve)
    assert points[-1][0] == 24 or row in ("BL longer", "NR restarted", "MorphNet")
    assert any(mark == "e" for _, mark, _ in points) == searching


@pytest.mark.parametrize("family", ["vgg", "resnet", "resnet-coupled", "densenet", "mobilenet"])
def test_each_family_is_rejuvenated_within_its_budget(family: str) -> None:
    job = task("NR", family, "both", residual=OF_FAMILY[family].residual)
    line = carried_out(job, Path())
    assert line.event and held(line, job)
    assert len(line.widths.split()) >= 5


def test_families_are_of_one_size() -> None:
    images = torch.zeros(2, 1, 14, 14)
    for family in FAMILIES:
        module = network(family, 0)
        assert 8_000 < sum(p.numel() for p in module.parameters()) < 80_000 and module(images).shape == (2, 10)
    assert {family.partition("-")[0] for family in OF_FAMILY} == set(FAMILIES)


def test_a_run_is_the_same_each_time_and_another_with_another_seed() -> None:
    first, again, other = (carried_out(task(seed=seed), Path()) for seed in (0, 0, 1))
    same = {"curve", "widths", "validation", "test", "event", "alpha"}
    assert all(getattr(first, name) == getattr(again, name) for name in same)
    assert first.curve != other.curve


def test_a_search_is_timed_up_to_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "BLOCK", 1)
    monkeypatch.setattr(cost, "BLOCKS", 2)
    monkeypatch.setattr(
        cost.choices, "chosen", lambda family, budget: replace(OF_FAMILY[family], **{**QUICK, "interval": 4})
    )
    row = cost.cost("vgg", runs.images(Path()))
    assert row.step > 0 and row.search > 0 and row.event > 0


def test_choices_never_look_at_the_test_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = runs.images(Path())
    monkeypatch.setattr(runs, "images", lambda root: replace(data, test=None))
    job = replace(task("BL"), test=False)
    (line,) = lines([job], tmp_path / "lines.csv", Path(), 1, Console(quiet=True)).values()
    assert line.test is None and kept(tmp_path / "lines.csv")[job.key].test is None


def test_a_study_that_was_broken_off_goes_on_from_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, console = tmp_path / "lines.csv", Console(quiet=True)
    first = lines([task("BL", seed=0)], path, Path(), 1, console)
    monkeypatch.setattr(
        runs, "_ended", lambda tasks, root, jobs: [carried_out(each, root) for each in tasks if each.seed]
    )
    both = lines([task("BL", seed=0), task("BL", seed=1)], path, Path(), 1, console)
    assert [line.seed for line in both.values()] == [0, 1]
    assert both[task("BL").key].curve == first[task("BL").key].curve
    assert len(path.read_text().splitlines()) == 3


def test_whatever_decides_a_run_is_in_its_key() -> None:
    jobs = [task(), task("BL"), task(family="late"), task(budget="flops"), task(seed=1), task(lr=0.2), task(warmup=5)]
    keys = {job.key for job in [*jobs, replace(task(), test=False)]}
    assert len(keys) == len(jobs) + 1
    assert json.loads(carried_out(task("BL", lr=0.2), Path()).settings)["lr"] == 0.2
