"""The benchmark of the stream: a run in small, what each arm does, and the lines of its table."""

from dataclasses import replace

import pytest
import torch

from benchmarks.study import stream, stream_page


def test_a_seed_gives_each_arm_the_same_tasks_and_each_task_an_order_of_its_own() -> None:
    first, again = (list(stream.tasks(3, 2)) for _ in range(2))
    for (x, y), (other, labels) in zip(first, again, strict=True):
        assert torch.equal(x, other) and torch.equal(y, labels)
    (x, _), (other, _) = first
    assert x.shape == (stream.IMAGES, 64) and not torch.equal(x, other)


@pytest.mark.parametrize("arm", ["plain", "ReDo"])
def test_a_short_run_has_its_errors_and_events(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "IMAGES", 64)
    monkeypatch.setattr(stream, "INTERVAL", 8)
    run = stream.streamed(arm, 0, count=10)
    assert len(run.blocks) == 1 and 50 < run.blocks[0] < 100
    assert (run.events > 0) == (arm == "ReDo") and run.params == 8970


def test_a_line_compares_an_arm_with_the_plain_run_of_the_same_seed() -> None:
    run = stream_page.Streamed("plain", 0, "40.0 50.0", 60.0, 0, 8970, 1.0, "2.14", "2026-01-01", "CPU")
    runs = [run, replace(run, seed=1, errors="42.0 52.0")]
    runs += [
        replace(one, arm="ReDo", errors=f"40.0 {last}", events=3) for one, last in zip(runs, (40.0, 42.0), strict=True)
    ]
    plain, redo = stream_page.lines(runs)
    assert plain[:4] == ("plain", "41.00 ± 12.71 %", "51.00 ± 12.71 %", "-")
    assert redo[3] == "-10.00 ± 0.00" and redo[5] == "3.0"
