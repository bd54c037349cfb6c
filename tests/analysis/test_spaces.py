import pytest
import torch
from torch import nn

import nrfx
from nrfx.analysis.spaces import channels_of
from tests.zoo import IMAGE, SMALL


def analysed(model: nn.Module, shape=(2, 3, 8, 8)):
    return channels_of(nrfx.trace(model.eval(), torch.zeros(shape)))


def space_of(channels, birth: str):
    return next(space for space in channels.spaces if birth in space.births)


def unit(i: int, o: int, **options) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, **options), nn.BatchNorm2d(o), nn.ReLU())


class Custom(nn.Module):
    """`function(self, x)` between a convolution with a batch norm and a 1x1 convolution."""

    def __init__(self, function, out: int = 12, head: int = 12) -> None:
        super().__init__()
        self.body, self.head, self.other = unit(3, out), nn.Conv2d(head, 2, 1), unit(3, 1)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.function(self, self.body(x), x))


def test_an_op_without_a_rule_pins_what_it_touches_and_names_itself() -> None:
    channels = analysed(Custom(lambda self, x, _: torch.logcumsumexp(x, 1)))
    assert "logcumsumexp" in space_of(channels, "body.0").pinned
    assert space_of(channels, "body.0").pinned_by == "logcumsumexp"


def test_what_normalises_over_channels_is_pinned() -> None:
    for norm in (nn.GroupNorm(1, 8), nn.LayerNorm([8, 4, 4]), nn.LocalResponseNorm(3), nn.Softmax(1), nn.Softmax2d()):
        model = nn.Sequential(unit(3, 8), nn.AdaptiveAvgPool2d(4), norm, nn.Conv2d(8, 2, 1))
        space = space_of(analysed(model), "0.0")
        assert "2 normalises over" in space.pinned or "2 divides each channel by its neighbours" in space.pinned
        assert space.pinned_by == "_2"


def test_the_groups_of_a_group_norm_are_units() -> None:
    model = nn.Sequential(unit(3, 8), nn.GroupNorm(4, 8), nn.Conv2d(8, 2, 1))
    space = space_of(analysed(model), "0.0")
    assert space.free and space.width == 4 and space.births == {"0.0": 2}


def test_the_heads_of_an_attention_are_units() -> None:
    channels = analysed(Custom(attended, out=12))
    space = space_of(channels, "body.0")
    assert space.free and space.width == 2 and space.births == {"body.0": 6}


def attended(self: nn.Module, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Two heads of six channels, which are queries, keys and values in one."""
    heads = x.flatten(2).view(x.shape[0], 2, 6, -1).transpose(2, 3)
    weights = torch.softmax(heads @ heads.transpose(2, 3), -1)
    return (weights @ heads).transpose(2, 3).reshape(x.shape)


def test_a_bare_parameter_follows_the_channels_that_it_meets_along_any_axis() -> None:
    for shape in ((1, 12, 1, 1), (12, 1, 1), (1, 12, 7, 7)):
        model = Custom(lambda self, x, _: torch.nn.functional.adaptive_avg_pool2d(x, 7) * self.scale)
        model.scale = nn.Parameter(torch.ones(shape))
        channels = analysed(model)
        space = space_of(channels, "body.0")
        assert space.free and space.births == {"body.0": 1, "scale": 1} and channels.axes["scale"] == shape.index(12)
    model = Custom(lambda self, x, _: x * self.scale.permute(2, 0, 1))
    model.scale = nn.Parameter(torch.ones(3, 3, 12)[:1, :1])
    assert space_of(analysed(model), "body.0").births == {"body.0": 1, "scale": 1}


def test_the_input_is_fixed_and_what_meets_it_is_pinned() -> None:
    channels = analysed(Custom(lambda self, x, image: x * image.mean([2, 3], keepdim=True).repeat(1, 4, 1, 1)))
    assert "input" in space_of(channels, "body.0").pinned


def test_a_spatial_gate_is_not_tied_to_the_channels_that_it_meets() -> None:
    channels = analysed(Custom(lambda self, x, image: x * self.other(image)))
    assert space_of(channels, "body.0").free and space_of(channels, "body.0").width == 12
    assert "broadcast" in space_of(channels, "other.0").pinned


def test_what_is_broadcast_over_sources_is_tied_to_the_channels_that_it_meets_one_by_one() -> None:
    model = Custom(lambda self, x, image: (x.unflatten(1, (3, 4)) * self.vector).flatten(1, 2))
    model.vector = nn.Parameter(torch.ones(4, 1, 1))
    space = space_of(analysed(model), "body.0")
    assert space.births == {"body.0": 3, "vector": 1} and space.width == 4 and space.free
    made = Custom(lambda self, x, image: (x.unflatten(1, (3, 4)) * torch.ones(4, 1, 1)).flatten(1, 2))
    sources = space_of(analysed(made), "body.0")  # four fixed numbers for each source: a source is the unit
    assert sources.births == {"body.0": 4} and sources.width == 3 and sources.free


def test_a_hook_may_do_anything_so_its_module_is_not_understood() -> None:
    model = nn.Sequential(unit(3, 8), nn.Conv2d(8, 2, 1))
    model[0][2].register_forward_hook(lambda module, args, out: out.flip(1))
    assert "hooks" in space_of(analysed(model), "0.0").pinned


def test_the_two_sides_of_an_addition_are_one_space_and_a_stream() -> None:
    channels = analysed(SMALL["resnet"](), IMAGE)
    streams = [space for space in channels.spaces if space.stream]
    assert any(len(space.births) > 1 for space in streams)
    assert channels.spaces[0].stream  # the stem, which enters a block with a projection shortcut


def test_networks_without_additions_have_no_streams() -> None:
    for name in ("vgg_bn", "densenet_preact", "inception"):
        assert not any(space.stream for space in analysed(SMALL[name](), IMAGE).spaces)


def test_a_gate_ties_the_channels_that_it_scales_without_making_a_stream() -> None:
    channels = analysed(SMALL["mobilenet_se"](), IMAGE)
    gated = [space for space in channels.spaces if len(space.births) == 2 and not space.stream]
    assert gated and all(space.free for space in gated)


def test_the_unit_of_a_grouped_convolution_is_the_group() -> None:
    channels = analysed(nn.Sequential(unit(3, 12), unit(12, 24, groups=3), nn.Conv2d(24, 2, 1)))
    space = space_of(channels, "1.0")
    assert space.width == 3 and dict(space.births) == {"0.0": 4, "1.0": 8}


def test_a_module_that_is_called_twice_gives_the_same_channels_both_times() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.head = unit(3, 6), unit(6, 6), nn.Conv2d(6, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(self.body(self.stem(x))))

    channels = analysed(Twice())
    assert dict(space_of(channels, "body.0").births) == {"stem.0": 1, "body.0": 1}


@pytest.mark.parametrize(
    "move",
    [
        lambda self, x, _: x.flip(1),
        lambda self, x, _: x.roll(3, 1),
        lambda self, x, _: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
        lambda self, x, _: torch.cat(x.chunk(3, 1)[::-1], 1),
        lambda self, x, _: x.view(x.size(0), 3, 4, 8, 8).transpose(1, 2).reshape(x.size(0), 12, 8, 8),
    ],
    ids=["flip", "roll", "permute", "chunk", "shuffle"],
)
def test_movement_keeps_track_of_every_channel(move) -> None:
    """The labels that the head reads are those of the channels that really reach it."""
    model = Custom(move).eval()
    channels = analysed(model)
    (reading,) = [step.effect.reading for step in channels.steps if step.path == "head"]
    marks = torch.arange(12.0).view(1, 12, 1, 1).expand(1, 12, 8, 8)
    arrived = move(model, marks, None)[0, :, 0, 0].long()
    assert torch.equal(reading.cols, channels.births["body.0"][arrived])


def test_the_two_graphs_of_a_network_with_auxiliary_heads_share_their_channels() -> None:
    channels = analysed(SMALL["aux_net"](), IMAGE)
    assert {step.mode for step in channels.steps} == {"eval", "train"}
    assert sum(space.pinned is None for space in channels.spaces) >= 2


def test_a_subclass_of_an_instance_norm_is_known_by_its_dims_and_not_by_its_name() -> None:
    class Renamed(nn.InstanceNorm2d):
        pass

    for shape in ((2, 3, 5, 5), (3, 5, 5)):
        channels = channels_of(
            nrfx.trace(nn.Sequential(nn.Conv2d(3, 6, 1), Renamed(6, affine=True)), torch.zeros(shape))
        )
        assert channels.norms["1.weight"].tolist() == channels.births["0"].tolist()
