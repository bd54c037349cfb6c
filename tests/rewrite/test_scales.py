import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nrfx
from nrfx.nn import ChannelScale

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def plain_vgg() -> nn.Module:
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3), nn.SiLU(), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(48, 12), nn.GELU(), nn.Dropout(0.1), nn.Linear(12, 5))


class Transformer(nn.Module):
    """One block of a vision transformer, its attention written out: 3 heads of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.norm2 = nn.Conv2d(3, 12, 4, 4), nn.LayerNorm(12), nn.LayerNorm(12)
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)
        self.mlp, self.head = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12)), nn.Linear(12, 5)
        self.position = nn.Parameter(torch.randn(1, 4, 12) / 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        return self.head((x + self.mlp(self.norm2(x))).mean(1))


class Unfoldable(nn.Module):
    """The outputs of two layers are added, so that a scale behind one of them could not be folded into a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.one(x)) + torch.relu(self.two(x)))


def prepared(make) -> nn.Module:
    torch.manual_seed(0)
    return make().double().eval()


def difference(one: nn.Module, two: nn.Module) -> float:
    with torch.no_grad():
        return float((one(X) - two(X)).abs().max() / one(X).abs().max())


def scales(module: nn.Module) -> dict[str, ChannelScale]:
    return {path: child for path, child in module.named_modules() if isinstance(child, ChannelScale)}


@pytest.mark.parametrize("make", [plain_vgg, Transformer])
def test_scales_are_put_in_as_the_identity_and_the_network_is_left_alone(make) -> None:
    model = prepared(make)
    gm = nrfx.trace(model, X)
    names = set(gm.state_dict())
    scaled = nrfx.insert_scales(gm)
    assert difference(model, scaled) == 0.0 and set(gm.state_dict()) == names and not scales(gm)
    assert scaled.training == model.training and all(
        scale.weight.dtype == torch.float64 for scale in scales(scaled).values()
    )
    assert nrfx.utilization(scaled).flops.total == nrfx.utilization(gm).flops.total
    pickled = copy.deepcopy(scaled)
    assert difference(pickled.train(), scaled.train()) == 0.0 or make is plain_vgg


def test_scales_stand_behind_activations_and_before_what_reads_heads() -> None:
    assert set(scales(nrfx.insert_scales(prepared(plain_vgg), X))) == {"scales.0", "scales.3", "scales.6"}
    scaled = nrfx.insert_scales(prepared(Transformer), X)
    assert {path: scale.channels for path, scale in scales(scaled).items()} == {
        "scales.mlp_0": 24,
        "scales.proj_input": 12,
    }


@pytest.mark.parametrize("make", [plain_vgg, Transformer])
@pytest.mark.parametrize("scheme", ["dense", "attention", "removed"])
def test_dead_scales_are_rejuvenated_and_folded_and_the_function_is_kept(make, scheme: str) -> None:
    scaled = nrfx.insert_scales(prepared(make), X)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for scale in scales(scaled).values():
            scale.weight.uniform_(-1.5, 1.5, generator=generator)
            scale.weight.view(-1, 4)[::2] = 0.0  # whole heads, half of the rest
    result = nrfx.rejuvenate(scaled, nrfx.Budget.relative(scaled, params=1.0), scheme=scheme, generator=generator)
    assert result.before.params.live < result.before.params.total and result.alpha > 1
    assert nrfx.verify(scaled, result, X) < 1e-12
    folded = nrfx.fold_scales(result.module)
    assert not scales(folded) and not hasattr(folded, "scales") and difference(scaled, folded) < 1e-12
    assert nrfx.utilization(folded).flops.total == result.after.flops.total
    folded.train()(X).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in folded.parameters())


def test_heads_go_whole_and_the_view_that_makes_them_gets_the_new_number() -> None:
    scaled = nrfx.insert_scales(prepared(Transformer), X)
    with torch.no_grad():
        scaled.get_parameter("scales.proj_input.weight")[4:8] = 0.0
        scaled.get_parameter("scales.proj_input.weight")[8] = 0.0  # one channel of a head alone is kept
    result = nrfx.compact(scaled)
    assert result.module.get_submodule("qkv").out_features == 24
    assert result.module.get_submodule("proj").in_features == 8
    assert difference(scaled, result.module) < 1e-12


def test_a_scale_that_could_not_be_folded_is_not_put_in() -> None:
    model = prepared(Unfoldable)
    assert not scales(nrfx.insert_scales(model, X))


@pytest.mark.parametrize("op", [
    lambda x: torch.maximum(x, x.flip(3)), lambda x: torch.max(x, x.flip(3)), lambda x: x.max(x.roll(1, 2)),
    lambda x: torch.min(x, x.flip(2)), lambda x: x.amax((2, 3), keepdim=True), lambda x: x.max(3, keepdim=True)[0],
])  # fmt: skip
def test_no_negative_scale_is_folded_through_a_maximum_in_any_of_its_spellings(op) -> None:
    class Extreme(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.read = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.read(op(self.conv(x)))

    scaled = nrfx.insert_scales(Extreme().double().eval(), X)
    with torch.no_grad():
        for scale in scales(scaled).values():
            scale.weight.normal_()
    assert difference(scaled, nrfx.fold_scales(scaled)) < 1e-12


def test_networks_with_norms_everywhere_get_none_and_folding_without_any_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).double().eval()
    scaled = nrfx.insert_scales(model, X)
    assert not scales(scaled)
    assert difference(model, nrfx.fold_scales(scaled)) == 0.0


class Encoder(nn.Module):
    """torch's own transformer, which calls modules that have rules."""

    def __init__(self, whole: bool = False, causal: bool = False, **options: object) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, **options)
        self.first, self.last, self.whole, self.causal = nn.Linear(4, 8), nn.Linear(8, 3), whole, causal
        self.body = (
            nn.Transformer(8, 2, 1, 1, 12, dropout=0.0, batch_first=True)
            if whole
            else nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        )

    def forward(self, x: torch.Tensor, padded: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.whole:
            return self.last(self.body(x, x, src_key_padding_mask=padded))
        if self.causal:
            mask = nn.Transformer.generate_square_subsequent_mask(5).to(x.dtype)
            return self.last(self.body(x, mask, is_causal=True))
        return self.last(self.body(x, src_key_padding_mask=padded))


@pytest.mark.parametrize(
    "options", [{}, {"norm_first": True, "activation": "gelu"}, {"causal": True}, {"whole": True}], ids=str
)
def test_the_hidden_units_of_torchs_own_transformer_come_and_go(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = Encoder(**options).double().eval()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    padded = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]], dtype=torch.bool)
    scaled = nrfx.insert_scales(nrfx.trace(model, (x, padded)))
    assert [path.count("linear1") for path in scales(scaled)] == [1, 1]
    with torch.no_grad():
        assert torch.allclose(scaled(x, padded), model(x, padded), rtol=1e-12, atol=1e-12)
        for scale in scales(scaled).values():
            scale.weight[::2] = 0
        expected = scaled(x, padded)
    result = nrfx.rejuvenate(scaled, nrfx.Budget.relative(scaled, params=1.0))
    assert result.changed and result.before.uncounted == ()
    with torch.no_grad():
        for module in (result.module, nrfx.fold_scales(result.module)):
            assert torch.allclose(module(x, padded), expected, rtol=1e-10, atol=1e-10)


def test_in_a_model_in_parts_its_own_code_does_not_meet_the_scales() -> None:
    class Chosen(nn.Sequential):
        """Calls all its children, in an order that depends on values."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for child in self if float(x.detach().sum()) > -1e9 else reversed(list(self)):
                x = child(x)
            return x

    model = Chosen(*(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)) for _ in range(2))).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    gm = nrfx.trace(model, x, partial=True)
    scaled = nrfx.insert_scales(gm)
    assert [part.path for part in scaled.facts.parts] == ["0", "1"]
    assert [path for path, module in scaled.named_modules() if isinstance(module, ChannelScale)] == [
        "0.scales.0_0",
        "1.scales.1_0",
    ]
    assert torch.equal(scaled(x), model(x))
    with torch.no_grad():
        for name, scale in scaled.named_parameters():
            if "scales" in name:
                scale[::2] = 0.5
    folded = nrfx.fold_scales(scaled)
    assert torch.allclose(folded(x), scaled(x), atol=1e-12)
    assert len(list(folded.modules())) == len(list(gm.modules()))
