"""Recurrent layers over the positions of an image, and cells."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.patterns.pattern import Last, Op, Pattern


def sequence(x: Tensor) -> Tensor:
    return x.amax(2).mT  # [N, 8 steps, channels]


def run(m: Op, x: Tensor) -> Tensor:
    return m.rnn(sequence(x))[0]


def run_steps_first(m: Op, x: Tensor) -> Tensor:
    return m.rnn(sequence(x).transpose(0, 1))[0].transpose(0, 1)


def both_states(m: Op, x: Tensor) -> Tensor:
    out, (h, c) = m.rnn(sequence(x))
    return torch.cat([out[:, -1], h[-1], c[0]], 1)


def from_a_state(m: Op, x: Tensor) -> Tensor:
    return m.rnn(sequence(x), m.start(x.mean((2, 3)))[None])[0]


def stepwise(m: Op, x: Tensor) -> Tensor:
    h, c = m.cell(x[:, :, 0, 0])
    for step in range(1, 4):
        h, c = m.cell(x[:, :, step, step], (h, c))
    return h


def of_rnn(kind: type = nn.LSTM, size: int = 8, **options: Any) -> Any:
    return lambda: {"rnn": kind(size, 5, **{"batch_first": True} | options)}


RECURRENT = {
    "LSTM": Pattern(run, of_rnn(), free="before.0"),
    "LSTM of steps first": Pattern(run_steps_first, of_rnn(batch_first=False), free="before.0"),
    "LSTM of several layers": Pattern(run, of_rnn(num_layers=3), free="before.0"),
    "LSTM without bias": Pattern(run, of_rnn(bias=False), free="before.0"),
    "LSTM of both directions": Pattern(run, of_rnn(bidirectional=True), free="before.0"),
    "LSTM of both directions, layers and a projection": Pattern(
        run_steps_first, of_rnn(bidirectional=True, num_layers=2, proj_size=3, batch_first=False), free="before.0"
    ),
    "LSTM of both directions without bias": Pattern(run, of_rnn(bidirectional=True, bias=False), free="before.0"),
    "LSTM with its states": Pattern(both_states, of_rnn(), free="before.0"),
    "LSTM as the output": Pattern(lambda m, x: m.rnn(sequence(x)), of_rnn(), free="before.0", net=Last),
    "LSTM of one row": Pattern(
        lambda m, x: m.rnn(sequence(x))[0] + m.rnn(x[0].amax(1).t())[0], of_rnn(), free="before.0"
    ),
    "LSTM called twice": Pattern(
        lambda m, x: m.rnn(sequence(x))[0] + m.rnn(x.amax(3).mT)[0], of_rnn(), free="before.0"
    ),
    "LSTM without bias before a norm": Pattern(
        lambda m, x: m.norm(m.rnn(sequence(x))[0].mT).mT,
        lambda: of_rnn(bias=False)() | {"norm": nn.BatchNorm1d(5)},
        free="before.0",
    ),
    "LSTM of flattened rows": Pattern(
        lambda m, x: m.rnn(x.permute(0, 2, 1, 3).flatten(2))[0], of_rnn(size=64), free="before.0"
    ),
    "LSTM of padded steps": Pattern(
        lambda m, x: m.rnn(F.pad(sequence(x), (0, 0, 2, 1)))[0], of_rnn(bidirectional=True), free="before.0"
    ),
    "LSTM of unfolded patches": Pattern(
        lambda m, x: m.rnn(F.unfold(x, 3, padding=1, stride=2).mT)[0], of_rnn(size=72), free="before.0"
    ),
    "GRU": Pattern(run, of_rnn(nn.GRU), free="before.0"),
    "GRU of both directions": Pattern(run, of_rnn(nn.GRU, bidirectional=True, num_layers=2), free="before.0"),
    "GRU from a state": Pattern(
        from_a_state, lambda: of_rnn(nn.GRU)() | {"start": nn.Linear(8, 5)}, free="before.0", pinned="op.start"
    ),
    "RNN": Pattern(run, of_rnn(nn.RNN, nonlinearity="relu"), free="before.0"),
    "LSTM cell": Pattern(stepwise, lambda: {"cell": nn.LSTMCell(8, 5)}, free="before.0"),
    "LSTM cell without bias": Pattern(stepwise, lambda: {"cell": nn.LSTMCell(8, 5, bias=False)}, free="before.0"),
    "GRU cell": Pattern(
        lambda m, x: m.cell(x.amax((2, 3)), m.cell(x.mean((2, 3)))), lambda: {"cell": nn.GRUCell(8, 5)}, free="before.0"
    ),
}
