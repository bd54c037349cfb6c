"""Recalibration: what it refuses, what it leaves alone, and what it writes, against torch's own cumulative average."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, TensorDataset

import nrfx
from nrfx.analysis.meter import Meter
from nrfx.errors import TrainingError
from nrfx.training.recalibrate import recalibrated
from tests.tracing.partial.test_partition import Detector
from tests.tracing.partial.test_partition import images as detected
from tests.training.small_loop import contents as everything
from tests.training.small_loop import equal, kill, learn, set_up
from tests.zoo import IMAGE, SMALL, cbr, norms, vgg_bn, with_dead


def images(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(8, *IMAGE[1:], generator=generator) + 1 for _ in range(count)]


def contents(module: nn.Module) -> dict[str, Any]:
    """Tensors, gradients, modes and numbers of hooks of a module, and the random state."""
    return {
        "state": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "gradients": {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None},
        "modes": [part.training for part in module.modules()],
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        "random": torch.get_rng_state(),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The names of the buffers and parameters that differ, and of the other entries that do."""
    changed = {kind for kind in ("modes", "hooks") if before[kind] != after[kind]}
    for kind in ("state", "gradients"):
        changed |= {name for name in before[kind] if not torch.equal(before[kind][name], after[kind][name])}
    return changed | (set() if torch.equal(before["random"], after["random"]) else {"random"})


def rejuvenated(name: str = "vgg_bn", **options: Any) -> nrfx.Rejuvenation:
    gm = nrfx.trace(with_dead(SMALL[name](), 0.5), torch.zeros(IMAGE))
    for x in images(3):
        gm(x)  # statistics of their own
    generator = torch.Generator().manual_seed(0)
    return nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), generator=generator, **options)


class Functional(nn.Module):
    """A batch norm as a function, as other packages write theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        return F.batch_norm(
            self.conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, training=self.training
        )


# What it refuses


@pytest.mark.parametrize(("batches", "message"), [
    ([], "There is no batch"),
    ([torch.zeros(2, 4, 16, 16)], r"Batch 0, of shape \[2, 4, 16, 16\], does not go through .*3 channels"),
    ([*images(1), torch.full((2, 3, 16, 16), torch.nan)], "What 1 sees is not finite"),
    ([torch.zeros(0, 3, 16, 16)], "1 sees one value a channel"),
    ([3], "Batch 0 is to begin with 1 input tensor; found int"),
    ([[]], "found 0 of them"),
    ([["x"]], "begin with input tensors; found str"),
])  # fmt: skip
def test_batches_that_give_no_statistics_are_refused_and_nothing_changes(batches: list[Any], message: str) -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    before = contents(gm)
    with pytest.raises(TrainingError, match=message):
        nrfx.recalibrate(gm, batches)
    assert not differences(before, contents(gm))


def test_origins_of_another_network_are_refused() -> None:
    other = rejuvenated()
    gm = nrfx.trace(vgg_bn((40, 41, 42)), torch.zeros(IMAGE))
    with pytest.raises(TrainingError, match=r"origins of \d\.running_mean are for \d+ channels, and it has 4\d"):
        nrfx.recalibrate(gm, images(1), other.origins)


@pytest.mark.parametrize(("batches", "origins", "message"), [
    (None, None, "batches is None; expected a list"),
    ([], "result.origins", "origins is of class str"),
    ([], {"0.running_mean": (None,)}, "know none of the module's norms, such as module.1.running_mean"),
])  # fmt: skip
def test_what_would_write_nothing_in_silence_is_refused(batches: Any, origins: Any, message: str) -> None:
    wrapped = nn.ModuleDict({"module": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))})
    with pytest.raises(TrainingError, match=message):
        nrfx.recalibrate(wrapped, batches, origins)


def test_a_failing_loader_leaves_the_module_as_it_was() -> None:
    def fails() -> Any:
        yield images(1)[0]
        raise RuntimeError("disk")

    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    before = contents(gm)
    with pytest.raises(RuntimeError, match="disk"):
        nrfx.recalibrate(gm, fails())
    assert not differences(before, contents(gm))


# What it leaves alone


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["vgg_bn", "aux_net", "functional_dropout"])
def test_only_running_means_and_variances_change(name: str, training: bool) -> None:
    gm = nrfx.trace(SMALL[name](), torch.zeros(IMAGE)).train(training)
    out = gm(images(1)[0])
    (out[0] if isinstance(out, tuple) else out).sum().backward()
    before = contents(gm)
    assert nrfx.recalibrate(gm, images(2))
    changed = differences(before, contents(gm))
    assert changed and all(name.endswith(("running_mean", "running_var")) for name in changed)


@pytest.mark.parametrize("frozen", ["parameters", "mode"])
def test_a_frozen_norm_keeps_its_statistics_and_normalises_with_them(frozen: str) -> None:
    model = nn.Sequential(cbr(3, 4), cbr(4, 4))
    gm = nrfx.trace(model, torch.zeros(IMAGE)).train()
    norm = gm.get_submodule("0.1")
    norm.requires_grad_(False) if frozen == "parameters" else norm.eval()
    before = contents(gm)
    assert nrfx.recalibrate(gm, images(2)) == ("1.1",)
    assert differences(before, contents(gm)) == {"1.1.running_mean", "1.1.running_var"}
    seen = torch.stack([gm.eval().get_submodule("1.0")(gm.get_submodule("0")(x)).mean((0, 2, 3)) for x in images(2)])
    assert torch.allclose(gm.get_submodule("1.1").running_mean, seen.mean(0), atol=1e-5)


def test_a_second_time_gives_the_same_statistics() -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    nrfx.recalibrate(gm, images(3))
    before = contents(gm)
    nrfx.recalibrate(gm, images(3))
    assert not differences(before, contents(gm))


# What it writes


def cumulative(model: nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
    """The statistics of torch's norms without a momentum, started anew, in train mode but for dropout."""
    model = copy.deepcopy(model).train()
    for part in model.modules():
        if isinstance(part, _BatchNorm):
            part.reset_running_stats()
            part.momentum = None
        elif "Drop" in type(part).__name__:
            part.eval()
    for x in batches:
        model(x)
    return {name: tensor for name, tensor in model.named_buffers() if "running" in name}


@pytest.mark.parametrize("name", ["vgg_bn", "resnet", "densenet_preact", "mobilenet_se", "inception"])
def test_the_statistics_are_those_of_torchs_cumulative_average(name: str) -> None:
    model = SMALL[name]()
    expected = cumulative(model, images(3))
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    nrfx.recalibrate(gm, images(3))
    buffers = dict(gm.named_buffers())
    for buffer, value in expected.items():
        assert torch.allclose(buffers[buffer], value, rtol=1e-4, atol=1e-5), buffer


@pytest.mark.parametrize(("norm", "shape"), [
    (nn.BatchNorm1d(3), (5, 3)), (nn.BatchNorm1d(3), (5, 3, 7)), (nn.BatchNorm2d(3), (5, 3, 2, 2)),
    (nn.BatchNorm3d(3), (5, 3, 2, 2, 2)), (nn.SyncBatchNorm(3), (5, 3, 2, 2)),
], ids=str)  # fmt: skip
def test_every_kind_of_batch_norm_gets_mean_and_variance_of_its_input(norm: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert nrfx.recalibrate(nn.Sequential(norm), [x]) == ("0",)
    channels = x.transpose(0, 1).flatten(1)
    assert torch.allclose(norm.running_mean, channels.mean(1)) and torch.allclose(norm.running_var, channels.var(1))


def test_a_norm_that_is_called_as_a_function_is_found() -> None:
    gm = nrfx.trace(Functional(), torch.zeros(IMAGE))
    assert nrfx.recalibrate(gm, images(2)) == ("norm",)
    mean = torch.stack([gm.conv(x).mean((0, 2, 3)) for x in images(2)]).mean(0)
    assert torch.allclose(gm.norm.running_mean, mean, atol=1e-5)


def test_a_data_loader_with_labels_does_as_batches() -> None:
    x = torch.cat(images(3))
    loader = DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=8)
    one, other = (nrfx.trace(vgg_bn(), torch.zeros(IMAGE)) for _ in range(2))
    other.load_state_dict(one.state_dict())
    nrfx.recalibrate(one, loader)
    nrfx.recalibrate(other, images(3))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("scheme", ["attention", "dense", "removed"])
@pytest.mark.parametrize("name", ["vgg_bn", "resnet", "densenet_postact"])
def test_the_statistics_of_new_channels_change_and_the_function_does_not(name: str, scheme: str) -> None:
    result = rejuvenated(name, scheme=scheme)
    module, x = result.module.eval(), images(1, seed=9)[0]
    before, outputs = contents(module), module(x)
    paths = nrfx.recalibrate(module, images(3), result.origins)
    after = contents(module)
    assert paths
    for norm in ("running_mean", "running_var"):
        for path in paths:
            (places,), key = result.origins[f"{path}.{norm}"], f"{path}.{norm}"
            differs = before["state"][key] != after["state"][key]
            assert torch.equal(differs, places == -1), key
    assert torch.allclose(module(x), outputs, rtol=1e-4, atol=1e-5)
    nrfx.recalibrate(module, images(3))
    assert not torch.allclose(module(x), outputs, rtol=1e-2, atol=1e-2)


def test_where_nothing_is_new_nothing_is_written() -> None:
    gm = nrfx.trace(with_dead(vgg_bn()), torch.zeros(IMAGE))
    result = nrfx.compact(gm)
    before = contents(result.module)
    assert nrfx.recalibrate(result.module, images(1), result.origins) == ()
    assert not differences(before, contents(result.module))


def test_with_all_channels_eval_mode_sees_what_training_sees() -> None:
    """Statistics start at 0 and 1: until they are taken from data, the outputs of the two modes are far apart."""
    result = rejuvenated(reinitialize="all")
    module, batch = result.module, images(1)[0]
    trained = copy.deepcopy(module).train()(batch)
    gap = [float((module.eval()(batch) - trained).detach().abs().max())]
    nrfx.recalibrate(module, [batch])
    gap.append(float((module.eval()(batch) - trained).detach().abs().max()))
    assert gap[1] < 0.05 * gap[0]


def test_all_norms_of_the_zoo_are_reached() -> None:
    for name in ("vgg_bn", "resnet_bottleneck", "mobilenet", "grouped"):
        model = SMALL[name]()
        gm = nrfx.trace(model, torch.zeros(IMAGE))
        assert len(nrfx.recalibrate(gm, images(1))) == len(norms(model)), name


def test_a_model_traced_in_parts_runs_as_it_does_by_itself() -> None:
    model = Detector().double()
    gm = nrfx.trace(model, detected(), partial=True)
    batch = detected(3, 24)
    assert set(nrfx.recalibrate(gm, [batch])) == {"backbone.one.1", "backbone.two.1", "head.0.1"}
    expected = gm.get_submodule("backbone.one.0")(torch.stack(batch)).mean((0, 2, 3))
    assert torch.allclose(gm.get_buffer("backbone.one.1.running_mean"), expected)
    with pytest.raises(TrainingError, match=r"Batch 0, of shape \[5\], does not go through"):
        nrfx.recalibrate(gm, [torch.zeros(5)])


# For a block


def kept(module: nn.Module) -> dict[str, Any]:
    """The contents of a module, which tensors these are, and how often each was written."""
    buffers = {name: (id(buffer), buffer._version) for name, buffer in module.named_buffers()}
    return {**contents(module), "buffers": buffers}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["vgg_bn", "resnet", "functional_dropout"])
def test_in_a_block_the_statistics_are_new_and_behind_it_no_number_was_written(name: str, training: bool) -> None:
    gm = nrfx.trace(SMALL[name](), torch.zeros(IMAGE)).train(training)
    gm(images(1, seed=4)[0]).sum().backward()
    other = copy.deepcopy(gm)
    paths = nrfx.recalibrate(other, images(2))
    before, x = kept(gm), images(1, seed=9)[0]
    with recalibrated(gm, images(2)) as inside:
        assert inside == paths
        expected = other.state_dict()
        assert all(torch.equal(value, expected[path]) for path, value in gm.state_dict().items())
        assert gm.training == training and torch.equal(copy.deepcopy(gm).eval()(x), other.eval()(x))
    assert not differences(before, contents(gm)) and kept(gm)["buffers"] == before["buffers"]


def test_the_old_statistics_come_back_where_the_block_fails() -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    before = kept(gm)
    with pytest.raises(KeyError), recalibrated(gm, images(1)):
        raise KeyError
    assert not differences(before, contents(gm)) and kept(gm)["buffers"] == before["buffers"]


@pytest.mark.parametrize(("batches", "message"), [
    ([], "There is no batch"), (None, "batches is None"), ([torch.full(IMAGE, torch.inf)], "What 1 sees is not finite"),
])  # fmt: skip
def test_batches_that_give_no_statistics_open_no_block(batches: Any, message: str) -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    before = kept(gm)
    with pytest.raises(TrainingError, match=message), recalibrated(gm, batches):
        raise AssertionError
    assert not differences(before, contents(gm)) and kept(gm)["buffers"] == before["buffers"]


def test_without_batch_norms_no_batch_is_run() -> None:
    batches = iter([torch.zeros(2, 3)])
    with recalibrated(nn.Sequential(nn.Linear(3, 2)), batches) as paths:
        assert paths == ()
    assert len(list(batches)) == 1


def test_two_norms_with_the_same_statistics_both_have_the_new_ones() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    model[1].running_mean, model[1].running_var = model[0].running_mean, model[0].running_var
    with recalibrated(model, [torch.randn(9, 2, generator=torch.Generator().manual_seed(0))]):
        assert model[0].running_mean is model[1].running_mean and model[0].running_var is model[1].running_var


def test_a_loss_from_before_the_block_is_differentiated_behind_it() -> None:
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE)).eval()
    loss = gm(images(1)[0]).sum()
    with recalibrated(gm, images(2)):
        pass
    loss.backward()
    assert all(parameter.grad is not None for parameter in gm.parameters())


def test_a_meter_reads_the_same_behind_the_block() -> None:
    gm = nrfx.trace(with_dead(vgg_bn()), torch.zeros(IMAGE))
    meter = Meter(gm)
    before = meter.read()
    with recalibrated(gm, images(1)):
        pass
    assert meter.read().params == before.params


# At an event


def test_an_iterator_cannot_be_gone_through_at_every_event_and_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"calibration is <list_iterator.*a list of batches"):
        set_up(calibration=iter([torch.zeros(IMAGE)]))


def test_an_event_takes_the_statistics_of_its_new_channels_from_the_batches() -> None:
    x = torch.randn(8, *IMAGE[1:], generator=torch.Generator().manual_seed(5)) + 3
    nr, optimizer = set_up(calibration=[x])
    learn(nr, optimizer)
    kill(nr)
    event = nr.step()
    assert isinstance(event, nrfx.Event)
    (places,) = event.result.origins["1.running_mean"]
    means = nr.module.get_submodule("0")(x).mean((0, 2, 3))
    fresh = places == -1
    assert torch.allclose(nr.module.get_buffer("1.running_mean")[fresh], means[fresh], atol=1e-5)
    assert not torch.allclose(nr.module.get_buffer("1.running_mean")[~fresh], means[~fresh], atol=1e-5)


def test_batches_that_do_not_fit_stop_the_event_and_change_nothing() -> None:
    nr, optimizer = set_up(calibration=[torch.zeros(2, 7, 16, 16)])
    learn(nr, optimizer)
    kill(nr)
    before = everything(nr, optimizer)
    with pytest.raises(TrainingError, match="Batch 0"):
        nr.step()
    assert equal(before, everything(nr, optimizer))
