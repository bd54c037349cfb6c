"""The demo and the progress screen: what they print for each way in which the two runs can end."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

import nrfx
from nrfx.errors import UsageError
from nrfx.experiment.config import RunConfig
from nrfx.experiment.demo import CONFIG, Demo, comparison, demo, digits_net
from nrfx.experiment.loop import Run, train
from nrfx.experiment.progress import Screen, layer_bars
from nrfx.experiment.record import Epoch
from nrfx.experiment.scores import Score
from tests.experiment.test_loop import QUICK, dataset, half_dead, network

SHORT = replace(CONFIG, batch_size=128, interval=2)


def console(width: int = 80, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, legacy_windows=False)


def said(on: Console) -> str:
    return on.file.getvalue()


def outcome(plain_wrong: int, wrong: int, *, event: bool = True, note: str = "") -> Demo:
    """A demo that ended with so many wrong test images of 500."""
    gm, budget = half_dead()
    done = train(gm, dataset(), QUICK, budget)

    def run(count: int, ended: bool) -> Run:
        return replace(done, test=Score(0.1, count, 500), events=done.events if ended else (), note=note)

    return Demo(run(plain_wrong, False), run(wrong, event), budget, Path("runs/demo"))


def test_a_folder_that_holds_a_demo_is_refused_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "nr").mkdir()
    (tmp_path / "nr" / "log.jsonl").write_text("")
    with pytest.raises(UsageError, match="holds a run already"):
        demo(tmp_path, console=console())
    assert not (tmp_path / "plain").exists()


def test_the_demo_leaves_the_random_state_and_the_threads_as_they_were(tmp_path: Path) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    demo(tmp_path, epochs=1, config=SHORT, console=console())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_both_runs_are_of_one_length_within_one_budget_and_saved(tmp_path: Path) -> None:
    on = console()
    result = demo(tmp_path, seed=3, epochs=2, config=SHORT, console=on)
    assert len(result.plain.epochs) == len(result.rejuvenated.epochs) == 2
    assert result.rejuvenated.params <= result.plain.params
    for name, run in {"plain": result.plain, "nr": result.rejuvenated}.items():
        loaded = nrfx.load(tmp_path / name / "model.safetensors", digits_net())
        assert sum(p.numel() for p in loaded.parameters()) == run.params
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(result.to_json())
    assert f"Saved in {tmp_path}" in said(on).replace("\n", "")
    assert max(len(line.rstrip()) for line in said(on).splitlines()) <= 80


@pytest.mark.parametrize(("plain", "ours", "words"), [
    (30, 5, "5 of 500 test images wrong, against 30 after plain training: Neural Rejuvenation did better here"),
    (5, 30, "Neural Rejuvenation did worse here"),
    (5, 5, "Neural Rejuvenation did the same here"),
    (6, 4, "2 fewer, which is too close to call"),
    (4, 6, "2 more, which is too close to call"),
])  # fmt: skip
def test_the_verdict_says_what_happened(plain: int, ours: int, words: str) -> None:
    assert words in outcome(plain, ours).verdict()


def test_without_an_event_the_verdict_says_that_there_was_none_and_why() -> None:
    verdict = outcome(9, 3, event=False, note="The search window ends at step 7.").verdict()
    assert verdict.startswith("No rejuvenation took place")
    assert verdict.endswith("The search window ends at step 7.")
    assert "better" not in verdict


def test_the_table_shows_both_runs_side_by_side() -> None:
    on = console()
    on.print(comparison(outcome(10, 5)))
    for row in ("test error", "2.00 %", "1.00 %", "params", "rejuvenations"):
        assert row in said(on)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("width", [80, 160])
def test_a_run_shows_its_progress_and_the_moment_of_rejuvenation(width: int, terminal: bool) -> None:
    on = console(width, terminal)
    gm, budget = half_dead()
    with Screen(on, "squares", QUICK, budget, network="a vgg") as screen:
        train(gm, dataset(), QUICK, budget, watcher=screen)
    shown = ("below the trigger of 50.0 %", "a vgg, rejuvenated", "live", "validation loss", "2/2", "λ", "(lag ")
    for words in (*shown, "with running statistics, which lag behind: "):
        assert words in said(on)


def test_a_line_of_a_run_fits_into_80_columns_and_a_long_one_is_not_cut() -> None:
    config, budget = replace(QUICK, epochs=12), nrfx.Budget(params=10**6)
    epoch = Epoch(12, 100, 0.123, 5.0, 0.5, 25.3, 0.583, 0.6, 0.0222, 0.05, 10.0, 12, 1.5, 59.1)
    for title in ("digits_net", "mobilenet_v3_small"):
        on = console()
        Screen(on, title, config, budget).trained(epoch)
        line = f"{title}  12/12  loss 0.123  error 25.3 % (lag 59.1)  r 58.3 %  λ 0.0222"
        assert said(on) == f"{line}\n" and (len(line) <= 80) == (title == "digits_net")


def test_a_search_without_an_event_is_told_as_a_sentence() -> None:
    on = console(200)
    gm = network()
    budget = nrfx.Budget.relative(gm, params=1.0)
    config = RunConfig(epochs=1, batch_size=8, interval=1, search=1.0)
    with Screen(on, "squares", config, budget) as screen:
        train(gm, dataset(), config, budget, watcher=screen)
    assert "ends at step 5 without a rejuvenation" in " ".join(said(on).split())


def test_after_the_search_a_line_has_the_epochs_own_r_and_no_lambda() -> None:
    on = console(200)
    gm = network()
    config = RunConfig(epochs=2, batch_size=8, interval=1, search=0.5, delta_lambda=1e-3)
    with Screen(on, "squares", config, nrfx.Budget.relative(gm, params=1.0)) as screen:
        run = train(gm, dataset(), config, nrfx.Budget.relative(gm, params=1.0), watcher=screen)
        screen.trained(replace(run.epochs[-1], r_params=0.25, r_flops=0.75))
    first, last = [line for line in said(on).splitlines() if "2/2" in line]
    assert "λ 0.0000" in first and "r 25.0 %" in last


def test_the_layers_are_shown_by_their_live_channels() -> None:
    gm, _ = half_dead()
    on = console()
    on.print(layer_bars(nrfx.utilization(gm)))
    lines = [line for line in said(on).splitlines() if "/" in line]
    assert [line.split()[-1] for line in lines] == ["3/8", "5/12", "7/16"]
    assert all("█" in line and "·" in line for line in lines)
