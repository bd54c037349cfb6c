"""Weights from files as training scripts leave them: found, said, or refused with the keys there are."""

import argparse
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import nrfx
from nrfx.cli.commands import main
from nrfx.errors import CheckpointError
from nrfx.models import resolve
from nrfx.tracing.graph.stated import KEY
from tests import zoo
from tests.checkpoint.saved import image, rejuvenated
from tests.cli.running import IMAGE

State = dict[str, Tensor]


def state_of(seed: int = 1) -> State:
    torch.manual_seed(seed)
    return dict(zoo.resnet().state_dict())


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def averaged(state: State) -> State:
    model = zoo.resnet()
    model.load_state_dict(state)
    return dict(AveragedModel(nn.DataParallel(model), multi_avg_fn=get_ema_multi_avg_fn(0.9)).state_dict())


def lightning(state: State) -> dict[str, Any]:
    return {
        "epoch": 3, "global_step": 300, "pytorch-lightning_version": "2.4.0",
        "state_dict": under("model.", state) | {"criterion.weight": torch.ones(5)},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.9), "best_k_models": {}}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"params": [0]}]}],
        "lr_schedulers": [{"last_epoch": 3, "_last_lr": [0.1]}],
        "hparams_name": "kwargs", "hyper_parameters": {"lr": 0.1},
    }  # fmt: skip


def timm_file(state: State) -> dict[str, Any]:
    return {
        "epoch": 9, "arch": "resnet18", "state_dict": state, "version": 2, "metric": np.float64(71.5),
        "args": argparse.Namespace(model="resnet18", lr=0.1, img_size=None, betas=[0.9, 0.999]),
        "optimizer": {"state": {0: {"step": torch.tensor(4.0), "exp_avg": torch.ones(3)}}, "param_groups": []},
        "amp_scaler": {"scale": 65536.0, "growth_factor": 2.0}, "best": (np.float32(1.5), np.int64(3), np.bool_(True)),
    }  # fmt: skip


FORMS: dict[str, tuple[Callable[[State], Any], str]] = {
    "a plain state dict": (lambda state: state, ""),
    "an ordered one": (OrderedDict, ""),
    **{
        key: (lambda state, key=key: {key: state, "epoch": 3, "optimizer": {"state": {}}}, f"{key!r} was")
        for key in (
            "state_dict", "model", "net", "model_state_dict", "module", "ema", "state_dict_ema", "params", "params_ema",
            "weights",
        )
    },
    **{
        prefix: (lambda state, prefix=prefix: under(prefix, state), f"{prefix!r} was taken off")
        for prefix in ("module.", "_orig_mod.", "model.", "module._orig_mod.", "net.", "backbone.", "student.backbone.")
    },
    "both": (lambda state: {"state_dict": under("module.", state)}, "'state_dict' was taken; 'module.' was taken off"),
    "nested twice": (lambda state: {"checkpoint": {"model": state, "step": 1}}, "'checkpoint.model' was"),
    "of timm, with its arguments": (timm_file, "'state_dict' was"),
    "of Lightning": (lightning, "'model.' was taken off before the names; criterion.weight left out"),
    "without counters of batches": (lambda state: {n: t for n, t in state.items() if "num_batches" not in n}, ""),
    "in half precision": (
        lambda state: {n: t.half() if t.is_floating_point() else t for n, t in state.items()}, "float16 to float32",
    ),
    "an average under DDP": (averaged, "'module.module.' was taken off before the names; n_averaged left out"),
    "parameters": (lambda state: {n: nn.Parameter(t) if t.is_floating_point() else t for n, t in state.items()}, ""),
    "with a head for something else": (
        lambda state: under("backbone.", state) | {"head.weight": torch.ones(2)}, "head.weight left out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", list(FORMS))
def test_weights_are_found_in_what_training_scripts_write_and_what_was_done_is_said(tmp_path: Path, form: str) -> None:
    make, words = FORMS[form]
    state = state_of()
    torch.save(make(state), tmp_path / "ckpt.pt")
    resolved = resolve("tests.zoo:resnet", weights=str(tmp_path / "ckpt.pt"))
    loaded = resolved.module.state_dict()
    tolerance = 1e-2 if "half" in form else 0.0
    assert all(
        torch.allclose(loaded[name], state[name], rtol=0, atol=tolerance) for name in state if "num_b" not in name
    )
    assert words in " ".join(resolved.notes) and bool(words) == bool(resolved.notes)


def test_there_are_twenty_forms_and_more() -> None:
    assert len(FORMS) >= 20


def test_safetensors_and_the_old_format_of_torch_are_read(tmp_path: Path) -> None:
    state = state_of()
    save_file(under("model.", state), tmp_path / "model.safetensors")
    torch.save({"model": state}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("model.safetensors", "old.pt"):
        loaded = resolve("tests.zoo:resnet", weights=str(tmp_path / name)).module
        assert torch.equal(loaded.get_parameter("conv1.weight"), state["conv1.weight"])


CHOICES = {"model": "", "ema": "", "nested.teacher": "", "flat.student": "student.", "flat.average": "average."}


@pytest.fixture
def several(tmp_path: Path) -> Path:
    states = {key: state_of(seed) for seed, key in enumerate(CHOICES)}
    flat = under("student.", states["flat.student"]) | under("average.", states["flat.average"])
    content = {
        "model": states["model"],
        "ema": states["ema"],
        "nested": {"teacher": states["nested.teacher"]},
        "flat": flat,
    }
    torch.save(content, tmp_path / "several.pt")
    return tmp_path / "several.pt"


def test_of_several_state_dicts_none_is_taken_and_a_key_chooses_one(several: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds 5 state dicts that may be meant\. Choose one") as caught:
        resolve("tests.zoo:resnet", weights=str(several))
    for seed, key in enumerate(CHOICES):
        assert f"{several}:{key}" in str(caught.value)
        loaded = resolve("tests.zoo:resnet", weights=f"{several}:{key}").module
        assert torch.equal(loaded.get_parameter("fc.weight"), state_of(seed)["fc.weight"])
    with pytest.raises(
        CheckpointError, match=r"holds 2 state dicts.*several.pt:flat.student, .*several.pt:flat.average"
    ):
        resolve("tests.zoo:resnet", weights=f"{several}:flat")
    for key in ("teacher", "nested", "model.conv1", "emaa"):
        with pytest.raises(
            CheckpointError, match=f"no weights at '{key}'. Its state dicts are at model, ema, nested.teacher"
        ):
            resolve("tests.zoo:resnet", weights=f"{several}:{key}")


def test_a_file_with_a_colon_in_its_name_is_that_file(tmp_path: Path) -> None:
    torch.save({"ema": state_of()}, tmp_path / "step:100")
    resolve("tests.zoo:resnet", weights=str(tmp_path / "step:100"))
    resolve("tests.zoo:resnet", weights=f"{tmp_path / 'step:100'}:ema")


REFUSED: dict[str, tuple[Any, str]] = {
    "a whole model": (
        nn.Sequential(nn.Linear(2, 2)),
        r"a pickled model rather than its state_dict, for it holds objects of torch.nn.modules.container.Sequential",
    ),
    "a model in a nest": ({"model": nn.Linear(2, 2), "epoch": 3}, r"objects of torch\.nn\.modules\.linear\.Linear"),
    "a path among the arguments": ({"args": argparse.Namespace(out=PurePosixPath("a"))}, r"objects of pathlib"),
    "an optimizer alone": ({"optimizer": {"state": {}, "param_groups": []}}, "holds no state_dict but a dict"),
    "a number": (3, "holds no state_dict but a int"),
    "of another model": (
        {"model": zoo.vgg_bn().state_dict()},
        r"missing \(first conv1.weight\).*unknown to the model \(first 0.weight\)",
    ),
    "in another shape": (under("module.", {**state_of(), "fc.weight": torch.ones(7, 16)}), r"fc.weight is \[7, 16\]"),
    "with names the model lacks": (
        {"net": {**state_of(), "conv9.weight": torch.ones(1)}},
        r"unknown to the model \(first conv9.weight\)",
    ),
    "half of a model": (
        under("module.", {name: tensor for name, tensor in state_of().items() if name != "bn1.bias"}),
        r"1 tensor is missing \(first bn1.bias\)",
    ),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_is_no_weights_of_the_model_is_refused_with_words(tmp_path: Path, what: str) -> None:
    content, words = REFUSED[what]
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=words) as caught:
        resolve("tests.zoo:resnet", weights=str(tmp_path / "ckpt.pt"))
    assert "ckpt.pt" in str(caught.value) and "weights_only" not in str(caught.value)


class Tripwire:
    """An object whose unpickling would be noticed."""

    tripped = False

    def __reduce__(self) -> tuple[Any, ...]:
        return trip, ()


def trip() -> None:
    Tripwire.tripped = True


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"state_dict": state_of(), "callback": Tripwire()}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"objects of tests\.models\.test_weights\.trip"):
        resolve("tests.zoo:resnet", weights=str(tmp_path / "ckpt.pt"))
    assert not Tripwire.tripped


def test_an_index_of_shards_and_a_folder_are_refused_with_words(tmp_path: Path) -> None:
    index = {"weight_map": {"conv1.weight": "a-1.safetensors", "fc.weight": "a-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text("{}")
    for name, words in {
        "model.safetensors.index.json": r"index of weights in 2 files \(a-1.safetensors, a-2.safetensors\)",
        "config.json": "is JSON and holds no weights",
        "": "is a folder",
    }.items():
        with pytest.raises(CheckpointError, match=words):
            resolve("tests.zoo:resnet", weights=str(tmp_path / name))


def test_a_checkpoint_of_a_rewritten_network_gives_that_network(tmp_path: Path) -> None:
    gm = rejuvenated(zoo.resnet).float().eval()
    content = {"epoch": 3, "state_dict": under("model.", gm.state_dict()) | {"criterion.weight": torch.ones(5)}}
    torch.save(content, tmp_path / "last.ckpt")
    resolved = resolve("tests.zoo:resnet", weights=str(tmp_path / "last.ckpt"))
    assert "rewritten network, which was built" in resolved.notes[-1]
    x = image(torch.float32)
    assert torch.equal(resolved.module.eval()(x), gm(x))
    with pytest.raises(CheckpointError, match="does not fit"):
        resolve("tests.zoo:vgg_bn", weights=str(tmp_path / "last.ckpt"))
    del content["state_dict"][f"model.{KEY}"]
    torch.save(content, tmp_path / "lost.ckpt")
    with pytest.raises(CheckpointError, match="does not fit"):
        resolve("tests.zoo:resnet", weights=str(tmp_path / "lost.ckpt"))


def test_a_file_of_nrfx_takes_no_key(tmp_path: Path) -> None:
    nrfx.save(tmp_path / "net.safetensors", rejuvenated(zoo.resnet))
    resolve("tests.zoo:resnet", weights=str(tmp_path / "net.safetensors"))
    with pytest.raises(CheckpointError, match=r"written by nrfx\.save and holds one network: leave out ':ema'"):
        resolve("tests.zoo:resnet", weights=f"{tmp_path / 'net.safetensors'}:ema")


def test_the_command_line_says_on_stderr_what_it_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": state_of(), "ema": under("module.", state_of(2))}, tmp_path / "ckpt.pt")
    weights = ["--weights", f"{tmp_path / 'ckpt.pt'}:ema"]
    assert main(["inspect", "tests.zoo:resnet", *IMAGE, *weights, "--json"]) == 0
    captured = capsys.readouterr()
    json.loads(captured.out)
    assert (
        captured.err == f"nrfx: Of {tmp_path / 'ckpt.pt'}, 'ema' was taken; 'module.' was taken off before the names.\n"
    )
