"""The layout of the picture: every line stays in its source's lane, and meets no stop that it does not join."""

import re
from itertools import pairwise

import pytest
import torch

from nrfx.report.html.lanes import HEIGHT, layout
from tests import zoo
from tests.report.networks import traced


def drawn(count: int, seed: int) -> list[tuple[int, ...]]:
    """The sources of stops that read some of the earlier ones."""
    generator = torch.Generator().manual_seed(seed)
    return [
        tuple(torch.randperm(row, generator=generator)[: int(torch.randint(0, 4, (), generator=generator))].tolist())
        for row in range(count)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_no_line_passes_through_a_stop_that_it_does_not_join(seed: int) -> None:
    sources = drawn(25, seed)
    found = layout(sources)
    assert sorted(found.edges) == sorted((source, row) for row, read in enumerate(sources) for source in read)
    for source, row in found.edges:
        passed = range(source + 1, row)
        assert all(found.lanes[between] != found.lanes[source] for between in passed)


@pytest.mark.parametrize("seed", range(10))
def test_a_path_begins_at_its_source_and_ends_at_its_stop(seed: int) -> None:
    found = layout(drawn(25, seed))
    for (source, row), path in zip(found.edges, found.paths(), strict=True):
        numbers = list(map(int, re.findall(r"\d+", path)))
        assert tuple(numbers[:2]) == found.place(source)
        assert numbers[-1] == found.place(row)[1] and (path.count("C") == 0 or numbers[-2] == found.place(row)[0])


def test_a_chain_needs_one_lane_and_a_residual_stream_runs_straight_down() -> None:
    assert layout([(), (0,), (1,), (2,)]).lanes == (0, 0, 0, 0)
    blocks = [(), (0,), (1,), (2, 0), (3,), (4,), (5, 3)]
    assert layout(blocks).lanes == (0, 1, 1, 0, 1, 1, 0)
    assert layout(blocks).width < layout([(), *((0,) for _ in range(5)), (1, 2, 3, 4, 5)]).width


def test_lanes_are_used_again() -> None:
    forks = [(), (0,), (0,), (1, 2)]
    for start in range(3, 30, 3):
        forks += [(start,), (start,), (start + 1, start + 2)]
    assert max(layout(forks).lanes) <= 2


@pytest.mark.parametrize("name", zoo.SMALL)
def test_every_row_has_its_height(name: str) -> None:
    sources = [stop.sources for stop in nrfx_stops(name)]
    found = layout(sources)
    assert found.height == HEIGHT * len(sources)
    assert {after - before for before, after in pairwise(found.place(row)[1] for row in range(len(sources)))} == {
        HEIGHT
    }


def nrfx_stops(name: str) -> tuple:  # type: ignore[type-arg]
    from nrfx.analysis.utilization import utilization  # noqa: PLC0415

    return utilization(traced(name)).stops
