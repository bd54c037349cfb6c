"""save and load: what does not fit is refused and changes nothing; what fits goes on as if it had never been away."""

import copy
import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn
from torch.optim import SGD, AdamW, Optimizer

import nrfx
from nrfx.errors import CheckpointError
from nrfx.nn import CrossConv2d
from nrfx.tracing import TracedModule
from nrfx.training.optimizer import migrate
from nrfx.training.rejuvenator import Rejuvenator
from tests.zoo import IMAGE, aux_net, calibrated, densenet_preact, grouped, mobilenet, norms, resnet, vgg_bn, with_dead

MODELS: dict[str, Callable[..., nn.Module]] = {
    "vgg_bn": vgg_bn,
    "resnet": resnet,
    "densenet_preact": densenet_preact,
    "mobilenet": mobilenet,
    "grouped": grouped,
    "aux_net": aux_net,
}


def image(dtype: torch.dtype = torch.float64, count: int = 2) -> Tensor:
    return torch.randn(count, *IMAGE[1:], generator=torch.Generator().manual_seed(7)).to(dtype)


def rejuvenated(make: Callable[[], nn.Module], scheme: str = "attention", times: int = 1) -> TracedModule:
    """A calibrated model, of which 40 % of the channels were killed and replaced, `times` times."""
    return copy.deepcopy(_rejuvenated(make, scheme, times))


@functools.cache
def _rejuvenated(make: Callable[[], nn.Module], scheme: str, times: int) -> TracedModule:
    gm = nrfx.trace(calibrated(make()), image())
    for _ in range(times):
        gone = with_dead(gm)
        budget = nrfx.Budget.relative(gone, params=1.3)
        gm = nrfx.rejuvenate(gone, budget, scheme=scheme, generator=torch.Generator().manual_seed(1)).module
    return gm


def assert_same(a: TracedModule, b: TracedModule, x: Tensor) -> None:
    """Equal in every number, and in what both do with x in both modes."""
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, tensor in a.state_dict().items():
        assert tensor.dtype == b.state_dict()[name].dtype, name
        assert tensor.stride() == b.state_dict()[name].stride(), name
        assert torch.equal(tensor, b.state_dict()[name]), name
    assert [m.training for m in a.modules()] == [m.training for m in b.modules()]
    assert {n: p.requires_grad for n, p in a.named_parameters()} == {
        n: p.requires_grad for n, p in b.named_parameters()
    }
    assert (a.inputs, a.gamma0) == (b.inputs, b.gamma0)
    for mode in (False, True):
        torch.testing.assert_close(a.train(mode)(x), b.train(mode)(x), rtol=0, atol=0)


# What must not happen


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gm = rejuvenated(resnet, "removed")
    path = tmp_path_factory.mktemp("original") / "net.safetensors"
    nrfx.save(path, gm, SGD(gm.parameters(), lr=0.1, momentum=0.9))
    return path


@pytest.fixture
def file(original: Path, tmp_path: Path) -> Path:
    """A file of its own of a rejuvenated ResNet, with an SGD over it."""
    return Path(shutil.copy(original, tmp_path))


def damage(file: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> None:
    """Rewrites the file with other content or tensors."""
    with safe_open(file, "pt") as opened:
        content = json.loads(opened.metadata()["nrfx"])
    tensors = load_file(file)
    change(content, tensors)
    save_file(tensors, file, metadata={"nrfx": json.dumps(content)})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no file .*gone\.safetensors"):
        nrfx.load(tmp_path / "gone.safetensors", resnet())


@pytest.mark.parametrize("content", [b"", b"hello" * 99, None], ids=["empty", "text", "truncated"])
def test_a_file_that_is_no_whole_safetensors_file_is_refused(file: Path, content: bytes | None) -> None:
    file.write_bytes(file.read_bytes()[:-10] if content is None else content)
    with pytest.raises(CheckpointError, match=r"net\.safetensors is not a complete safetensors file"):
        nrfx.load(file, resnet())


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
        nrfx.load(tmp_path, resnet())


def test_plain_weights_are_refused_with_the_way_to_load_them(tmp_path: Path) -> None:
    save_file(resnet().state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match=r"not written by nrfx\.save.*load_state_dict"):
        nrfx.load(tmp_path / "plain.safetensors", resnet())


def test_a_newer_format_is_refused_with_both_versions(file: Path) -> None:
    damage(file, lambda content, _: content.update(version=99))
    with pytest.raises(CheckpointError, match="format version 99, and this nrfx reads up to 1"):
        nrfx.load(file, resnet())


@pytest.mark.parametrize("part", ["plan", "version", "optimizer"])
def test_a_plan_with_a_part_missing_is_refused(file: Path, part: str) -> None:
    damage(file, lambda content, _: content.pop(part))
    with pytest.raises(CheckpointError, match=rf"metadata of .*net\.safetensors lacks '{part}'"):
        nrfx.load(file, resnet())


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(("change", "words"), [
    (lambda c: c.update(version=0), r"has format version 0, and this nrfx reads up to 1\."),
    (lambda c: c.update(version="1"), "version is '1'; expected a whole number"),
    (lambda c: c.update(format="onnx"), "format is 'onnx'; expected 'nrfx'"),
    (lambda c: c.update(digest=1), "'digest' is unknown. Known are format, version, plan, optimizer, rejuvenator"),
    (lambda c: c.update(plan=[]), r"plan is \[\]; expected a table"),
    (lambda c: c["plan"].update(forzen=[]), "'plan.forzen' is unknown; close to it: frozen"),
    (lambda c: c["plan"].update(frozen="fc"), "plan.frozen is 'fc'; expected a list"),
    (lambda c: c["plan"].update(training=1), "plan.training is 1; expected true or false"),
    (lambda c: c["plan"]["gamma0"].update(bn1=None), "plan.gamma0.bn1 is None; expected a number"),
    (lambda c: c["plan"]["norms"].update(bn1=2.5), "plan.norms.bn1 is 2.5; expected a whole number"),
    (lambda c: c["plan"]["layers"][0].pop("paths"), "lacks 'plan.layers.0.paths'"),
    (lambda c: c["plan"].update(inputs=[[[2, "3"], "float32"]]), "plan.inputs.0.0.1 is '3'; expected a whole number"),
    (lambda c: c["plan"].update(inputs=[[[2], "float99"]]), "expected inputs of dtypes that torch has, not 'float99'"),
    (lambda c: c["plan"].update(inputs=[[[2, -1], "float32"]]), r"sizes that a tensor can have, not \[2, -1\]"),
    (lambda c: c["plan"].update(inputs=[[[2**40, 2**40], "float32"]]), "inputs of sizes that a tensor can have"),
    (lambda c: c["plan"]["aliases"].update({"fc.bias": "fc.gone"}), "fc.gone is tied to another name"),
    (lambda c: c["plan"]["layers"][0]["config"].update(scheme=3), "its layer .* cannot be made"),
    (lambda c: c["plan"]["layers"][0]["config"].update(out_generations=[2**70]), "its layer .* cannot be made"),
    (lambda c: c["plan"].update(literals={"eval": {"gone": {"0": 1}}}), "the sizes that its rewritten graph states"),
    (lambda c: c["plan"].update(norms=nested(300)), "cannot be read as JSON: recursion limit"),
])  # fmt: skip
def test_metadata_that_are_not_those_of_a_network_are_refused_by_their_field(
    file: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    damage(file, lambda content, _: change(content))
    with pytest.raises(CheckpointError, match=words):
        nrfx.load(file, resnet())


def test_metadata_that_are_too_long_are_not_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nrfx.files.LIMIT", 1000)
    with pytest.raises(CheckpointError, match=r"net\.safetensors is longer than 1,000 characters"):
        nrfx.load(file, resnet())


@pytest.mark.parametrize(("change", "words"), [
    (lambda o: o.pop("groups"), "its optimizer lacks 'groups'. Known are class, groups, state"),
    (lambda o: o.update(clas="SGD"), "'clas' is unknown; close to it: class"),
    (lambda o: o["groups"][0]["dict"].update(names=[1]), "groups.0.names.0 is 1; expected a text"),
    (lambda o: o["groups"][0]["dict"].pop("options"), "lacks 'groups.0.options'. Known are names, options"),
    (lambda o: o["groups"][0]["dict"]["names"].append("fc.gone"), "trains what the network does not have: fc.gone"),
    (lambda o: o.update(state={"dict": {"fc.bias": 3}}), "state.fc.bias is 3; expected a table"),
    (lambda o: o.update(state={"tensor": "gone"}), "its optimizer/state is {'tensor': 'gone'}; expected a tuple"),
    (lambda o: o.update(state={"set": []}), r"its optimizer/state is {'set': \[\]}; expected a tuple, a dict"),
    (lambda o: o.update(state={"tuple": "ab"}), "its optimizer/state is {'tuple': 'ab'}; expected a tuple, a dict"),
])  # fmt: skip
def test_an_optimizer_that_is_none_is_refused_by_its_field(
    file: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    damage(file, lambda content, _: change(content["optimizer"]["dict"]))
    model = resnet()
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(CheckpointError, match=words):
        nrfx.load(file, model, optimizer)
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], model.parameters(), strict=True))


def test_what_is_no_model_is_refused(file: Path) -> None:
    with pytest.raises(CheckpointError, match="an instance of the model; it got a function"):
        nrfx.load(file, resnet)  # type: ignore[arg-type]


def test_a_plan_names_no_class_of_its_own_choice(file: Path) -> None:
    damage(file, lambda content, _: content["plan"]["layers"][0]["config"].update(type="Popen"))
    with pytest.raises(CheckpointError, match="of type 'Popen'"):
        nrfx.load(file, resnet())


def test_missing_and_unexpected_tensors_are_counted_and_named(file: Path) -> None:
    def change(_: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors["fc.scale"] = tensors.pop("fc.bias")

    damage(file, change)
    with pytest.raises(CheckpointError, match=r"lacks 1 that the model has: fc\.bias.*has 1 that.*lacks: fc\.scale"):
        nrfx.load(file, resnet())


def test_a_model_of_another_depth_is_refused(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"layer2\.1\.\S+ is CrossConv2d.* in the file and missing in the model"):
        nrfx.load(file, resnet((1, 1)))


def test_a_model_with_other_outputs_is_refused_with_both_shapes(file: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"fc\.weight is \[5, \d+\] in the file and \[7, 16\] in the model|fc\.bias is \[5\].*\[7\]",
    ):
        nrfx.load(file, resnet(classes=7))


def test_a_model_with_another_kernel_is_refused(file: Path) -> None:
    model = resnet()
    model.conv1 = nn.Conv2d(3, 8, 5, padding=2, bias=False)
    with pytest.raises(CheckpointError, match=r"conv1\S* is \[\d+, 3, 3, 3\] in the file and \[8, 3, 5, 5\]"):
        nrfx.load(file, model)


def test_a_model_with_another_dilation_in_a_cross_layer_is_refused(file: Path) -> None:
    model = resnet()
    model.layer2[1].conv1 = nn.Conv2d(16, 16, 3, padding=2, dilation=2, bias=False)
    with pytest.raises(
        CheckpointError, match=r"layer2\.1\.conv1 is CrossConv2d.*in the file and Conv2d.*dilation=\(2, 2\)"
    ):
        nrfx.load(file, model)


def test_a_model_that_has_cross_layers_already_is_refused_where_the_file_has_none(tmp_path: Path) -> None:
    gm = nrfx.trace(calibrated(resnet()), image())
    nrfx.save(tmp_path / "plain", gm)
    with pytest.raises(CheckpointError, match="is a cross layer in the model and a plain one in the file"):
        nrfx.load(tmp_path / "plain", rejuvenated(resnet))


def test_widths_that_do_not_meet_are_refused_by_the_node(file: Path) -> None:
    def change(_: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("bn1.") and tensors[name].dim()]:
            tensors[name] = tensors[name][:-1].clone()

    damage(file, change)
    with pytest.raises(CheckpointError, match=r"Node bn1 .*a norm over \[\d+\] got \[\d+\]"):
        nrfx.load(file, resnet())


def test_blocks_that_are_not_those_of_their_cross_layer_are_refused(file: Path) -> None:
    def change(_: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        name = next(name for name in tensors if name.endswith("weights.0") and "/" not in name)
        tensors[name] = tensors[name][:-1].clone()

    damage(file, change)
    with pytest.raises(CheckpointError, match=r"weights\.0 is \["):
        nrfx.load(file, resnet())


def test_an_optimizer_that_does_not_fit_is_refused_and_left_alone(file: Path) -> None:
    model, other = resnet(), resnet()
    two = [{"params": [p]} for p in model.parameters()]
    cases: list[tuple[Optimizer, str]] = [
        (AdamW(model.parameters()), "holds the state of a SGD, and the optimizer is a AdamW"),
        (SGD(two, lr=0.1), r"has 1 groups of parameters, and the one given has \d+"),
        (SGD(other.parameters(), lr=0.1), "that the module does not have"),
    ]
    for optimizer, message in cases:
        before = [list(group["params"]) for group in optimizer.param_groups]
        with pytest.raises(CheckpointError, match=message):
            nrfx.load(file, model, optimizer)
        assert all(
            a is b
            for x, y in zip(before, optimizer.param_groups, strict=True)
            for a, b in zip(x, y["params"], strict=True)
        )


def test_an_optimizer_or_rejuvenator_that_was_not_saved_is_refused(file: Path, tmp_path: Path) -> None:
    gm = nrfx.trace(resnet().double(), image())
    optimizer = SGD(gm.parameters(), lr=0.1)
    nr = Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0))
    with pytest.raises(CheckpointError, match="holds no rejuvenator"):
        nrfx.load(file, gm, optimizer, nr)
    nrfx.save(tmp_path / "bare", gm)
    with pytest.raises(CheckpointError, match="holds no optimizer"):
        nrfx.load(tmp_path / "bare", gm, optimizer)


def test_what_does_not_belong_together_is_not_saved(tmp_path: Path) -> None:
    gm, other = nrfx.trace(resnet(), image(torch.float32)), nrfx.trace(resnet(), image(torch.float32))
    optimizer = SGD(gm.parameters(), lr=0.1)
    nr = Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0))
    for arguments, message in (
        ((other, optimizer), "trains 26 parameters that the module does not have"),
        ((other, SGD(other.parameters(), lr=0.1), nr), r"save rejuvenator\.module"),
        ((gm, None, nr), "pass optimizer="),
        ((resnet(),), "got a ResNet, which is not a traced module"),
        ((fx.symbolic_trace(resnet()),), r"Trace its model with nrfx\.trace"),
    ):
        with pytest.raises(CheckpointError, match=message):
            nrfx.save(tmp_path / "net", *arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"net cannot be written: there is no folder .*missing"):
        nrfx.save(tmp_path / "missing" / "net", nrfx.trace(nn.Linear(2, 2), torch.zeros(1, 2)))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "net").write_text("old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"net cannot be written .No space left on device"):
        nrfx.save(tmp_path / "net", nrfx.trace(nn.Linear(2, 2), torch.zeros(1, 2)))
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    assert (tmp_path / "net").read_text() == "old"


def test_a_value_that_is_no_number_or_text_is_not_pickled(tmp_path: Path) -> None:
    gm = nrfx.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    optimizer = SGD(gm.parameters(), lr=0.1)
    optimizer.param_groups[0]["rule"] = re.compile("x")
    with pytest.raises(CheckpointError, match=r"optimizer/groups/0/options/rule is a Pattern"):
        nrfx.save(tmp_path / "net", gm, optimizer)


# What comes back


@pytest.mark.parametrize(
    ("name", "scheme"),
    [*((name, "attention") for name in MODELS), *((name, "removed") for name in MODELS), ("mobilenet", "dense")],
)
def test_a_rejuvenated_network_comes_back_equal(tmp_path: Path, name: str, scheme: str) -> None:
    gm = rejuvenated(MODELS[name], scheme)
    nrfx.save(tmp_path / "net", gm)
    fresh = MODELS[name]()
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    loaded = nrfx.load(tmp_path / "net", fresh)
    assert_same(gm, loaded, image())
    assert nrfx.utilization(loaded).to_json() == nrfx.utilization(gm).to_json()
    assert all(torch.equal(before[key], value) for key, value in fresh.state_dict().items())


@pytest.mark.parametrize("scheme", ["attention", "removed"])
def test_two_rejuvenations_in_a_row_come_back_equal_and_can_be_followed_by_a_third(tmp_path: Path, scheme: str) -> None:
    gm = rejuvenated(resnet, scheme, times=2)
    generations = max(len(m.in_generations) for m in gm.modules() if isinstance(m, CrossConv2d))
    assert generations == 3
    nrfx.save(tmp_path / "net", gm)
    loaded = nrfx.load(tmp_path / "net", resnet())
    assert_same(gm, loaded, image())
    budget = nrfx.Budget.relative(loaded, params=1.2)
    result = nrfx.rejuvenate(loaded, budget)
    nrfx.verify(loaded, result, image())


def test_an_unchanged_network_comes_back_equal(tmp_path: Path) -> None:
    gm = nrfx.trace(mobilenet(), image(torch.float32))
    nrfx.save(tmp_path / "net", gm)
    assert_same(gm, nrfx.load(tmp_path / "net", mobilenet()), image(torch.float32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_stored_dtype_comes_back_into_a_float32_model(tmp_path: Path, dtype: torch.dtype) -> None:
    gm = nrfx.compact(nrfx.trace(with_dead(resnet()).to(dtype), image(dtype))).module
    nrfx.save(tmp_path / "net", gm)
    fresh = resnet()
    assert_same(gm, nrfx.load(tmp_path / "net", fresh), image(dtype))
    assert fresh.conv1.weight.dtype == torch.float32


def test_channels_last_comes_back_as_channels_last(tmp_path: Path) -> None:
    gm = rejuvenated(resnet).to(memory_format=torch.channels_last)
    nrfx.save(tmp_path / "net", gm)
    assert_same(gm, nrfx.load(tmp_path / "net", resnet()), image())


def test_frozen_parameters_and_modes_come_back(tmp_path: Path) -> None:
    gm = rejuvenated(resnet).train()
    gm.get_submodule("bn1").eval()
    gm.get_parameter("fc.weight").requires_grad_(False)
    nrfx.save(tmp_path / "net", gm)
    loaded = nrfx.load(tmp_path / "net", resnet())
    assert loaded.training and not loaded.get_submodule("bn1").training
    assert_same(gm, loaded, image())


class Tied(nn.Module):
    """Two heads that share their weight, and one of them under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = vgg_bn(classes=6)
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight, self.again = self.a.weight, self.a

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.a(x) + self.b(x).relu() + self.again(x).tanh()


def test_tied_parameters_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    gm = rejuvenated(Tied)
    nrfx.save(tmp_path / "net", gm)
    loaded = nrfx.load(tmp_path / "net", Tied())
    assert loaded.get_parameter("a.weight") is loaded.get_parameter("b.weight")
    assert loaded.get_submodule("again") is loaded.get_submodule("a")
    assert not {"b.weight", "again.weight"} & load_file(tmp_path / "net").keys()
    assert_same(gm, loaded, image())


def test_ties_that_the_model_cannot_have_are_refused(tmp_path: Path) -> None:
    model = Tied()
    model.again = nn.Linear(6, 6)
    nrfx.save(tmp_path / "net", nrfx.trace(model, image(torch.float32)))
    with pytest.raises(CheckpointError, match=r"not tied in the same way in the model: again"):
        nrfx.load(tmp_path / "net", Tied())


def test_a_graph_module_of_the_users_own_is_saved_and_loaded_into(tmp_path: Path) -> None:
    gm = fx.symbolic_trace(calibrated(vgg_bn()))
    next(iter(gm.graph.nodes)).meta["val"] = image()
    nrfx.save(tmp_path / "net", gm)
    for model in (fx.symbolic_trace(vgg_bn()), vgg_bn(), nrfx.trace(vgg_bn(), image(torch.float32))):
        torch.testing.assert_close(nrfx.load(tmp_path / "net", model)(image()), gm(image()), rtol=0, atol=0)


def test_a_model_without_data_is_loaded_on_the_cpu(tmp_path: Path) -> None:
    gm = rejuvenated(resnet)
    nrfx.save(tmp_path / "net", gm)
    with torch.device("meta"):
        fresh = resnet()
    assert_same(gm, nrfx.load(tmp_path / "net", fresh), image())


def test_a_file_replaces_another_also_the_one_that_was_loaded(tmp_path: Path) -> None:
    nrfx.save(tmp_path / "net", rejuvenated(resnet, "dense"))
    gm = rejuvenated(resnet)
    first = nrfx.load(tmp_path / "net", resnet())
    nrfx.save(tmp_path / "net", gm)
    assert_same(first, first, image())
    assert_same(gm, nrfx.load(tmp_path / "net", resnet()), image())
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


# A run that goes on


def train(module: nn.Module, optimizer: Optimizer, steps: range, nr: Rejuvenator | None = None) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        module = module if nr is None else nr.module
        loss = F.cross_entropy(module(torch.randn(4, *IMAGE[1:], generator=generator)), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        if nr is not None:
            nr.penalize()
        optimizer.step()
        if nr is not None:
            nr.step()


def sgd(module: nn.Module) -> Optimizer:
    return SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, nesterov=True)


def adamw(module: nn.Module) -> Optimizer:
    return AdamW(module.parameters(), lr=1e-3, betas=(0.8, 0.99), amsgrad=True)


def in_two_groups(module: nn.Module) -> Optimizer:
    norms = [p for name, p in module.named_parameters() if p.dim() == 1]
    rest = [p for name, p in module.named_parameters() if p.dim() > 1]
    return SGD([{"params": rest, "lr": 0.1}, {"params": norms, "weight_decay": 0.0}], lr=0.05, momentum=0.9)


def by_name(module: nn.Module) -> Optimizer:
    return AdamW(module.named_parameters(), lr=torch.tensor(1e-3), foreach=False)


@pytest.mark.parametrize(
    ("make", "remake", "scheme"),
    [
        (sgd, sgd, "attention"),
        (sgd, sgd, "removed"),
        (adamw, adamw, "attention"),
        (adamw, adamw, "removed"),
        (in_two_groups, in_two_groups, "removed"),
        (in_two_groups, sgd, "removed"),
        (by_name, by_name, "removed"),
    ],
)
def test_training_goes_on_as_if_it_had_never_stopped(
    tmp_path: Path, make: Callable[..., Optimizer], remake: Callable[..., Optimizer], scheme: str
) -> None:
    gm = nrfx.trace(with_dead(resnet()).train(), image(torch.float32))
    optimizer = make(gm)
    train(gm, optimizer, range(2))
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.1), scheme=scheme)
    migrate(optimizer, gm, result)
    train(result.module, optimizer, range(2, 4))
    optimizer.param_groups[0]["lr"] *= 0.5
    nrfx.save(tmp_path / "net", result.module, optimizer)

    fresh = resnet()
    resumed = remake(fresh)
    loaded = nrfx.load(tmp_path / "net", fresh, resumed)
    train(result.module, optimizer, range(4, 7))
    train(loaded, resumed, range(4, 7))
    assert_same(result.module.eval(), loaded.eval(), image(torch.float32))
    assert [len(g["params"]) for g in resumed.param_groups] == [len(g["params"]) for g in optimizer.param_groups]
    assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def rejuvenator(module: nn.Module, optimizer: Optimizer) -> Rejuvenator:
    return Rejuvenator(module, optimizer, nrfx.Budget(params=9_000), 0.9, 3, threshold=0.1, max_events=2, until=9)


def train_to_an_event(nr: Rejuvenator, steps: range) -> None:
    """Kills half of the channels, and trains over the next measurement and a step beyond."""
    with torch.no_grad():
        for norm in norms(nr.module):
            norm.weight[::2] = 0
    torch.manual_seed(5)
    train(nr.module, nr.optimizer, steps, nr)


def test_a_rejuvenator_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    gm = nrfx.trace(resnet().train(), image(torch.float32))
    nr = rejuvenator(gm, SGD(gm.parameters(), lr=1e-3, momentum=0.9))
    train_to_an_event(nr, range(4))
    assert nr.events == 1
    nrfx.save(tmp_path / "net", nr.module, nr.optimizer, nr)

    fresh = nrfx.trace(resnet().train(), image(torch.float32))
    resumed = rejuvenator(fresh, SGD(fresh.parameters(), lr=1e-3, momentum=0.9))
    loaded = nrfx.load(tmp_path / "net", fresh, resumed.optimizer, resumed)
    assert resumed.module is loaded
    assert resumed.state_dict() == nr.state_dict()
    train_to_an_event(nr, range(4, 8))
    train_to_an_event(resumed, range(4, 8))
    assert nr.events == 2
    assert resumed.state_dict() == nr.state_dict()
    assert_same(nr.module.eval(), resumed.module.eval(), image(torch.float32))


def test_a_rejuvenator_state_that_is_refused_leaves_the_optimizer_alone(tmp_path: Path) -> None:
    gm = nrfx.trace(resnet(), image(torch.float32))
    optimizer = sgd(gm)
    nr = rejuvenator(gm, optimizer)
    nrfx.save(tmp_path / "net", gm, optimizer, nr)
    damage(tmp_path / "net", lambda content, _: content["rejuvenator"]["dict"].pop("lam"))
    with pytest.raises(CheckpointError, match="rejuvenator's state is refused"):
        nrfx.load(tmp_path / "net", gm, optimizer, nr)
    assert nr.module is gm
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], gm.parameters(), strict=True))
