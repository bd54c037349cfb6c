"""save and load: what does not fit is refused by name, and changes nothing."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn
from torch.optim import SGD, AdamW, Optimizer

import nrfx
from nrfx.errors import CheckpointError
from nrfx.training.rejuvenator import Rejuvenator
from tests.checkpoint.saved import damage, image
from tests.zoo import resnet


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
    (lambda c: c["plan"].update(frozen=["gone"]), r"plan.frozen is \('gone',\), and the network .* has \(\)"),
    (lambda c: c["plan"].update(channels_last=["fc.bias"]), r"plan.channels_last is \('fc.bias',\), and"),
    (lambda c: c["plan"].update(norms={"bn1": 8}), "plan.norms is {'bn1': 8}, and"),
    (lambda c: c["plan"]["layers"].append(c["plan"]["layers"][0]), "plan.layers is .*, and the network"),
    (lambda c: c["plan"]["aliases"].update({"fc.bias": "fc.gone"}), "fc.gone is tied to another name"),
    (lambda c: c["plan"]["layers"][0]["config"].update(scheme=3), "config.scheme is 3; expected 'attention' or"),
    (lambda c: c["plan"]["layers"][0]["config"].update(out_generations=[2**70]), "has 1 out_generations of .* numbers"),
    (lambda c: c["plan"]["layers"][0]["config"].update(in_generations=[-(10**9)]), "has 1 in_generations of .*"),
    (lambda c: c["plan"]["layers"][0]["config"].update(present=[[0]] * 9), "its layer .* cannot be made"),
    (lambda c: c["plan"]["layers"][0]["config"].update(groups=1), "'plan.layers.0.config.groups' is unknown"),
    (lambda c: c["plan"]["layers"][0]["config"].update(in_runs=[[1]]), r"in_runs.0.1.* is missing|lacks"),
    (lambda c: c["plan"]["layers"][0]["config"].pop("bias"), "lacks 'plan.layers.0.config.bias'"),
    (lambda c: c["plan"].update(literals={"eval": {"v": {"0": "text"}}}), "plan.literals.eval.v.0.* is 'text'"),
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
    (lambda o: o.update(state={"dict": {"fc.gone": {"dict": {}}}}), "trains what the network does not have: fc.gone"),
    (lambda o: o["groups"][0]["dict"]["names"].remove("fc.bias"), "state of what it does not train: fc.bias"),
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


@pytest.mark.parametrize(("make", "change", "words"), [
    (SGD, lambda _, t: t.update(momentum_buffer=torch.zeros(5)), r"\[5\] of float32; expected a tensor \[5, "),
    (SGD, lambda _, t: t.update(momentum_buffer=t["momentum_buffer"].long()), "of int64; expected a tensor"),
    (SGD, lambda s, _: s.update(sum=3), "state of fc.weight: 'sum' is unknown; expected momentum_buffer"),
    (SGD, lambda s, _: s.update(momentum_buffer="x"), "momentum_buffer is 'x'; expected a tensor"),
    (AdamW, lambda _, t: t.update(exp_avg=t["exp_avg"].float()), "of float32; expected a tensor .* of float64"),
    (AdamW, lambda _, t: t.update(step=torch.ones(2)), r"step is a tensor \[2\] of float32; expected one"),
    (AdamW, lambda s, _: s.update(step=3), "step is 3; expected one floating-point number as a tensor"),
    (AdamW, lambda s, _: s.pop("exp_avg_sq"), "'exp_avg_sq' is missing; expected step, exp_avg, exp_avg_sq"),
    (AdamW, lambda s, _: s.update(exp_avg=None), "exp_avg is None; expected a tensor"),
])  # fmt: skip
def test_state_that_does_not_fit_its_parameter_is_refused_when_it_is_loaded(
    make: Callable[..., Optimizer], change: Callable[[dict[str, Any], dict[str, Tensor]], Any], words: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    gm = nrfx.trace(resnet().double(), image())
    optimizer = make(gm.parameters(), lr=0.1, **({"momentum": 0.9} if make is SGD else {}))
    gm(image()).sum().backward()
    optimizer.step()
    nrfx.save(tmp_path / "net", gm, optimizer)

    def of_fc(content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        place = "optimizer/state/fc.weight/"
        own = {name.removeprefix(place): tensors.pop(name) for name in list(tensors) if name.startswith(place)}
        state = content["optimizer"]["dict"]["state"]["dict"]["fc.weight"]["dict"]
        change(state, own)
        tensors |= {place + key: tensor for key, tensor in own.items() if isinstance(state.get(key), dict)}

    damage(tmp_path / "net", of_fc)
    fresh = resnet()
    other = make(fresh.parameters(), lr=0.3)
    with pytest.raises(CheckpointError, match=words):
        nrfx.load(tmp_path / "net", fresh, other)
    assert other.param_groups[0]["lr"] == 0.3 and not other.state


@pytest.mark.parametrize(("change", "words"), [
    (lambda o: o["options"]["dict"].update(lr="high"), "option lr is 'high'; expected a number, such as 0.1"),
    (lambda o: o["options"]["dict"].update(nesterov=1), "option nesterov is 1; expected true, false or none"),
    (lambda o: o["options"]["dict"].update(momentum=[0.9]), r"option momentum is \[0.9\]; expected a number"),
    (lambda o: o["options"]["dict"].update(lr=2**70), "option lr is 1180591620717411303424; expected 64 bits"),
    (lambda o: o["names"].append(o["names"][0]), "its optimizer trains conv1.weight more than once"),
])  # fmt: skip
def test_options_of_another_kind_are_refused(file: Path, change: Callable[[dict[str, Any]], Any], words: str) -> None:
    damage(file, lambda content, _: change(content["optimizer"]["dict"]["groups"][0]["dict"]))
    model = resnet()
    with pytest.raises(CheckpointError, match=words):
        nrfx.load(file, model, SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize(("change", "words"), [
    ({"in_generations": [10**8, 1], "out_generations": [1, 1]}, "has 2 in_generations of 100000001 channels, and all"),
    ({"in_generations": [1] * 10**6, "out_generations": [1] * 10**6}, "1000000 in_generations of 1000000 channels"),
    ({"in_generations": [1] + [0] * 10**6, "out_generations": [1] + [0] * 10**6}, "1000001 in_generations of 1 chan"),
])  # fmt: skip
def test_a_layer_larger_than_what_the_file_holds_is_refused_in_no_time(
    file: Path, change: dict[str, Any], words: str
) -> None:
    damage(file, lambda content, _: content["plan"]["layers"][0]["config"].update(change, in_runs=[], present=None))
    began = time.process_time()
    with pytest.raises(CheckpointError, match=words):
        nrfx.load(file, resnet())
    assert time.process_time() - began < 5


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
