import copy
import json
import linecache
import re
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

import nrfx
from nrfx.analysis.liveness import liveness_of
from nrfx.analysis.spaces import channels_of
from nrfx.analysis.why import AxisPart, Why, why
from nrfx.choices import Residual
from nrfx.errors import AnalysisError, UsageError
from nrfx.report import render, why_report
from tests import zoo


def asked(model: nn.Module, layer: str, shape: tuple[int, ...] = zoo.IMAGE, residual: Residual = "live") -> Why:
    return why(nrfx.trace(model, torch.zeros(shape)), layer, residual=residual)


def side(answer: Why, axis: str) -> AxisPart:
    (part,) = [part for part in answer.parts if part.axis == axis]
    return part


def nodes(part: AxisPart) -> list[str]:
    return [link.node for link in part.chain]


class Forked(nn.Module):
    """A layer reads the outputs of two others, concatenated; that of the second is an output of the network too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = zoo.cbr(3, 8), zoo.cbr(3, 6), zoo.cbr(14, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        b = self.b(x)
        return self.c(torch.cat([self.a(x), b], 1)), b


class Twice(nn.Module):
    """One layer applied to its own output, which the network gives back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = zoo.cbr(3, 8), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(self.conv(self.stem(x))))


class Shortcut(nn.Module):
    """A layer whose output meets the network's input."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = zoo.cbr(3, 3), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x) + torch.sigmoid(x))


# What must not happen


@pytest.mark.parametrize("layer", ["layer1.0.con2", "conv9", "nothing like it", "layer1.0.conv2.weigh"])
def test_a_layer_that_does_not_exist_is_refused_by_name(layer: str) -> None:
    with pytest.raises(UsageError, match=f"There is no layer '{layer}'"):
        asked(zoo.resnet(), layer)


def test_names_that_are_close_are_offered_and_the_end_of_a_path_counts_as_close() -> None:
    with pytest.raises(UsageError, match=r"close to it: layer1\.0\.conv2"):
        asked(zoo.resnet(), "layer1.0.con2")
    with pytest.raises(UsageError, match=r"close to it: layer2\.0\.downsample"):
        asked(zoo.resnet(), "downsample")


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(UsageError, match=r"layer is 3; expected the path of a module"):
        asked(zoo.vgg_bn(), 3)  # type: ignore[arg-type]


def test_what_lies_inside_a_layer_that_is_called_as_a_whole_is_asked_for_by_that() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x)[0]

    with pytest.raises(UsageError, match=r"inside attention \(MultiheadAttention\).*ask for that"):
        asked(Attending(), "attention.out_proj", (4, 2, 8))


def test_an_option_out_of_range_is_refused() -> None:
    with pytest.raises(AnalysisError, match="residual is 'loose'"):
        asked(zoo.vgg_bn(), "0", residual="loose")  # type: ignore[arg-type]


def test_a_concatenation_ties_nothing() -> None:
    answer = asked(Forked(), "c.0")
    a, b = [part for part in answer.parts if part.axis == "in"]
    assert (a.state, a.births, a.chain) == ("free", ("a.0",), ())
    assert (b.state, b.reason) == ("pinned", "the network's output")
    assert nodes(b) == ["c_0", "cat", "b_2", "output"]
    assert [link.hop for link in b.chain] == ["start", "back", "back", "onward"]


def test_nothing_is_changed() -> None:
    gm = nrfx.trace(zoo.with_dead(zoo.mobilenet_se()), torch.zeros(zoo.IMAGE))
    state, code = copy.deepcopy(gm.state_dict()), gm.code
    why(gm)
    assert gm.code == code
    assert all(torch.equal(value, state[name]) for name, value in gm.state_dict().items())


# The smallest examples


def test_the_last_layer_is_pinned_by_the_output() -> None:
    part = side(asked(zoo.vgg_bn(), "13"), "out")
    assert (part.state, part.reason, part.width) == ("pinned", "the network's output", 5)
    assert nodes(part) == ["_13", "output"]
    assert [(link.op, link.called) for link in part.chain] == [("Linear", True), ("output", False)]


def test_the_first_layer_reads_the_input_which_may_not_change() -> None:
    part = side(asked(zoo.vgg_bn(), "0"), "in")
    assert (part.state, part.width, part.reason) == ("fixed", 3, "the network's input")
    assert [(link.node, link.op, link.hop) for link in part.chain] == [
        ("_0", "Conv2d", "start"),
        ("input_1", "input", "back"),
    ]


def test_a_layer_on_a_stream_is_led_to_the_addition_with_the_line_of_code() -> None:
    part = side(asked(zoo.resnet(), "layer1.0.conv2"), "out")
    assert part.state == "stream" and 'residual="live"' in part.reason
    assert part.births == ("conv1", "layer1.0.conv2")
    assert nodes(part) == ["layer1_0_conv2", "layer1_0_bn2", "iadd"]
    assert part.chain[-1].file == zoo.__file__ and part.chain[-1].module == "layer1.0"
    assert linecache.getline(zoo.__file__, part.chain[-1].line or 0).strip() == "y += identity"


def test_a_coupled_stream_is_free() -> None:
    assert side(asked(zoo.resnet(), "layer1.0.conv2", residual="coupled"), "out").state == "free"


def test_a_chain_leads_through_shared_weights() -> None:
    part = side(asked(Twice(), "stem.0"), "out")
    assert (part.state, part.reason, part.births) == ("pinned", "the network's output", ("stem.0", "conv"))
    assert nodes(part)[0] == "stem_0" and nodes(part)[-2:] == ["conv_1", "output"]


def test_a_chain_goes_on_to_what_the_channels_meet() -> None:
    part = side(asked(Shortcut(), "body.0"), "out")
    assert part.reason == "meets the network's input"
    assert nodes(part) == ["body_0", "body_1", "body_2", "add", "sigmoid", "x"]
    assert [link.hop for link in part.chain][-3:] == ["onward", "back", "back"]


class Meeting(nn.Module):
    """A layer whose output is added to what an op makes of it."""

    def __init__(self, op: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head, self.op = zoo.cbr(3, 8), nn.Conv2d(8, 8, 1), op

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.head(y + self.op(y, self.head.weight))


COMPUTED = "a result that is not understood (its weight or bias is computed by the network, and is no parameter)"


@pytest.mark.parametrize(("op", "met"), [
    (
        lambda y, _: torch.special.bessel_j0(y),
        "a result that is not understood (nrfx has no rule for special_bessel_j0)",
    ),
    (lambda y, _: y[:, torch.arange(8)], "a result that is not understood (a tensor indexes its channels)"),
    (lambda y, w: F.conv2d(y, 2 * w), COMPUTED),
    (lambda y, _: torch.mean(y, 1, keepdim=True).expand(-1, 8, -1, -1), "a summary over channels"),
])  # fmt: skip
def test_what_channels_meet_is_told_in_a_sentence(op: Callable[[Tensor, Tensor], Tensor], met: str) -> None:
    part = side(asked(Meeting(op), "head"), "in")
    reasons = {part.reason, *(text.partition(": ")[2] for text in part.also)}
    assert {reason for reason in reasons if reason.startswith("meets")} == {f"meets {met}"}


def test_channels_without_a_gamma_and_with_a_frozen_parameter_say_so() -> None:
    model = zoo.mobilenet_se()
    assert side(asked(model, "1.4.gate.1"), "out").state == "gammaless"
    model = zoo.vgg_bn()
    model[4].weight.requires_grad_(False)
    assert side(asked(model, "4"), "out").reason.startswith("4.weight is frozen")


def test_held_channels_are_led_to_the_gate_and_to_the_padded_convolution() -> None:
    answer = asked(zoo.with_dead(zoo.mobilenet_se()), "1.0.0")
    holds = {hold.reason: hold for hold in side(answer, "out").held}
    (padded,) = [hold for reason, hold in holds.items() if "padded convolution" in reason]
    (gated,) = [hold for reason, hold in holds.items() if "combines its constant" in reason]
    assert [link.op for link in padded.chain] == ["Conv2d", "BatchNorm2d", "Hardswish", "Conv2d"]
    assert gated.chain[-1].op == "mul" and gated.chain[-1].module == "1.4"
    gm = nrfx.trace(zoo.with_dead(zoo.mobilenet_se()), torch.zeros(zoo.IMAGE))
    held = [
        entry.channels
        for entry in liveness_of(gm, channels_of(gm)).held
        if entry.gamma in ("1.0.1.weight", "1.2.weight")
    ]
    assert padded.channels + gated.channels == torch.cat(held).unique().numel() == side(answer, "out").live - 6


def test_of_a_group_the_dead_gammas_are_held_by_those_that_are_alive_and_not_the_others_are() -> None:
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.GroupNorm(3, 12), nn.ReLU(), nn.Conv2d(12, 4, 1))
    with torch.no_grad():
        model[1].weight[[0, 1, 2, 5, 8, 9, 10, 11]] = 0  # of the groups 3, 1 and 4
    out = side(asked(model, "0"), "out")
    (hold,) = out.held
    assert (out.width, out.live) == (12, 8)
    assert (hold.channels, hold.reason) == (4, "others in its group are alive, and a group goes only as a whole")
    assert [link.op for link in hold.chain] == ["Conv2d", "GroupNorm"]
    assert side(asked(model, "3"), "in").held[0].channels == 4
    u = nrfx.utilization(nrfx.trace(model, torch.zeros(zoo.IMAGE)))
    assert u.held == ((hold.reason, 4),)
    assert {row.name: row.held for row in u.rows} == {"0": 4, "1": 4, "3": 0}


def test_a_flattened_channel_with_one_of_two_gammas_dead_is_held_once_where_it_is_born() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.BatchNorm1d(12))
    model.append(nn.Linear(12, 4))
    with torch.no_grad():
        model[3].weight[[0, 2, 3, 5]] = 0  # of channel 0, both of channel 1, of channel 2
    assert [hold.channels for hold in side(asked(model, "0"), "out").held] == [2]
    assert [hold.channels for hold in side(asked(model, "4"), "in").held] == [2]


def test_what_is_dead_and_may_go_is_not_live() -> None:
    part = side(asked(zoo.with_dead(zoo.vgg_bn()), "0"), "out")
    assert (part.width, part.live, part.held) == (8, 5, ())


def test_a_module_that_no_graph_reads_is_told() -> None:
    model = zoo.aux_net()
    model.spare = nn.Conv2d(3, 3, 1)
    answer = asked(model, "spare")
    assert answer.parts == () and "No graph reads it" in answer.note


def test_an_activation_is_told_what_it_passes_on() -> None:
    part = side(asked(zoo.vgg_bn(), "2"), "both")
    assert (part.width, part.births) == (8, ("0",))


def test_a_container_has_an_answer_for_each_layer_in_it() -> None:
    answer = asked(zoo.resnet(), "layer2")
    names = [layer.layer for layer in answer.layers]
    assert names[:2] == ["layer2.0.downsample.0", "layer2.0.downsample.1"] and len(names) == 10
    assert all(name.startswith("layer2.") for name in names)
    assert answer.layers[0] == asked(zoo.resnet(), "layer2.0.downsample.0")


def test_without_a_layer_the_whole_network_is_told() -> None:
    gm = nrfx.trace(zoo.vgg_bn(), torch.zeros(zoo.IMAGE))
    assert [layer.layer for layer in why(gm).layers] == ["0", "1", "4", "5", "8", "9", "13"]


# The laws


def every(answer: Why) -> list[AxisPart]:
    return [part for layer in answer.layers for part in layer.parts]


@pytest.mark.parametrize("name", zoo.SMALL)
def test_every_chain_starts_at_its_layer_and_each_link_touches_the_one_before(name: str) -> None:
    gm = nrfx.trace(zoo.with_dead(zoo.SMALL[name]()), torch.zeros(zoo.IMAGE))
    edges = {(a.name, b.name) for graph in gm.graphs.values() for b in graph.nodes for a in b.all_input_nodes}
    targets = {node.name: str(node.target) for graph in gm.graphs.values() for node in graph.nodes}
    for layer in why(gm).layers:
        for chain in [way for part in layer.parts for way in (part.chain, *(hold.chain for hold in part.held)) if way]:
            assert targets[chain[0].node] == layer.layer and chain[0].hop == "start"
            for before, link in pairwise(chain):
                ends = (before.node, link.node) if link.hop == "onward" else (link.node, before.node)
                assert ends in edges if link.hop != "shared" else targets[before.node] == targets[link.node]


@pytest.mark.parametrize("name", zoo.SMALL)
def test_states_are_those_of_the_analysis_and_every_pin_has_a_way_to_it(name: str) -> None:
    gm = nrfx.trace(zoo.with_dead(zoo.SMALL[name]()), torch.zeros(zoo.IMAGE))
    spaces = {space.name: space for space in channels_of(gm).spaces}
    for part in every(why(gm)):
        if part.space:
            space = spaces[part.space]
            assert (part.state == "pinned") == (space.pinned is not None)
            assert part.births == tuple(space.births)
            assert part.chain or part.state != "pinned"


@pytest.mark.parametrize("name", zoo.SMALL)
def test_live_and_held_channels_agree_with_the_utilization(name: str) -> None:
    gm = nrfx.trace(zoo.with_dead(zoo.SMALL[name]()), torch.zeros(zoo.IMAGE))
    rows = {row.name: row for row in nrfx.utilization(gm).rows}
    for layer in why(gm).layers:
        row = rows[layer.layer]
        out = [part for part in layer.parts if part.axis in ("out", "both")]
        assert (sum(part.live for part in out), sum(part.width for part in out)) == (row.out_live, row.out)


# How it looks


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("layer", ["", "layer1.0", "layer2.0.conv2", "fc"])
def test_no_line_exceeds_its_width(layer: str, width: int) -> None:
    text = render(why_report(asked(zoo.with_dead(zoo.resnet()), layer), "resnet"), width)
    assert max(map(len, text.splitlines())) <= width


def test_file_and_line_are_there_at_80_columns_and_the_code_at_160() -> None:
    gm = nrfx.trace(resnet18(), torch.zeros(1, 3, 32, 32))
    report = why_report(why(gm, "layer4.0.downsample.0"))
    for width in (80, 160):
        text = render(report, width)
        assert "→  iadd_6" in text and "resnet.py:102" in text
        assert ("out += identity" in text) == (width == 160)


def test_a_long_chain_is_cut_in_the_middle_and_whole_in_json() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *[nn.ReLU() for _ in range(40)])
    answer = asked(model, "0")
    assert len(json.loads(answer.to_json())["parts"][0]["chain"]) == 42
    text = render(why_report(answer), 80)
    assert re.search(r"\.\.\. +18 more", text) and len(text.splitlines()) < 40


def test_printing_renders_it() -> None:
    assert str(asked(zoo.vgg_bn(), "0")).startswith("0  Conv2d")


class Bag(nn.Module):
    """Attention over a bag: one logit for each instance weighs all of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.logit, self.head = nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x.flatten(0, 1)).view(x.shape[0], x.shape[1], -1)
        shares = self.logit(features.tanh()).mT.softmax(-1)
        return self.head(torch.bmm(shares, features).squeeze(1))


class Eca(nn.Module):
    """A convolution along the channels gates them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.along, self.head = nn.Conv1d(1, 1, 3, padding=1, bias=False), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return self.head(y * self.along(y.mean((2, 3))[:, None]).sigmoid()[:, 0, :, None, None])


@pytest.mark.parametrize(("model", "shape", "by"), [(Bag, (2, 5, 6), "bmm"), (Eca, (2, 3, 4, 4), "along")])
def test_channels_that_live_and_die_together_are_told_with_what_ties_them(
    model: type[nn.Module], shape: tuple[int, ...], by: str
) -> None:
    network = model().eval()
    with torch.no_grad():
        network.features[1].weight[:4] = 0
        network.features[1].bias.normal_()
    gm = nrfx.trace(network, torch.zeros(shape))
    part = next(part for part in nrfx.why(gm, "features.0").parts if part.axis == "out")
    assert part.together == (f"8 of features.0 live and die together, tied by {by}",)
    assert f"tied by {by}" in str(nrfx.why(gm, "features.0"))
    assert not any("padding" in hold.reason for hold in part.held)


def test_channels_that_go_alone_are_not_said_to_be_tied() -> None:
    assert side(asked(zoo.vgg_bn(), "4"), "out").together == ()


class Scaled(nn.Module):
    """Two parameters that the forward computes with itself, one of them of a module that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 1), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.block = nn.Module()
        self.block.gamma = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.conv(x) * self.scale).mean((2, 3)) * self.block.gamma)


@pytest.mark.parametrize("name", ["scale", "block.gamma"])
def test_a_parameter_that_the_forward_computes_with_is_explained_by_its_name(name: str) -> None:
    answer = why(nrfx.trace(Scaled(), torch.zeros(1, 3, 4, 4)), name)
    (part,) = answer.parts
    assert (answer.op, part.axis, part.width) == ("Parameter", "out", 8)
    assert set(part.births) == {"conv", "scale", "block.gamma"}


def test_a_module_whose_parameter_is_read_is_not_said_to_be_left_alone() -> None:
    gm = nrfx.trace(Scaled(), torch.zeros(1, 3, 4, 4))
    answer = why(gm, "block")
    assert answer.note == "" and [each.layer for each in answer.layers] == ["block.gamma"]
    assert [each.layer for each in why(gm).layers] == ["conv", "scale", "block.gamma", "fc"]


def test_the_tensor_of_a_layer_leads_to_the_layer() -> None:
    with pytest.raises(UsageError, match=r"^conv\.weight is a tensor of the layer conv: ask for that\.$"):
        why(nrfx.trace(Scaled(), torch.zeros(1, 3, 4, 4)), "conv.weight")
