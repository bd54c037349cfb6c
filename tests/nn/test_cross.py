"""nrfx.nn.cross against the paper's equations, written out below for one block at a time."""

import copy
import itertools
import json
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nrfx.errors import RewriteError
from nrfx.nn import Cross, CrossConv1d, CrossConv2d, CrossConv3d, CrossLinear

RUNS = ((0, 2), (1, 1), (0, 1), (1, 2))
EXACT = {"rtol": 0, "atol": 1e-12}  # float64 sums of at most a hundred numbers near 1


def channels_of(generation: int, runs: tuple[tuple[int, int], ...]) -> list[int]:
    generations = [g for g, width in runs for _ in range(width)]
    return [channel for channel, g in enumerate(generations) if g == generation]


def contiguous(generations: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(enumerate(generations))


def by_equations(layer: CrossConv2d, x: Tensor, weight: Tensor, runs: tuple[tuple[int, int], ...]) -> Tensor:
    """Eqs. 9 and 10, one convolution per block of the dense weight."""
    rows = []
    for i, out in enumerate(layer.out_generations):
        mine = channels_of(i, contiguous(layer.out_generations))
        blocks = {
            j: F.conv2d(
                x[:, channels_of(j, runs)],
                weight[mine][:, channels_of(j, runs)],
                None,
                layer.stride,
                layer.padding,
                layer.dilation,
            )
            for j in range(len(layer.in_generations))
            if channels_of(j, runs) and out
        }
        if out and i not in blocks:
            rows.append(sum(blocks.values()))
        elif out:
            other = sum((block for j, block in blocks.items() if j != i), torch.zeros(()))
            rows.append(blocks[i] + 2 * blocks[i].sigmoid() * other)
    out_all = torch.cat(rows, 1)
    return out_all if layer.bias is None else out_all + layer.bias[:, None, None]


def flops(layer: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        layer(x)
    return counter.get_total_flops() // 2


def weights_of(layer: Cross) -> list[Tensor]:
    return [p for name, p in layer.named_parameters() if name != "bias"]


# What must not happen


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"in_generations": (4,), "out_generations": (2, 2)},
            "1 entries .* 2: pad the shorter one with zeros",
        ),
        ({"in_generations": (4, -1)}, r"in_generations=\(4, -1\)"),
        ({"in_generations": (0, 0)}, "not all 0"),
        ({"scheme": "dense"}, "scheme='dense'"),
        (
            {"in_runs": ((0, 3), (1, 2))},
            r"holds \(3, 2\) channels per generation, but in_generations is \(3, 3\)",
        ),
        ({"in_runs": ((0, 3), (1, 3), (2, 1))}, "every input channel must lie in exactly one run"),
        ({"in_runs": ((0, 3, 1),)}, "a run is a pair"),
        ({"present": ((0,), (1,))}, 'present is for scheme="removed"'),
        ({"scheme": "removed", "present": ((0,), (2,))}, "between 0 and 1"),
        ({"scheme": "removed", "present": ((), ())}, "leave no block at all"),
        ({"stride": (1, 2, 3)}, r"CrossConv2d got stride=\(1, 2, 3\)"),
        ({"kernel_size": 0}, "kernel_size=0"),
        ({"padding": "same", "stride": 2}, "padding='same' with stride"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(arguments: dict[str, object], words: str) -> None:
    fitting = {"in_generations": (3, 3), "out_generations": (2, 2), "kernel_size": 3}
    with pytest.raises(RewriteError, match=words):
        CrossConv2d(**{**fitting, **arguments})


@pytest.mark.parametrize(
    ("conv", "words"),
    [
        (nn.Conv2d(6, 4, 3, groups=2), "groups=2"),
        (nn.Conv2d(6, 4, 3, padding_mode="reflect"), "padding_mode='reflect'"),
        (nn.Conv1d(6, 4, 3), "not from a Conv1d"),
        (nn.ConvTranspose2d(6, 4, 3), "not from a ConvTranspose2d"),
        (nn.Conv2d(7, 4, 3), "maps 7 channels to 4, but the generations .* map 6 to 4"),
    ],
)
def test_a_dense_layer_without_a_cross_form_is_refused(conv: nn.Module, words: str) -> None:
    with pytest.raises(RewriteError, match=words):
        CrossConv2d.from_dense(conv, (3, 3), (2, 2))


def test_no_parameter_is_empty_and_no_module_lists_what_it_does_not_have() -> None:
    layer = CrossConv2d((3, 0), (2, 2), 3, scheme="removed", bias=False)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {"weights.0": (2, 3, 3, 3)}


# The equations


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("window", [(1, 0, 1), (2, 1, 1), ((1, 2), (2, 0), 2), (1, "same", 1)])
@pytest.mark.parametrize(
    ("ins", "outs", "runs"),
    [
        ((3, 2), (4, 1), None),
        ((3, 3), (2, 3), RUNS),
        ((2, 1, 3), (1, 2, 2), None),
        ((2, 1, 3), (1, 2, 2), ((2, 1), (0, 2), (1, 1), (2, 2))),
        ((4, 0), (2, 3), None),
        ((0, 4), (2, 3), None),
        ((3, 2), (4, 0), None),
        ((2, 0, 3), (0, 2, 2), None),
        ((3,), (2,), None),
    ],
)
def test_attention_is_equations_9_and_10(ins, outs, runs, window, bias) -> None:
    layer = CrossConv2d(ins, outs, 3, *window, bias, in_runs=runs, dtype=torch.float64)
    if bias:
        nn.init.normal_(layer.bias)
    x = torch.randn(2, sum(ins), 9, 8, dtype=torch.float64)
    expected = by_equations(layer, x, layer.weight, runs or contiguous(ins))
    torch.testing.assert_close(layer(x), expected, **EXACT)


def test_survivors_compute_what_they_computed_while_cross_weights_are_zero() -> None:
    dense = nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64)
    layer = CrossConv2d((3, 2), (4, 3), 3, padding=1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight[:4, :3], layer.weight[:4, 3:], layer.bias[:4] = dense.weight, 0, dense.bias
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[:, :4], dense(x[:, :3]), **EXACT)


PRESENT = [None, ((0,), (0, 1)), ((0, 1), (1,)), ((0, 1), (0, 1)), ((1,), (0,)), ((0,), ())]


@pytest.mark.parametrize("present", PRESENT)
@pytest.mark.parametrize("runs", [None, RUNS])
def test_removed_is_the_dense_convolution_with_its_absent_blocks_at_zero(present, runs) -> None:
    dense = nn.Conv2d(6, 5, 3, stride=2, padding=1, dtype=torch.float64)
    layer = CrossConv2d.from_dense(dense, (3, 3), (3, 2), scheme="removed", in_runs=runs, present=present)
    zeroed = copy.deepcopy(dense)
    order = runs or contiguous((3, 3))
    for i, j in itertools.product(range(2), range(2)):
        if j not in (present or ((0,), (1,)))[i]:
            for row in channels_of(i, contiguous((3, 2))):
                zeroed.weight.data[row, channels_of(j, order)] = 0
    x = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), zeroed(x), **EXACT)
    assert torch.equal(layer.dense_weight(), zeroed.weight)


@pytest.mark.parametrize("scheme", ["attention", "removed"])
def test_every_dimension_has_the_same_formulation(scheme: str) -> None:
    """A kernel of one: 1d, 2d, 3d and linear are one map, applied at each position."""
    layers = [
        cls((3, 2), (2, 3), 1, scheme=scheme, dtype=torch.float64) for cls in (CrossConv1d, CrossConv2d, CrossConv3d)
    ]
    linear = CrossLinear((3, 2), (2, 3), scheme=scheme, dtype=torch.float64)
    x = torch.randn(4, 7, 5, dtype=torch.float64)
    for spatial, layer in enumerate(layers, start=1):
        for mine, theirs in zip(layer.parameters(), linear.parameters(), strict=True):
            mine.data = theirs.data.reshape(mine.shape)
        points = x.movedim(-1, 1).reshape(4, 5, 7, *[1] * (spatial - 1))
        torch.testing.assert_close(layer(points).reshape(4, 5, 7).movedim(1, -1), linear(x), **EXACT)


# Cost


@pytest.mark.parametrize(
    ("layer", "dense", "shape"),
    [
        (CrossConv2d((6, 4), (5, 3), 3, 2, 1), nn.Conv2d(10, 8, 3, 2, 1), (2, 10, 9, 9)),
        (CrossConv2d((3, 3), (5, 3), 3, in_runs=RUNS), nn.Conv2d(6, 8, 3), (1, 6, 9, 9)),
        (CrossConv2d((4, 2, 4), (3, 0, 5), 1), nn.Conv2d(10, 8, 1), (2, 10, 5, 5)),
        (CrossConv1d((6, 4), (5, 3), 3), nn.Conv1d(10, 8, 3), (2, 10, 9)),
        (CrossConv3d((6, 4), (5, 3), 3), nn.Conv3d(10, 8, 3), (2, 10, 5, 5, 5)),
        (CrossLinear((6, 4), (5, 3)), nn.Linear(10, 8), (2, 7, 10)),
    ],
)
def test_attention_costs_exactly_what_the_dense_layer_costs(layer, dense, shape) -> None:
    x = torch.randn(shape)
    assert flops(layer, x) == flops(dense, x)
    assert [tuple(p.shape) for p in layer.parameters()] == [tuple(p.shape) for p in dense.parameters()]


@pytest.mark.parametrize("runs", [None, RUNS])
def test_absent_blocks_cost_neither_parameters_nor_flops(runs) -> None:
    layer = CrossConv2d((3, 3), (3, 2), 3, bias=False, scheme="removed", in_runs=runs, present=((0,), (0, 1)))
    assert sum(p.numel() for p in layer.parameters()) == 9 * (3 * 3 + 2 * 6)
    assert flops(layer, torch.randn(1, 6, 5, 5)) == 9 * 9 * (3 * 3 + 2 * 6)


# From and to dense layers, files and other programs


@pytest.mark.parametrize("runs", [None, RUNS])
def test_from_dense_and_dense_weight_are_inverse(runs) -> None:
    dense = nn.Conv2d(6, 5, 3, padding="same", dilation=2, dtype=torch.float64).requires_grad_(False).eval()
    layer = CrossConv2d.from_dense(dense, (3, 3), (3, 2), in_runs=runs)
    everything = CrossConv2d.from_dense(dense, (3, 3), (3, 2), scheme="removed", in_runs=runs, present=((0, 1), (0, 1)))
    for cross in (layer, everything):
        assert torch.equal(cross.dense_weight(), dense.weight)
        assert torch.equal(cross.bias, dense.bias)
        assert not cross.training
        assert not any(p.requires_grad for p in cross.parameters())
        assert {p.data_ptr() for p in cross.parameters()}.isdisjoint({p.data_ptr() for p in dense.parameters()})
    x = torch.randn(1, 6, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(everything(x), dense(x), **EXACT)


def test_a_linear_layer_becomes_a_cross_layer() -> None:
    dense = nn.Linear(6, 5, bias=False)
    layer = CrossLinear.from_dense(dense, (3, 3), (3, 2))
    assert torch.equal(layer.dense_weight(), dense.weight)
    assert layer.bias is None
    with pytest.raises(RewriteError, match=r"nn\.Linear, not from a Conv1d"):
        CrossLinear.from_dense(nn.Conv1d(6, 5, 1), (3, 3), (3, 2))


def test_making_a_layer_from_a_dense_one_draws_no_random_numbers() -> None:
    dense = nn.Conv2d(6, 5, 3)
    before = torch.get_rng_state()
    CrossConv2d.from_dense(dense, (3, 3), (3, 2), scheme="removed")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("scheme", ["attention", "removed"])
def test_dense_weight_is_differentiable(scheme: str) -> None:
    layer = CrossConv2d((3, 3), (3, 2), 3, scheme=scheme, in_runs=RUNS)
    layer.dense_weight().sum().backward()
    assert all(torch.equal(w.grad, torch.ones_like(w)) for w in weights_of(layer))


LAYERS = [
    CrossConv2d((3, 3), (3, 2), 3, (2, 1), 1, bias=False, in_runs=RUNS),
    CrossConv2d((3, 3), (3, 2), (3, 1), padding="same", scheme="removed", present=((0,), (0, 1))),
    CrossConv1d((3, 0, 2), (3, 2, 0), 3, dilation=2),
    CrossConv3d((3, 2), (3, 2), 1, scheme="removed"),
    CrossLinear((3, 3), (3, 2), scheme="removed", in_runs=RUNS),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_the_config_rebuilds_the_layer_that_the_state_dict_fills(layer: Cross) -> None:
    config = json.loads(json.dumps(layer.config()))
    rebuilt = Cross.from_config(config)
    assert repr(rebuilt) == repr(layer)
    assert rebuilt.config() == layer.config() == type(layer).from_config(config).config()
    rebuilt.load_state_dict(layer.state_dict())
    assert torch.equal(rebuilt.dense_weight(), layer.dense_weight())


def test_a_config_that_does_not_fit_is_refused() -> None:
    config = CrossLinear((3, 3), (3, 2)).config()
    with pytest.raises(RewriteError, match=r"type 'CrossLinear', expected one of .*CrossConv2d"):
        CrossConv2d.from_config(config)
    with pytest.raises(RewriteError, match="'colour'"):
        Cross.from_config({**config, "colour": 3})


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_copies_and_pickles_compute_the_same(layer: Cross) -> None:
    shape = (2, sum(layer.in_generations), 9, 9, 9)[: 1 - layer.channel_dim]
    x = torch.randn(shape if len(shape) > 2 else (2, 4, sum(layer.in_generations)))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))


def test_repr_says_the_generations_and_the_scheme() -> None:
    assert repr(CrossConv2d((40, 24), (48, 30), 3, padding=1, bias=False)) == (
        "CrossConv2d((40, 24) -> (48, 30), kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), "
        "scheme='attention', bias=False)"
    )
    assert "present=((0,), (0, 1))" in repr(LAYERS[1])


def test_convolutions_have_the_attributes_of_nn_conv() -> None:
    layer, dense = CrossConv2d((3, 3), (3, 2), 3, 2, 1), nn.Conv2d(6, 5, 3, 2, 1)
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(layer, name) == getattr(dense, name), name
    assert layer.padding_mode == dense.padding_mode


# Where it has to run

BOTH = [{"scheme": "attention"}, {"scheme": "removed"}, {"scheme": "removed", "present": ((), (0, 1))}]


@pytest.mark.parametrize("options", BOTH)
@pytest.mark.parametrize("shape", [(1, 6, 4, 5), (6, 4, 5)])
def test_gradients_are_those_of_finite_differences(options, shape) -> None:
    layer = CrossConv2d((3, 3), (2, 2), 3, 2, 1, in_runs=RUNS, dtype=torch.float64, **options)
    names, values = zip(*layer.named_parameters(), strict=True)

    def output(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    assert torch.autograd.gradcheck(output, (torch.randn(shape, dtype=torch.float64, requires_grad=True), *values))


@pytest.mark.parametrize("options", BOTH)
def test_export_and_whole_graph_compilation_agree_with_eager(options) -> None:
    layer = CrossConv2d((3, 3), (3, 2), 3, padding=1, in_runs=RUNS, **options)
    x = torch.randn(2, 6, 5, 5)
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},)).module()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    for n in (2, 3):
        x = torch.randn(n, 6, 5, 5)
        torch.testing.assert_close(exported(x), layer(x))


@pytest.mark.parametrize("options", BOTH)
def test_autocast_returns_the_lower_precision(options) -> None:
    layer = CrossConv2d((3, 3), (3, 2), 3, **options)
    x = torch.randn(2, 6, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), layer(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("options", BOTH)
@pytest.mark.parametrize("runs", [None, RUNS])
def test_channels_last_stays_channels_last(options, runs) -> None:
    layer = CrossConv2d((3, 3), (3, 2), 3, in_runs=runs, **options)
    x = torch.randn(2, 6, 5, 5)
    expected = layer(x)
    out = layer.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected)


def test_one_step_of_an_optimizer_with_weight_decay_moves_every_parameter() -> None:
    layer = CrossConv2d((3, 3), (3, 2), 3, scheme="removed")
    before = [p.detach().clone() for p in layer.parameters()]
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.1)
    layer(torch.randn(2, 6, 5, 5)).square().sum().backward()
    nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


def test_new_weights_are_normal_by_fan_out() -> None:
    layer = CrossConv2d((40, 24), (48, 30), 3)
    assert layer.weight.std().item() == pytest.approx((2 / (9 * 78)) ** 0.5, rel=0.02)
    assert not layer.bias.any()
