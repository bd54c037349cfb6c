"""Tools that count: each says what it counts, or why it does not."""

import pytest
import torch
from torch import nn

from benchmarks.speed.peers import NRFX, PEERS, Counts, Peer, UnusableError, counted

CONV = 8 * 3 * 9


@pytest.mark.parametrize("tool", [tool for tool, peer in PEERS.items() if peer.version])
def test_every_tool_that_is_installed_counts_a_convolution(tool: str) -> None:
    conv = nn.Conv2d(3, 8, 3, padding=1, bias=False).eval()
    assert counted(PEERS[tool], conv, (torch.zeros(1, 3, 8, 8),)) == Counts(CONV, 64 * CONV)


def test_a_tool_that_is_not_installed_says_so() -> None:
    with pytest.raises(UnusableError, match=r"^not installed$"):
        counted(Peer("no-such-package-of-anyone", PEERS[NRFX].count), nn.Identity(), (torch.zeros(1),))


def test_a_tool_that_fails_says_how_in_one_line() -> None:
    def fails(*_: object) -> Counts:
        raise RuntimeError("first\nsecond")

    with pytest.raises(UnusableError, match=r"^RuntimeError: first second$"):
        counted(Peer("torch", fails), nn.Identity(), (torch.zeros(1),))
