"""Rewrites nine networks in every scheme, and checks outputs, cost and gradients against the original.

Each case rewrites a float64 network with dead channels (networks.py) and compares the result with the plain original
model, without nrfx's own verification: outputs by running both, params by counting parameters, flops by
FlopCounterMode, gradients by a train-mode backward. `python -m benchmarks matrix` runs all cases, and writes
docs/matrix.md and benchmarks/results/matrix.csv. Exit status 1: a case failed a check.
"""

import argparse
import copy
import gc
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

import nrfx
from benchmarks import count
from benchmarks.command import DOCS, RESULTS, add_models, parser_of, verdict, write
from benchmarks.networks import NETWORKS, Network, dying, norms
from benchmarks.outputs import LISTENS, backward, evaluated, relative, training_facts, without_gradient
from benchmarks.soundness.matrix_page import CLOSE, LEAST_SHARE, SUMMARY, Outcome, document, summary
from benchmarks.table import progress_bar, terminal
from nrfx.analysis.channels import Channels
from nrfx.analysis.spaces import channels_of
from nrfx.choices import Scheme

BETAS: Mapping[str, float] = {"zero": 0.0, "random": 0.1}
SCHEMES: tuple[Scheme, ...] = ("dense", "attention", "removed")
Measure = Literal["params", "flops"]
MEASURES: tuple[Measure, ...] = ("params", "flops")

TABLE = RESULTS / "matrix.csv"
DOCUMENT = DOCS / "matrix.md"


@dataclass(frozen=True)
class Subject:
    """A network with dead channels, and the facts about it that the checks compare with, found without nrfx.

    images: float64 [N, 3, side, side]. outputs: the eval outputs on the images. listens: relative change of the outputs
    on other images. trained: parameters that have a gradient in train mode. leaves: shapes of the train-mode outputs.
    dead: gamma name -> bool [channels], the gammas that are 0. cost: params and flops.
    """

    name: str
    beta: str
    model: nn.Module
    images: Tensor
    outputs: tuple[Tensor, ...]
    listens: float
    trained: frozenset[str]
    leaves: tuple[tuple[int, ...], ...]
    dead: Mapping[str, Tensor]
    cost: Mapping[str, int]


def subject(name: str, network: Network, beta: str) -> Subject:
    """The network of this name with dead channels, and the facts about it."""
    model = dying(network, BETAS[beta], calibration=4 if network.side > 200 else 8)
    images = network.images(2, seed=10)
    outputs = evaluated(model, images)
    trained, leaves = training_facts(copy.deepcopy(model), images)
    return Subject(
        *(name, beta, model, images, outputs),
        listens=relative(outputs, evaluated(model, network.images(2, seed=11))),
        trained=trained,
        leaves=leaves,
        dead={f"{path}.weight": norm.weight.detach() == 0 for path, norm in norms(model)},
        cost={"params": count.params(model), "flops": count.flops(model, images)},
    )


def dropped_difference(before: Subject) -> float:
    """The difference of the outputs where dead channels are dropped with the constants that they emit."""
    return relative(before.outputs, evaluated(nrfx.compact(_traced(before), constants=False).module, before.images))


def check(before: Subject, scheme: Scheme, measure: Measure, dropped: float = float("nan")) -> Outcome:
    """Rejuvenates the subject to its own cost in `measure`, and checks outputs, cost, gammas and gradients."""
    started = time.process_time()
    traced = _traced(before)
    budget = nrfx.Budget(**{measure: before.cost[measure]})
    result = nrfx.rejuvenate(traced, budget, scheme=scheme, generator=torch.Generator().manual_seed(0))
    seconds = time.process_time() - started

    difference = relative(before.outputs, evaluated(result.module, before.images))
    untouched = relative(before.outputs, evaluated(before.model, before.images))
    cost = {"params": count.params(result.module), "flops": count.flops(result.module, before.images)}
    left = _leftovers(before, result)
    gradients = _gradients(before, result)
    share = cost[measure] / before.cost[measure]
    reported = {"params": result.after.params.total, "flops": result.after.flops.total}
    laws = [
        (difference <= CLOSE, f"outputs differ by {difference:.1e}"),
        (untouched == 0, "the original network was changed"),
        (before.listens > LISTENS, f"outputs change with the input by {before.listens:.1e} only"),
        (share <= 1, f"{cost[measure]:,} {measure} exceed the budget of {before.cost[measure]:,}"),
        (share >= LEAST_SHARE, f"only {share:.2%} of the budget is used"),
        (cost == reported, f"counted {cost}, but result.after says {reported}"),
        (result.alpha > 1, f"alpha is {result.alpha:.3f}"),
        *((False, failure) for failure in (*left.failures, *gradients.failures)),
    ]
    return Outcome(
        *(before.name, before.beta, scheme, measure),
        difference=difference,
        dropped=dropped,
        listens=before.listens,
        utilization=getattr(result.before, measure).ratio,
        alpha=result.alpha,
        params=cost["params"],
        flops=cost["flops"],
        share=share,
        dead=sum(int(dead.sum()) for dead in before.dead.values()),
        carriers=left.carriers,
        held=left.held,
        held_because="; ".join(f"{number} {reason}" for reason, number in result.before.held),
        lost=gradients.lost,
        grown=gradients.grown,
        silent=gradients.silent,
        silent_next=gradients.silent_next,
        seconds=seconds,
        failures=_failures(laws),
    )


def _failures(laws: Iterable[tuple[bool, str]]) -> tuple[str, ...]:
    return tuple(text for holds, text in laws if not holds)


def _traced(before: Subject) -> nrfx.TracedModule:
    return nrfx.trace(before.model, before.images)


@dataclass(frozen=True)
class Leftovers:
    """The gammas at 0 in the new network: how many channels are carriers, and how many gammas are held."""

    carriers: int
    held: int
    failures: tuple[str, ...]


def _leftovers(before: Subject, result: nrfx.Rejuvenation) -> Leftovers:
    """Every gamma that is still 0 belongs to a carrier, one a space, or to a channel that is listed as held."""
    listed = {
        (name, index)
        for name, dead in before.dead.items()
        for index in (dead & ~result.removed[name]).nonzero().flatten().tolist()
    }
    zeros = [(name, *place) for name in before.dead for place in _zeros(name, result)]
    held = {(name, old) for name, _, old, beta in zeros if (name, old) in listed}
    carried = [(name, new) for name, new, old, beta in zeros if (name, old) not in listed and beta == 1]
    stray = [f"{name}[{new}]" for name, new, old, beta in zeros if (name, old) not in listed and beta != 1]
    carriers = _channels_by_space(channels_of(result.module), carried)
    most = max(carriers.values(), default=0)
    explained = sum(row.held for row in result.before.rows if f"{row.name}.weight" in before.dead)
    laws = [
        (not stray, f"{len(stray)} dead gammas are neither gone nor held nor carriers, such as {stray[:1]}"),
        (held == listed, f"{len(listed - held)} gammas listed as held are gone"),
        (most <= 1, f"{most} carriers in one space"),
        (sum(carriers.values()) == len(result.carriers), f"{carriers} carriers, listed are {result.carriers}"),
        (len(listed) == explained, f"{len(listed)} gammas are held, reasons are given for {explained}"),
    ]
    return Leftovers(sum(carriers.values()), len(held), _failures(laws))


def _zeros(name: str, result: nrfx.Rejuvenation) -> Iterator[tuple[int, int, float]]:
    """(new position, old position or -1 for new, beta) of each gamma that is 0 in the new network."""
    gamma = result.module.get_parameter(name).detach()
    beta = result.module.get_parameter(name.removesuffix("weight") + "bias").detach()
    places = result.origins[name][0]
    for position in (gamma == 0).nonzero().flatten().tolist():
        yield position, position if places is None else int(places[position]), float(beta[position])


def _channels_by_space(channels: Channels, places: Iterable[tuple[str, int]]) -> Counter[int]:
    """How many different channels of each space lie at these positions of gammas."""
    labels = [channels.norms[name][position] for name, position in places]
    ids = {int(channels.channel_of[label]) for label in labels}
    return Counter(int(channels.space_of[channel]) for channel in ids)


@dataclass(frozen=True)
class Gradients:
    """The counts of parameters by their gradient in a train-mode backward of the new network (see Outcome)."""

    lost: int
    grown: int
    silent: int
    silent_next: int
    failures: tuple[str, ...]


def _gradients(before: Subject, result: nrfx.Rejuvenation) -> Gradients:
    """Trains the new network for one step. Changes result.module."""
    module = result.module
    leaves = backward(module, before.images)
    parameters = dict(module.named_parameters())
    lost = without_gradient(result, before.trained)
    fresh = {
        name: mask
        for name in parameters
        if not name.endswith(".bias") and (mask := _new_part(result.origins[name], parameters[name])) is not None
    }
    silent = _silent(parameters, fresh)
    _step(module)
    backward(module, before.images)
    silent_next = _silent(parameters, fresh)
    laws = [
        (leaves == before.leaves, f"train-mode outputs have shapes {leaves}; before they had {before.leaves}"),
        (not lost, f"{len(lost)} parameters have no finite gradient, such as {lost[:3]}"),
    ]
    return Gradients(len(lost), len(fresh), len(silent), len(silent_next), _failures(laws))


def _step(module: nn.Module) -> None:
    """One step of gradient descent that moves no number by more than 0.01."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    torch.optim.SGD(module.parameters(), lr=0.01 / largest).step()


def _new_part(origins: tuple[Tensor | None, ...], parameter: Tensor) -> Tensor | None:
    """A bool mask, broadcastable to the parameter, of the numbers that are new; None if all are old."""
    fresh = torch.zeros((1,) * parameter.dim(), dtype=torch.bool)
    for dim, places in enumerate(origins):
        if places is not None:
            fresh = fresh | (places < 0).view([-1 if other == dim else 1 for other in range(parameter.dim())])
    return fresh if bool(fresh.any()) else None


def _silent(parameters: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> list[str]:
    """Parameters whose new numbers all have a gradient of zero."""
    gradients = {name: parameters[name].grad for name in fresh}
    return [
        name
        for name, mask in fresh.items()
        if (gradient := gradients[name]) is None or not bool((gradient * mask).any())
    ]


def outcomes(names: Sequence[str], quick: bool, progress: Progress) -> Iterator[Outcome]:
    """The cases of these networks in turn; `quick` takes one scheme and budget for each network and beta."""
    betas = [(name, beta) for name in names for beta in BETAS]
    every = [(scheme, measure) for scheme in SCHEMES for measure in MEASURES]
    task = progress.add_task("", total=len(betas) * (1 if quick else len(every)))
    for index, (name, beta) in enumerate(betas):
        progress.update(task, description=f"{name}, beta {beta}")
        before = subject(name, NETWORKS[name], beta)
        dropped = dropped_difference(before)
        for scheme, measure in every[index % len(every) :][:1] if quick else every:
            gc.collect()  # graphs refer to their modules in circles; without it old networks stay in memory
            progress.update(task, description=f"{name}, beta {beta}, {scheme}, {measure}")
            yield check(before, scheme, measure, dropped)
            progress.advance(task)
    progress.update(task, description="done")


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks all cases, prints the table, writes both files of a run over all; 1 if a case broke a law, else 0."""
    options = _parser().parse_args(arguments)
    console = Console()
    done: list[Outcome] = []
    with progress_bar(console) as progress:
        for outcome in outcomes(options.models, options.quick, progress):
            done.append(outcome)
            for failure in outcome.failures:
                console.print(f"[red]{_title(outcome)}: {failure}[/red]")
    console.print(terminal("Worst of all schemes and budgets", SUMMARY, summary(done), left=2))
    if not options.quick and set(options.models) == set(NETWORKS):
        write({TABLE: done, DOCUMENT: document(done)}, console)
    return verdict([not outcome.failures for outcome in done], "cases hold", console)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("matrix", __doc__, "--models resnet18 mobilenet_v2 --quick")
    add_models(parser, list(NETWORKS))
    parser.add_argument("--quick", action="store_true", help="one scheme and budget for each network and beta")
    return parser


def _title(outcome: Outcome) -> str:
    return f"{outcome.model}, beta {outcome.beta}, {outcome.scheme}, {outcome.budget}"
