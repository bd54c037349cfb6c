"""The plan in a state dict: numbers are never loaded into a network in which they mean something else."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

import nrfx
from nrfx.checkpoint import entry
from nrfx.errors import CheckpointError
from nrfx.rewrite.sort_generations import sort_generations
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.stated import KEY
from tests.checkpoint.saved import image, rejuvenated
from tests.zoo import IMAGE, calibrated, densenet_preact, mobilenet, resnet, vgg_bn, with_dead

X = image(torch.float32)
Make = Callable[..., nn.Module]


def fresh(make: Make = resnet) -> TracedModule:
    return nrfx.trace(make(), torch.zeros(IMAGE)).eval()


def followed(make: Make = resnet, gm: TracedModule | None = None) -> tuple[nn.Module, TracedModule]:
    """A model that follows its traced module, which has become a rejuvenated network."""
    model = make().eval()
    traced = nrfx.trace(model, torch.zeros(IMAGE))
    traced.load_state_dict((rejuvenated(make) if gm is None else gm).state_dict())
    return model, traced


def other_event() -> TracedModule:
    gone = with_dead(nrfx.trace(calibrated(resnet()), image()), fraction=0.6)
    return nrfx.rejuvenate(gone, nrfx.Budget.relative(gone, params=1.1), scheme="attention").module


def shapes(state: Any) -> dict[str, Any]:
    return {name: tensor.shape for name, tensor in state.items()}


def refused(module: nn.Module, state: Any, words: str, strict: bool = True) -> None:
    """The state dict is refused, and the module is as it was."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        module.load_state_dict(state, strict=strict)
    after = module.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


# What must not happen


def test_numbers_of_a_network_whose_widths_coincide_are_no_weights_of_the_model() -> None:
    gm = nrfx.cross_attend(nrfx.trace(calibrated(resnet()), image())).float().eval()
    state = gm.state_dict()
    model = resnet().eval()
    bare = {name: tensor for name, tensor in state.items() if name != KEY}
    assert shapes(bare) == shapes(model.state_dict())
    model.load_state_dict(bare)
    assert (model(X) - gm(X)).abs().max() > 0.01 * gm(X).abs().max()  # they mean something else
    for module in (model, nn.Sequential(model)):
        prefix = "" if module is model else "0."
        with pytest.raises(RuntimeError, match=f'Unexpected key.*"{prefix}{KEY}"'):
            module.load_state_dict({prefix + name: tensor for name, tensor in state.items()})
    assert model.load_state_dict(state, strict=False).unexpected_keys == [KEY]
    traced = fresh()
    traced.load_state_dict(state)
    assert torch.equal(traced(X), gm(X))


@pytest.mark.parametrize("strict", [True, False])
def test_a_rewritten_network_takes_no_numbers_without_a_plan_and_none_of_another_model(strict: bool) -> None:
    model, gm = followed()
    for module in (gm, model, copy.deepcopy(model)):
        refused(module, resnet().state_dict(), f"has no entry '{KEY}'.*add state", strict)
        refused(
            module, rejuvenated(vgg_bn).state_dict(), "does not fit: 4 is CrossConv2d.* missing in the model", strict
        )
    refused(
        nn.Sequential(gm), {f"0.{n}": t for n, t in resnet().state_dict().items()}, "under '0.' has no entry", strict
    )


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
@pytest.mark.parametrize("rewritten", [True, False])
def test_names_of_a_wrapper_are_not_passed_over_without_strict(prefix: str, rewritten: bool) -> None:
    gm = rejuvenated(resnet)
    state = {prefix + name: tensor for name, tensor in gm.state_dict().items()}
    refused(
        gm if rewritten else fresh(), state, f"no submodule '{prefix[:-1]}'.*Load it into the wrapper", strict=False
    )


def test_a_damaged_entry_is_refused_by_name() -> None:
    gm, state = fresh(), rejuvenated(resnet).state_dict()
    text = state[KEY]
    later = torch.frombuffer(bytearray(b'{"format":"nrfx","version":7}'), dtype=torch.uint8)
    for value, words in {
        text[:-1]: "cannot be read as JSON",
        text + 100: "is damaged: its numbers are no text",
        text.double() + 0.5: "is damaged",
        text[None]: "expected a tensor of bytes",
        later: "has format version 7",
    }.items():
        refused(gm, {**state, KEY: value}, f"'{KEY}'.*{words}")
    lacks = {name: tensor for name, tensor in state.items() if name != "bn1.weight"}
    refused(gm, lacks, "lacks 1 that the model has: bn1.weight", strict=False)


def test_what_no_plan_repeats_is_refused() -> None:
    gm = rejuvenated(densenet_preact)
    twin = sort_generations(gm).module
    refused(fresh(densenet_preact), twin.state_dict(), "after sort_generations")
    refused(gm, twin.state_dict(), "after sort_generations")
    twin.load_state_dict(twin.state_dict())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_network_becomes_another_one_whole_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupted(*_: Any) -> None:
        raise error

    model = resnet().eval()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    expected, modules, parameters = gm(X), list(model.modules()), list(model.parameters())
    monkeypatch.setattr(entry, "follow", interrupted)
    with pytest.raises(error):
        gm.load_state_dict(rejuvenated(resnet).state_dict())
    assert torch.equal(gm(X), expected) and torch.equal(model(X), expected)
    assert list(model.modules()) == modules and all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert KEY not in gm.state_dict()


# What is as before


def test_the_state_dict_of_what_the_model_builds_is_the_models() -> None:
    gm = nrfx.trace(calibrated(resnet()), image())
    assert list(gm.state_dict()) == list(resnet().state_dict())
    gone = with_dead(gm)
    same = nrfx.rejuvenate(gone, nrfx.Budget.relative(gone, params=1.0), scheme="dense", residual="coupled").module
    if shapes(dict(same.named_parameters())) == shapes(dict(gm.named_parameters())):
        assert KEY not in same.state_dict()
        resnet().load_state_dict(same.state_dict())
    assert KEY in nrfx.compact(gone).module.state_dict()


def test_its_own_state_dict_changes_nothing_but_numbers() -> None:
    model, gm = followed()
    code, modules, state = gm.code, list(gm.modules()), copy.deepcopy(gm.state_dict())
    expected = gm(X)
    with torch.no_grad():
        for parameter in gm.parameters():
            parameter.mul_(1.5)
    for module in (gm, model):
        assert str(module.load_state_dict(state)) == "<All keys matched successfully>"
        assert torch.equal(gm(X), expected)
    assert gm.code == code and list(gm.modules()) == modules
    gm.state_dict()[KEY].zero_()  # a copy: an average over state dicts, or a reader of files, writes into it
    assert torch.equal(gm.state_dict()[KEY], state[KEY])


def test_tools_that_read_the_state_dict_of_a_network_work() -> None:
    gm = rejuvenated(resnet).float().eval()
    assert torch.equal(torch.func.functional_call(gm, gm.state_dict(), (X,)), gm(X))
    exported = torch.export.export(gm, (X,), strict=False)
    assert torch.allclose(exported.module()(X), gm(X), atol=1e-5)


# The law: loading makes the network what was saved


@pytest.mark.parametrize("make", [resnet, mobilenet, densenet_preact])
@pytest.mark.parametrize("scheme", ["attention", "removed", "dense"])
def test_a_fresh_trace_and_its_model_become_what_was_saved_and_stay_the_same_objects(make: Make, scheme: str) -> None:
    gm = rejuvenated(make, scheme).float().eval()
    model = make().eval()
    traced = nrfx.trace(model, torch.zeros(IMAGE))
    held = dict(model.named_parameters())
    traced.load_state_dict(gm.state_dict())
    assert torch.equal(traced(X), gm(X)) and torch.equal(model(X), gm(X))
    assert all(parameter is held[name] for name, parameter in model.named_parameters() if name in held)
    assert list(traced.state_dict()) == list(gm.state_dict()) and torch.equal(
        traced.state_dict()[KEY], gm.state_dict()[KEY]
    )
    assert nrfx.utilization(traced).params.total == nrfx.utilization(gm).params.total
    nrfx.rejuvenate(with_dead(traced), nrfx.Budget.relative(traced, params=1.0))


def test_the_network_of_one_event_becomes_that_of_another_in_copies_and_pickles_too() -> None:
    model, gm = followed()
    other = other_event().float().eval()
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(gm),
        pickle.loads(pickle.dumps(gm)),
    ]
    for module in [*copies, copy.deepcopy(copies[0]), gm]:
        assert module.state_dict().keys() == gm.state_dict().keys()
        module.load_state_dict(other.state_dict())
        assert torch.equal(module(X), other(X)) and module.state_dict().keys() == other.state_dict().keys()
    assert torch.equal(model(X), other(X))
    model.load_state_dict(rejuvenated(resnet).state_dict())
    assert torch.equal(model(X), rejuvenated(resnet).float().eval()(X)) and torch.equal(gm(X), model(X))


def test_a_copy_of_a_model_from_before_the_rewrite_is_the_model() -> None:
    model = resnet().eval()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    optimizer = torch.optim.SGD(gm.parameters(), lr=0.1)
    nrfx.Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.load_state_dict(model.state_dict())
        with pytest.raises(RuntimeError, match=KEY):
            twin.load_state_dict(rejuvenated(resnet).state_dict())
    model.load_state_dict(rejuvenated(resnet).state_dict())  # the model itself is joined to its trace
    assert torch.equal(model(X), rejuvenated(resnet).float().eval()(X)) and torch.equal(gm(X), model(X))


def test_dtype_mode_frozen_parameters_and_memory_format_stay_those_of_the_module() -> None:
    gm = fresh().double().train().to(memory_format=torch.channels_last)
    gm.get_submodule("bn1").eval()
    for name in ("fc.weight", "layer1.0.conv1.weight"):
        gm.get_parameter(name).requires_grad_(False)
    state = rejuvenated(resnet, "removed").eval().state_dict()
    gm.load_state_dict({name: tensor.half() for name, tensor in state.items()})
    parameters = dict(gm.named_parameters())
    frozen = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    assert frozen == {name for name in parameters if name.startswith(("fc.weight", "layer1.0.conv1.weight"))}
    assert all(parameter.dtype == torch.float64 for parameter in parameters.values())
    assert gm.training and not gm.get_submodule("bn1").training and gm.get_submodule("layer1.0.bn1").training
    assert parameters["conv1.weight"].is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(
        gm.eval()(X.double()), rejuvenated(resnet, "removed").eval()(X.double()), rtol=0.02, atol=0.02
    )


class Unsaved(nn.Module):
    """A table that is in no state dict, and extra state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.net = vgg_bn()
        self.scale: Tensor
        self.register_buffer("scale", torch.full((5,), 3.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.scale


def test_a_buffer_that_no_state_dict_has_stays_the_modules() -> None:
    gm = rejuvenated(Unsaved).float().eval()
    traced = fresh(Unsaved)
    traced.load_state_dict(gm.state_dict())
    assert torch.equal(traced(X), gm(X))


# Checkpoints of others


class Task(nn.Module):
    """Like a LightningModule: the network under a name of its own, beside a loss with weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(5))


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "model.": Task,
    "module.": nn.DataParallel,
    "_orig_mod.": lambda module: torch.compile(module, backend="eager"),
    "module._orig_mod.": lambda module: nn.DataParallel(torch.compile(module, backend="eager")),
}


@pytest.mark.parametrize("prefix", list(WRAPPERS))
def test_a_wrapped_network_comes_back_from_a_nest_that_torch_wrote(prefix: str) -> None:
    model, gm = followed()
    file = io.BytesIO()
    state = WRAPPERS[prefix](gm).state_dict()
    assert f"{prefix}{KEY}" in state and WRAPPERS[prefix](model).state_dict().keys() == state.keys()
    torch.save({"epoch": 3, "state_dict": state}, file)
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=True)["state_dict"]
    new = fresh()
    WRAPPERS[prefix](new).load_state_dict(loaded)
    assert torch.equal(new(X), gm(X))


def test_a_folder_of_safetensors_comes_back(tmp_path: Path) -> None:
    gm = followed()[1]
    save_file(gm.state_dict(), tmp_path / "model.safetensors")
    new = fresh()
    new.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(new(X), gm(X))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_distributed_checkpoint_comes_back(tmp_path: Path) -> None:
    gm = followed()[1]
    state = {"model": get_model_state_dict(Task(gm))}
    assert f"model.{KEY}" in state["model"]
    dcp.save(state, checkpoint_id=tmp_path / "run", no_dist=True)
    twin = copy.deepcopy(gm)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    read = {"model": get_model_state_dict(Task(twin))}
    dcp.load(read, checkpoint_id=tmp_path / "run", no_dist=True)  # into memory of the same shapes
    set_model_state_dict(Task(twin), read["model"])
    assert torch.equal(twin(X), gm(X))
    dcp_to_torch_save(tmp_path / "run", tmp_path / "run.pt")  # whatever the shapes are
    new = fresh()
    set_model_state_dict(Task(new), torch.load(tmp_path / "run.pt", weights_only=True)["model"])
    assert torch.equal(new(X), gm(X))
    wider = {"model": get_model_state_dict(Task(other_event()))}
    with pytest.raises(BaseException, match="Size mismatch between saved"):
        dcp.load(wider, checkpoint_id=tmp_path / "run", no_dist=True)


@pytest.mark.parametrize("which", ["the model", "its traced module"])
def test_functional_call_takes_the_state_dict(which: str) -> None:
    model, gm = followed()
    module = (model if which == "the model" else gm).eval()
    values = {name: value.detach() for name, value in module.state_dict().items()}
    assert KEY in values
    x = torch.randn(3, *IMAGE[1:])
    expected = module(x)
    torch.testing.assert_close(torch.func.functional_call(module, values, (x,)), expected)
    each = torch.func.vmap(lambda one: torch.func.functional_call(module, values, (one[None],))[0])(x)
    torch.testing.assert_close(each, expected, rtol=1e-4, atol=1e-5)
    assert values.keys() == module.state_dict().keys() and torch.equal(module(x), expected)
