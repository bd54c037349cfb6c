"""What nrfx and other tools count on the traps, against the true numbers; and what they leave behind in the network."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from rich.progress import track
from torch import Tensor, nn

from benchmarks.speed.part import Goal, Part, Settings, made
from benchmarks.speed.peers import NRFX, PEERS, Counts, Peer, UnusableError, counted, versions
from benchmarks.speed.traps import TRAPS, Trap
from benchmarks.table import markdown

NEAR = 0.02
RIGHT, CLOSE, FAILS = "right", "near", "fails"


@dataclass(frozen=True)
class Answer:
    """What one tool says of one trap.

    Attributes:
        params, flops: what it counts; None where it fails.
        verdict: "right": both exactly; "near": flops within NEAR, which convention explains; "fails"; or what is wrong.
        left: what it leaves behind in the network: a changed mode, attribute or tensor; "" for nothing.
        refused: what it raises.
    """

    trap: str
    what: str
    tool: str
    true_params: int
    params: int | None
    true_flops: int
    flops: int | None
    verdict: str
    left: str
    refused: str
    peers: str
    torch: str
    date: str
    cpu: str


def verdict(trap: Trap, counts: Counts) -> str:
    """Whether counts are the true ones.

    >>> trap = TRAPS["plain"]
    >>> verdict(trap, Counts(trap.params, 2 * trap.flops)), verdict(trap, Counts(0, trap.flops))
    ('flops 2.00x', 'params 0.00x')
    """
    wrong = []
    if counts.params != trap.params:
        wrong.append(f"params {counts.params / trap.params:.2f}x")
    if abs(counts.flops - trap.flops) > NEAR * trap.flops:
        wrong.append(f"flops {counts.flops / trap.flops:.2f}x")
    return ", ".join(wrong) or (RIGHT if counts.flops == trap.flops else CLOSE)


def answer(name: str, tool: str, settings: Settings) -> Answer:
    """The row of a tool that has a network of its own: in train mode, so that a tool that changes the mode is seen."""
    trap, peer = TRAPS[name], PEERS[tool]
    torch.manual_seed(0)
    module, inputs = trap.build(), trap.inputs()
    if trap.on_meta:
        module, inputs = module.to("meta"), tuple(x.to("meta") for x in inputs)
    told, left, refused = asked(peer, module, inputs)
    given = (told.params, told.flops) if told else (None, None)
    return Answer(
        *(name, trap.what, tool, trap.params, given[0], trap.flops, given[1]),
        *(verdict(trap, told) if told else FAILS, left, refused, versions()),
        **vars(settings.environment),
    )


def asked(peer: Peer, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Counts | None, str, str]:
    """What the tool counts in eval mode, what it leaves behind in train mode, and what it raises."""
    module.train()
    before = _state(module)
    with suppress(UnusableError):  # it may succeed in eval mode, which counts
        counted(peer, module, inputs)
    left = _left(before, _state(module))
    try:
        return counted(peer, module.eval(), inputs), left, ""
    except UnusableError as error:
        return None, left, str(error)


def _state(module: nn.Module) -> Mapping[str, object]:
    """What a tool should leave as it was: modes, the names in each module, hooks, and the tensors."""
    state: dict[str, object] = {}
    for path, each in module.named_modules():
        state[f"mode of {path}"] = each.training
        state[f"attributes of {path}"] = frozenset(vars(each))
        state[f"hooks of {path}"] = len(each._forward_hooks) + len(each._forward_pre_hooks)
        state[f"buffers of {path}"] = tuple(name for name, _ in each.named_buffers(recurse=False))
    return state


def _left(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    changed = dict.fromkeys(key.partition(" ")[0] for key in before if before[key] != after.get(key))
    return ", ".join(changed)


def measured(settings: Settings) -> list[Answer]:
    """The answers of all tools on all traps."""
    names = list(TRAPS)[:4] if settings.quick else list(TRAPS)
    return [answer(name, tool, settings) for name in track(names, "traps", console=settings.console) for tool in PEERS]


def holds(rows: Sequence[Answer]) -> bool:
    """Whether nrfx is right on every trap, exactly, or refuses it, and leaves nothing behind."""
    return all(row.verdict in (RIGHT, FAILS) and not row.left for row in rows if row.tool == NRFX)


def goals(rows: Sequence[Answer]) -> list[Goal]:
    """nrfx is exact on all traps."""
    own = [row for row in rows if row.tool == NRFX]
    return [Goal(f"traps of {len(own)} on which nrfx is not exact", sum(row.verdict != RIGHT for row in own), 0, "")]


TEXT = """\
Networks of one or two layers, params and multiply-adds worked out by hand
([traps.py](../benchmarks/speed/traps.py)). A factor is what the tool counts as a part of the truth. *near*: flops
within 2 %, which a softmax or a norm may add by convention. All tools count in eval mode. *leaves* says what has
changed in a network in train mode after the tool was called. All learnable numbers are params here, frozen ones too;
ptflops and calflops mean those that need a gradient.
"""


def section(rows: Sequence[Answer]) -> list[str]:
    """The lines of the section of docs/speed.md."""
    tools = list(dict.fromkeys(row.tool for row in rows))
    by_trap: dict[str, dict[str, Answer]] = {}
    for row in rows:
        by_trap.setdefault(row.trap, {})[row.tool] = row
    lines = [_line(name, answers, tools) for name, answers in by_trap.items()]
    right = ["right or near", "", "", *[_share([row for row in rows if row.tool == tool]) for tool in tools]]
    left = ["leaves", "", "", *[_leaves([row for row in rows if row.tool == tool]) for tool in tools]]
    table = markdown(("trap", "params", "flops", *tools), [*lines, tuple(right), tuple(left)])
    fails = {f"- {row.tool}, {row.trap}: {row.refused}" for row in rows if row.refused}
    why = ["", "What the tools say where they fail:", "", *sorted(fails)] if fails else []
    return [TEXT, *table, *why, "", f"{rows[0].peers}; {made(rows)}"]


def _line(name: str, answers: Mapping[str, Answer], tools: Sequence[str]) -> tuple[str, ...]:
    first = next(iter(answers.values()))
    verdicts = [answers[tool].verdict for tool in tools]
    said = [word if word in (RIGHT, CLOSE) else f"**{word}**" for word in verdicts]
    return (f"{name}: {first.what}", f"{first.true_params:,}", f"{first.true_flops:,}", *said)


def _share(rows: Sequence[Answer]) -> str:
    return f"{sum(row.verdict in (RIGHT, CLOSE) for row in rows)} of {len(rows)}"


def _leaves(rows: Sequence[Answer]) -> str:
    words = dict.fromkeys(word for row in rows for word in row.left.split(", ") if word)
    return ", ".join(words) or "nothing"


PART = Part("traps", "What the counters count", Answer, measured, section, goals, holds)
