"""The settings of the advice: their networks, what is held back, and that a seed decides a network."""

import pytest
import torch

from benchmarks.study.advice.advised import FIRST_SEED
from benchmarks.study.advice.run import SEEDS
from benchmarks.study.advice.settings import BUDGETS, SETTINGS, SHAPES


def test_eight_settings_are_held_back_and_as_many_were_used() -> None:
    held = [name for name, setting in SETTINGS.items() if setting.held]
    assert len(held) == 8 and len(SETTINGS) == 16


@pytest.mark.parametrize("name", SETTINGS)
def test_a_network_classifies_its_images_and_a_seed_decides_its_weights(name: str) -> None:
    setting = SETTINGS[name]
    one, same, other = (setting.built(seed) for seed in (0, 0, 1))
    assert setting.budget in BUDGETS and one(torch.zeros(2, *SHAPES[setting.data])).shape[0] == 2
    pairs = zip(one.parameters(), same.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, c in zip(one.parameters(), other.parameters(), strict=True))


def test_advice_and_full_runs_have_no_seed_in_common() -> None:
    assert FIRST_SEED >= SEEDS
