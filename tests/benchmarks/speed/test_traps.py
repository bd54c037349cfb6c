"""The true numbers of the traps, against nrfx and against a counter that sees every operation."""

import pytest
import torch

from benchmarks import count
from benchmarks.speed.correctness import FAILS, RIGHT, asked, verdict
from benchmarks.speed.peers import NRFX, PEERS, Counts, Peer
from benchmarks.speed.traps import TRAPS


@pytest.mark.parametrize("name", TRAPS)
def test_nrfx_counts_every_trap_exactly_and_leaves_nothing_behind(name: str) -> None:
    trap = TRAPS[name]
    module, inputs = trap.build(), trap.inputs()
    if trap.on_meta:
        module, inputs = module.to("meta"), tuple(x.to("meta") for x in inputs)
    counts, left, refused = asked(PEERS[NRFX], module, inputs)
    assert (counts, left, refused) == (Counts(trap.params, trap.flops), "", "")


@pytest.mark.parametrize("name", TRAPS)
def test_the_true_numbers_are_those_of_every_operation_that_runs(name: str) -> None:
    trap = TRAPS[name]
    module, inputs = trap.build(), trap.inputs()
    assert (count.params(module), count.flops(module, inputs)) == (trap.params, trap.flops)


def test_a_wrong_count_is_named_with_its_factor_and_a_small_difference_of_convention_is_near() -> None:
    trap = TRAPS["plain"]
    counts = [Counts(trap.params, trap.flops + more) for more in (0, trap.flops // 100, trap.flops)]
    assert [verdict(trap, each) for each in counts] == [RIGHT, "near", "flops 2.00x"]
    assert verdict(trap, Counts(trap.params // 2, 0)) == "params 0.50x, flops 0.00x"


def test_what_a_tool_leaves_behind_is_seen_and_a_tool_that_fails_is_heard() -> None:
    def careless(module: torch.nn.Module, _: object) -> Counts:
        module.eval().register_buffer("total_ops", torch.zeros(1))
        raise ValueError("no rule for this")

    counts, left, refused = asked(Peer("torch", careless), TRAPS["plain"].build(), TRAPS["plain"].inputs())
    assert (counts, left, refused) == (None, "mode, buffers", "ValueError: no rule for this")
    assert FAILS not in (RIGHT, "near")
