"""The table of layers: bars that fill their column, and names that keep both ends."""

import pytest
import torch
from rich.console import Console

from nrfx.report.table import Bar, shortened


def printed(bar: Bar, width: int) -> str:
    console = Console(width=width, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(bar, end="")
    return captured.get().rstrip("\n")


@pytest.mark.parametrize("seed", range(20))
def test_a_bar_is_as_long_as_its_column_and_each_part_as_long_as_its_share(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    live, width = float(torch.rand((), generator=generator)), int(torch.randint(5, 29, (), generator=generator))
    text = printed(Bar(((live, "#", "#", ""), (1 - live, ".", ".", ""))), width)
    assert len(text) == width and text == "#" * text.count("#") + "." * text.count(".")
    assert abs(text.count("#") - live * width) <= 1


@pytest.mark.parametrize(("live", "text"), [(0.0, "....."), (1e-6, "#...."), (1 - 1e-6, "####."), (1.0, "#####")])
def test_none_and_all_are_drawn_only_where_it_is_exactly_that(live: float, text: str) -> None:
    assert printed(Bar(((live, "#", "#", ""), (1 - live, ".", ".", ""))), 5) == text


@pytest.mark.parametrize("width", range(6, 30))
def test_a_name_that_is_too_long_keeps_its_beginning_and_its_end(width: int) -> None:
    name = "  features.denseblock1.conv2"
    text = shortened(name, width).plain
    assert len(text) <= width
    start, _, end = text.partition("…")
    assert name.startswith(start) and name.endswith(end) and (text == name) == (width >= len(name))
    assert width >= len(name) or ((start.strip() or width < 8) and end)
