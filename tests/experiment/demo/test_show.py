"""The demo from end to end on trainings of a second: what it refuses, prints, leaves, and goes on with."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nrfx
from nrfx.errors import CheckpointError, UsageError
from nrfx.experiment.demo import setting, show, workers
from nrfx.experiment.demo.screen import Screen
from nrfx.experiment.demo.setting import Setting
from nrfx.experiment.demo.show import Asked, chosen, demo, introduction
from nrfx.experiment.demo.training import Moment, Stopped, Task, Trained, trained
from nrfx.experiment.demo.verdict import verdict
from tests.experiment.demo.runs import GAIN, LOSS, NONE, console, said, tiny

__all__ = ["tiny"]


# What it refuses


@pytest.mark.parametrize(("wrong", "words"), [
    ({"seeds": 0}, "seeds is 0; expected 1 or more"),
    ({"seed": -1}, "seed is -1; expected 0 or more"),
    ({"epochs": 0}, "epochs is 0; expected 1 or more"),
    ({"setting": "cifar10"}, "no data 'cifar10'; there are digits, fashion"),
    ({"setting": "fashion"}, r"needs one with its four files \(--data-root DIR\)"),
    ({"root": "here"}, "and the digits none"),
])  # fmt: skip
def test_what_cannot_be_asked_for_is_refused_by_name(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Asked(**wrong)  # type: ignore[arg-type]


def test_a_folder_that_holds_a_demo_is_refused_before_any_training(tmp_path: Path) -> None:
    (tmp_path / show.FILE).write_text("")
    with pytest.raises(UsageError, match=r"holds a demo already.*go on with it \(nrfx demo --resume"):
        demo(tmp_path, Asked(), console=console())
    with pytest.raises(UsageError, match="jobs is 0"):
        demo(tmp_path, Asked(), jobs=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        demo(tmp_path / "file", Asked(), console=console())
    assert sorted(path.name for path in tmp_path.iterdir()) == [show.FILE, "file"]


def test_a_folder_without_a_demo_or_with_another_file_cannot_go_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no demo: there is no demo\.json"):
        demo(tmp_path, console=console())
    (tmp_path / show.FILE).write_text('{"setting": "digits", "seeds": "three"}')
    with pytest.raises(CheckpointError, match=r"demo\.json.*seeds.*expected a whole number"):
        demo(tmp_path, console=console())


def test_images_that_are_not_there_are_told_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fashion is not in"):
        demo(tmp_path / "out", Asked("fashion", root=str(tmp_path)), console=console())
    assert not (tmp_path / "out" / "seed-0").exists()


# What is asked for


def test_fashion_is_taken_where_it_is_found_or_named_and_digits_otherwise_or_where_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setting, "PLACES", (tmp_path / "absent",))
    assert chosen() == Asked("digits")
    assert chosen("digits", seeds=2) == Asked("digits", seeds=2)
    assert chosen(root=tmp_path) == Asked("fashion", root=str(tmp_path))
    with pytest.raises(UsageError, match="four files"):
        chosen("fashion")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "train-images-idx3-ubyte").write_bytes(b"")
    monkeypatch.setattr(setting, "PLACES", (tmp_path / "there",))
    assert chosen() == chosen("fashion") == Asked("fashion", root=str(tmp_path / "there"))
    assert chosen("digits") == Asked("digits")


@pytest.mark.parametrize("name", setting.SETTINGS)
def test_the_introduction_names_the_network_and_the_images(name: str) -> None:
    asked = Asked("fashion", root="here") if name == "fashion" else Asked()
    widths = ", ".join("pool" if width is None else str(width) for width in setting.SETTINGS[name].widths)
    told = introduction(asked)
    first = told.splitlines()[0]
    assert first.startswith("Images: Fashion-MNIST, whose files are in here" if name == "fashion" else "Images: hand")
    assert ("--data digits" if name == "fashion" else "--data-root DIR") in first
    assert f"({widths})" in told and setting.SETTINGS[name].images in told and "3 seeds" in told
    assert "from one seed" in introduction(replace(asked, seeds=1))


# From end to end


def test_a_demo_trains_both_within_one_budget_and_leaves_networks_logs_and_its_numbers(
    tiny: Setting, tmp_path: Path
) -> None:
    random, threads, on = torch.get_rng_state(), torch.get_num_threads(), console()
    result = demo(tmp_path / "new" / "demo", Asked(seed=3, seeds=2), console=on)
    assert torch.equal(torch.get_rng_state(), random) and torch.get_num_threads() == threads
    assert [pair.plain.seed for pair in result.pairs] == [3, 4]
    for pair in result.pairs:
        assert pair.plain.steps == pair.nr.steps == pair.plain.curve[-1][0] and pair.nr.params <= pair.plain.params
        assert pair.plain.event == 0 < pair.nr.event and pair.nr.alpha > 1 and pair.nr.r < tiny.config.trigger
        assert pair.plain.layers == ("conv1", "conv2") and pair.plain.widths == (2, 12)
        assert len(pair.nr.widths) == 2 and pair.nr.widths != pair.plain.widths
        for run in (pair.plain, pair.nr):
            path = result.out / f"seed-{run.seed}" / run.row / "model.safetensors"
            loaded = nrfx.load(path, tiny.network(run.seed))
            assert sum(p.numel() for p in loaded.parameters()) == run.params
    told = json.loads((result.out / "result.json").read_text())
    assert told == json.loads(result.to_json()) and told["verdict"] == verdict(result.pairs)
    low, high = told["interval"]
    assert low < told["difference"] < high
    assert told["seeds"]["3"]["nr"]["test"] == result.pairs[0].nr.test
    printed = said(on)
    assert max(len(line.rstrip()) for line in printed.splitlines()) <= 80
    assert "".join(printed.split()).endswith("".join(verdict(result.pairs).split()))
    assert [line.split()[:2] for line in printed.splitlines() if line.startswith("seed ") and "steps" in line] == [
        ["seed", "3"], ["seed", "3"], ["seed", "4"], ["seed", "4"]
    ]  # fmt: skip


@pytest.mark.parametrize(("ends", "words"), [
    (GAIN, "Neural Rejuvenation helps here"), (NONE, "No difference shown"), (LOSS, "Neural Rejuvenation does harm")
])  # fmt: skip
def test_the_last_line_is_the_verdict_whichever_way_it_is(
    ends: list[show.Pair], words: str, tiny: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def over(task: Task, tell: object) -> Trained:
        return getattr(ends[task.seed], task.row)

    monkeypatch.setattr(workers, "trained", over)
    on = console(400)
    demo(tmp_path, Asked(), console=on)
    assert said(on).splitlines()[-1].startswith(words)


def test_a_demo_that_is_broken_off_goes_on_and_ends_as_it_would_have(tiny: Setting, tmp_path: Path) -> None:
    whole = demo(tmp_path / "whole", Asked(seeds=1), console=console())
    asked = Asked(seeds=1)
    for task, last in zip(asked.tasks(tmp_path / "broken"), (3, 2), strict=True):
        _broken_off(replace(task, setting=tiny), last)
    (tmp_path / "broken" / show.FILE).write_text(json.dumps({"seeds": 1}))
    on = demo(tmp_path / "broken", console=console())
    for one, other in zip(on.pairs, whole.pairs, strict=True):
        assert replace(one.plain, seconds=0) == replace(other.plain, seconds=0)
        assert replace(one.nr, seconds=0) == replace(other.nr, seconds=0)


def test_what_a_demo_goes_on_from_is_shown_at_once(tiny: Setting, tmp_path: Path) -> None:
    tasks = [replace(task, setting=tiny) for task in Asked(seeds=2).tasks(tmp_path)]
    for task, last in zip(tasks, (2, 2), strict=False):
        _broken_off(task, last)
    (tmp_path / "seed-1" / "plain").mkdir(parents=True)
    (tmp_path / "seed-1" / "plain" / "log.jsonl").write_text('{"kind": "ep')
    on = console(terminal=True)
    with Screen(on, tasks) as screen:
        known = list(screen.moments.values())
    assert [moment.epoch for moment in known] == [2, 2, 0, 0]
    first, *_ = [line for line in said(on).splitlines() if "seed 0" in line]
    assert first.count("█") and f"{known[0].error:.1f} %" in first and "widened" in first
    assert known[0].r is None and known[1].event is not None


def _broken_off(task: Task, last: int) -> None:
    """Trains up to an epoch; up to the last one is all of it."""

    def tell(moment: Moment) -> None:
        if moment.error is not None and moment.epoch == last < task.last:
            raise Stopped

    try:
        trained(task, tell)
    except Stopped:
        assert last < task.last


def test_in_a_terminal_each_seed_has_a_line_with_both_bars(tiny: Setting, tmp_path: Path) -> None:
    for width in (80, 160):
        on = console(width, terminal=True)
        demo(tmp_path / str(width), Asked(seeds=2), console=on)
        drawn = [line for line in said(on).splitlines() if "seed 1" in line and "█" in line and "·" in line]
        assert drawn and all("plain" in line and "NR" in line and " %" in line for line in drawn)
        assert any("  r " in line for line in said(on).splitlines()) and "%  widened" in said(on)
