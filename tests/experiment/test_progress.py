"""The progress screen: what it prints of a run, and of the moment of rejuvenation."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

import nrfx
from nrfx.experiment.config import RunConfig
from nrfx.experiment.loop import train
from nrfx.experiment.progress import Screen, layer_bars
from nrfx.experiment.record import Epoch
from tests.experiment.test_loop import QUICK, dataset, half_dead, network


def console(width: int = 80, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, legacy_windows=False)


def said(on: Console) -> str:
    return on.file.getvalue()


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
