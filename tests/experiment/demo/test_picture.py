"""What the demo shows: it fits the terminal, is told by characters, and its numbers are those of the runs."""

import pytest
from rich.console import Console, Group

from nrfx.experiment.demo.picture import Curves, table, widths
from nrfx.experiment.demo.show import report
from tests.experiment.demo.runs import GAIN, console, pairs, run, said


def lines(what: object, width: int = 80) -> list[str]:
    on = console(width)
    on.print(what)
    return said(on).splitlines()


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("seeds", [1, 3, 10])
def test_nothing_is_wider_than_the_terminal_or_cut(width: int, seeds: int) -> None:
    shown = lines(Group(*report(pairs(*[(5.123, 3.0 + 0.1 * seed) for seed in range(seeds)]))), width)
    assert max(map(len, shown)) <= width
    assert not any("…" in line for line in shown)


def test_each_layer_has_a_bar_as_built_and_one_behind_the_event() -> None:
    shown = lines(widths(GAIN))
    assert [line.split()[:2] for line in shown[::2]] == [
        ["conv1", "4"],
        ["conv2", "8"],
        ["conv3", "64"],
    ]
    bars = [(line.count("░"), line.count("█")) for line in shown]
    assert all(full == 0 for _, full in bars[::2]) and all(light == 0 for light, _ in bars[1::2])
    built, grown = [light for light, _ in bars[::2]], [full for _, full in bars[1::2]]
    assert built[0] < grown[0] and built[1] < grown[1] and built[2] > grown[2]
    assert built[0] / built[2] == pytest.approx(4 / 64, abs=1 / built[2])
    assert grown[2] / built[2] == pytest.approx(43 / 64, abs=1 / built[2])


def test_the_widths_of_each_seed_stand_behind_their_mean() -> None:
    some = pairs((5.0, 3.0), (5.0, 3.0))
    other = pairs((5.0, 3.0), widths=(6, 17, 50))
    shown = lines(widths([*some, *other]))
    assert shown[1].split() == ["8", "█" * shown[1].count("█"), "9", "9", "6"]
    assert shown[5].split()[-3:] == ["43", "43", "50"] and shown[5].split()[0] == "45"
    assert lines(widths(some[:1]))[1].replace("█", "").split() == ["9"]  # of one seed there is no mean


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_without_colours_the_two_curves_are_told_by_their_characters(encoding: str) -> None:
    on = Console(file=_Encoded(encoding), width=80, color_system=None, legacy_windows=False)
    on.print(Curves(GAIN))
    shown = on.file.text  # type: ignore[attr-defined]
    plain, ours, mark = ("○", "●", "▲") if encoding == "utf-8" else ("o", "x", "^")
    picture = shown.splitlines()[:11]
    assert any(plain in line for line in picture) and any(ours in line for line in picture)
    first = {sign: min(row for row, line in enumerate(picture) if sign in line[7:]) for sign in (plain, ours)}
    last = {sign: max(row for row, line in enumerate(picture) if sign in line[7:]) for sign in (plain, ours)}
    assert last[ours] > last[plain] >= first[plain]  # the smaller error stands lower
    marked = shown.splitlines()[11]
    assert marked.count(mark) == 1 and marked.index(mark) == pytest.approx(7 + 640 / 3_300 * 70, abs=1)
    assert f"{mark} rejuvenation" in shown and "3,300 steps" in shown


class _Encoded:
    """A file of which a console is told the encoding."""

    def __init__(self, encoding: str) -> None:
        self.encoding, self.text = encoding, ""

    def write(self, text: str) -> None:
        text.encode(self.encoding)
        self.text += text

    def flush(self) -> None: ...


def test_where_both_errors_are_one_the_curves_say_so() -> None:
    shown = lines(Curves(pairs((5.0, 5.0), event=0)))
    assert not any(sign in line for line in shown[:11] for sign in "○●") and any("◉" in line for line in shown[:11])
    assert "rejuvenation" not in shown[-1]


def test_a_curve_of_one_error_is_a_picture_too() -> None:
    flat = pairs((5.0, 5.0), curve=((66, 5.0), (132, 5.0)))
    assert len(lines(Curves(flat))) == 14


def test_the_table_has_the_numbers_of_each_seed_and_their_mean() -> None:
    shown = lines(table([*GAIN[:2], *pairs((6.0, 4.1), event=0)]))
    cells = [line.split() for line in shown]
    assert cells[2] == ["0", "5.00", "%", "3.00", "%", "-2.00", "43,417", "x", "1.38", "640", "23.7", "%", "x", "2.14"]
    assert cells[4][-4:] == ["43,470", "x", "1.00", "none"]
    assert cells[-1] == ["mean", "5.50", "%", "3.43", "%", "-2.07", "±", "0.52"]
    assert not any("mean" in line for line in lines(table(GAIN[:1])))


def test_a_difference_is_nr_minus_plain() -> None:
    assert pairs((5.0, 3.0))[0].difference == -2.0
    assert run("nr", 0, 3.0).test == 3.0
