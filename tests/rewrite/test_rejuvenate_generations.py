"""Several rejuvenations in a row: the function, the budget, the optimizer, and survivors that become one generation."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from nrfx.nn import Cross
from tests.zoo import IMAGE, SMALL, calibrated, norms, vgg_bn

SCHEMES = ("attention", "dense", "removed")
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-7}


def images(dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(IMAGE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@torch.no_grad()
def kill(gm: nn.Module, seed: int, beta: float = 0.1) -> None:
    """Sets some gammas to 0, and all that are below the threshold, so that a rewrite must equal the network exactly."""
    generator = torch.Generator().manual_seed(seed)
    for norm in norms(gm):
        dead = torch.rand(norm.num_features, generator=generator) < 0.3
        dead[0] = False
        norm.weight[dead], norm.bias[dead] = 0.0, beta
        norm.weight[norm.weight.abs() < 0.01 * norm.weight.abs().max()] = 0.0


def set_up(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> nrfx.Rejuvenator:
    torch.manual_seed(0)
    gm = nrfx.trace(calibrated(SMALL[name]()).to(dtype), images(dtype))
    kind = options.pop("optimizer", SGD)
    optimizer = kind(gm.parameters(), lr=0.01, **({"momentum": 0.9} if kind is SGD else {}))
    return nrfx.Rejuvenator(
        gm, optimizer, nrfx.Budget.relative(gm, params=1.0),
        **{"trigger": 0.999, "interval": 1, "max_events": 5, "residual": "coupled", "gamma0": 0.5,
           "generator": torch.Generator().manual_seed(1), **options},
    )  # fmt: skip


def learn(nr: nrfx.Rejuvenator, steps: int = 3) -> None:
    """Training steps without a penalty, after which cross weights are no longer 0."""
    head_loss = nrfx.HeadLoss(lambda out, y: F.cross_entropy(out[0] if isinstance(out, tuple) else out, y))
    dtype = next(nr.module.parameters()).dtype
    nr.module.train()
    for seed in range(steps):
        loss = head_loss(nr.module, images(dtype, seed), torch.tensor([0, 1]))
        nr.optimizer.zero_grad()
        loss.backward()
        nr.optimizer.step()
    nr.module.eval()


def events(nr: nrfx.Rejuvenator, count: int = 5) -> Iterator[tuple[nrfx.TracedModule, nrfx.Event]]:
    """Pairs of the network before an event and the event; the network trains between events."""
    for seed in range(count):
        learn(nr)
        kill(nr.module, seed)
        before = copy.deepcopy(nr.module)
        event = nr.step()
        assert isinstance(event, nrfx.Event), nr.note
        yield before, event


# Five in a row


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float64) for name in ("vgg_bn", "resnet", "densenet_postact", "mobilenet")),
        ("aux_net", torch.float32),
    ],
)
def test_five_rejuvenations_in_a_row_keep_function_budget_and_optimizer(
    name: str, scheme: str, dtype: torch.dtype
) -> None:
    nr = set_up(name, dtype, scheme=scheme)
    x = images(dtype, seed=9)
    for before, event in events(nr):
        nrfx.verify(before, event.result, x)
        with torch.no_grad():
            expected, actual = before(x), nr.module(x)
        assert float((expected - actual).abs().max() / expected.abs().max()) < TOLERANCE[dtype]
        cost = event.result.after
        assert cost.params.total == sum(parameter.numel() for parameter in nr.module.parameters()) <= nr.budget.params
        assert cost.flops.total == counted_flops(nr.module, x[:1])
        assert event.result.alpha > 1
        check_migrated(before, nr, event.result)
    assert nr.events == 5 and not nr.searching
    layers = [module for module in nr.module.modules() if isinstance(module, Cross)]
    assert scheme == "dense" or max(len(layer.in_generations) for layer in layers) == 6


def counted_flops(module: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return counter.get_total_flops() // 2


def check_migrated(before: nn.Module, nr: nrfx.Rejuvenator, result: nrfx.Rejuvenation) -> None:
    """The optimizer trains exactly the new parameters, and its momentum is shaped as they are, new positions at 0."""
    held = [parameter for group in nr.optimizer.param_groups for parameter in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in nr.module.parameters()} and len(held) == len(set(held))
    assert not set(before.parameters()) & set(held)
    for name, parameter in nr.module.named_parameters():
        momentum = nr.optimizer.state.get(parameter, {}).get("momentum_buffer")
        if momentum is not None:
            assert momentum.shape == parameter.shape
            for dim, places in enumerate(result.origins[name]):
                if places is not None:
                    assert not momentum.index_select(dim, (places < 0).nonzero().flatten()).any(), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_five_rejuvenations_in_a_row_with_adam(scheme: str) -> None:
    nr = set_up("vgg_bn", scheme=scheme, optimizer=AdamW)
    for before, event in events(nr):
        assert nrfx.verify(before, event.result, images(seed=9)) < 1e-10
    learn(nr, 1)
    assert all(nr.optimizer.state[p]["exp_avg"].shape == p.shape for p in nr.module.parameters())


@pytest.mark.parametrize("count", [3, 5])
def test_k_generations_compute_the_sum_over_all_others_inside_the_attention(count: int) -> None:
    nr = set_up("vgg_bn", scheme="attention")
    for _ in events(nr, count):
        pass
    learn(nr)
    layer = nr.module.get_submodule("8")
    assert len(layer.in_generations) == count + 1
    x = torch.randn(1, layer.in_channels, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    column_of, row_of = (torch.arange(count + 1).repeat_interleave(torch.tensor(widths))
                         for widths in (layer.in_generations, layer.out_generations))  # fmt: skip
    with torch.no_grad():
        y = [F.conv2d(x * (column_of == j).view(1, -1, 1, 1), layer.weight, padding=1) for j in range(count + 1)]
        for i in range(count + 1):
            expected = y[i] + 2 * torch.sigmoid(y[i]) * sum(y[j] for j in range(count + 1) if j != i)
            torch.testing.assert_close(layer(x)[:, row_of == i], expected[:, row_of == i])


# Merging survivors


def generations(gm: nn.Module) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    return {
        path: (module.in_generations, module.out_generations)
        for path, module in gm.named_modules()
        if isinstance(module, Cross)
    }


def twice(scheme: str, merge: bool, trained: bool) -> tuple[nrfx.Rejuvenation, float]:
    torch.manual_seed(0)
    gm = nrfx.trace(calibrated(vgg_bn()), images())
    budget = nrfx.Budget.relative(gm, params=1.0)
    for event in range(2):
        kill(gm, event)
        seeded = torch.Generator().manual_seed(event)
        result = nrfx.rejuvenate(gm, budget, scheme=scheme, merge=merge, generator=seeded)
        difference = nrfx.verify(gm, result, images())
        assert result.after.params.total <= budget.params
        gm = result.module
        if trained:
            with torch.no_grad():
                for parameter in gm.parameters():
                    parameter.add_(0.05 * torch.randn(parameter.shape, dtype=parameter.dtype, generator=seeded))
    return result, difference


@pytest.mark.parametrize("merge", [1, None, "yes"])
def test_merge_is_true_or_false(merge: object) -> None:
    gm = nrfx.trace(vgg_bn(), images(torch.float32))
    with pytest.raises(nrfx.AnalysisError, match=r"merge is .*; expected True or False"):
        nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), merge=merge)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_network_without_generations_has_nothing_to_merge_and_says_so(scheme: str) -> None:
    gm = nrfx.trace(calibrated(vgg_bn()), images())
    kill(gm, 0)
    budget = nrfx.Budget.relative(gm, params=1.0)
    result = nrfx.rejuvenate(gm, budget, scheme=scheme, merge=True)
    assert result.changed and [note for note in result.notes if "nothing to merge" in note] == [
        "merge=True had nothing to merge: no layer had more than one generation before this rewrite."
    ]
    assert "merge" not in " ".join(nrfx.rejuvenate(gm, budget, scheme=scheme).notes)
    if scheme != "dense":
        kill(result.module, 1)
        again = nrfx.rejuvenate(result.module, budget, scheme=scheme, merge=True)
        assert again.changed and "nothing to merge" not in " ".join(again.notes)


def test_cross_weights_in_use_keep_generations_apart_with_a_note_for_each_layer() -> None:
    result, difference = twice("attention", merge=True, trained=True)
    assert difference < 1e-12
    assert all(len(ins) == 3 for ins, _ in generations(result.module).values())
    notes = [note for note in result.notes if "stay apart" in note]
    assert [note.split(":")[0] for note in notes] == ["4", "8"]
    assert all("cross weights are in use" in note for note in notes)


def test_survivors_without_cross_weights_become_one_generation_and_the_function_stays() -> None:
    apart, _ = twice("attention", merge=False, trained=False)
    result, difference = twice("attention", merge=True, trained=False)
    assert difference < 1e-12 and not [note for note in result.notes if "apart" in note]
    for path, (ins, outs) in generations(result.module).items():
        before = generations(apart.module)[path]
        assert ins == (sum(before[0][:2]), before[0][2]) and outs == (sum(before[1][:2]), before[1][2])


def test_one_cross_weight_is_enough_to_keep_generations_apart() -> None:
    torch.manual_seed(0)
    gm = nrfx.trace(calibrated(vgg_bn()), images())
    budget = nrfx.Budget.relative(gm, params=1.0)
    kill(gm, 0)
    gm = nrfx.rejuvenate(gm, budget, scheme="attention").module
    with torch.no_grad():
        gm.get_parameter("8.weight")[0, -1, 1, 1] = 1e-3
        for norm in norms(gm):
            norm.weight[1] = norm.bias[1] = 0.0
    result = nrfx.rejuvenate(gm, budget, merge=True)
    assert next(note for note in result.notes if "apart" in note).startswith("8: its generations stay apart: 1 of")
    assert {path: len(ins) < 3 for path, (ins, _) in generations(result.module).items()} == {"4": True, "8": False}
    assert nrfx.verify(gm, result, images()) < 1e-12


def test_without_cross_connections_only_the_heads_merge() -> None:
    result, difference = twice("removed", merge=True, trained=True)
    assert difference < 1e-12
    generations_read = {path: len(ins) for path, (ins, _) in generations(result.module).items()}
    assert generations_read == {"4": 3, "8": 3, "13": 2}
    assert sum("its cross weights do not exist" in note for note in result.notes) == 2
    survivors, rejuvenated = nrfx.heads(result.module)(images())
    assert survivors.shape == rejuvenated.shape == (2, 5)


def test_momentum_follows_merged_survivors() -> None:
    nr = set_up("vgg_bn", scheme="removed", merge=True)
    for before, event in events(nr, 3):
        check_migrated(before, nr, event.result)
    assert len(nrfx.heads(nr.module)(images())) == 2
    (weight,) = nr.module.get_submodule("13").weights.values()
    assert bool(nr.optimizer.state[weight]["momentum_buffer"].any())
