"""Files of rewritten networks, run by what reads them: they give what the network gives, or are not there."""

import importlib.util
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.choices import Suffix
from nrfx.deploy import compared, formats
from nrfx.deploy.export import export, format_of
from nrfx.errors import ExportError
from nrfx.tracing.graph.stated import KEY
from tests import zoo

SCHEMES = ("compact", "dense", "attention", "removed")
ROUNDING = 1e-4


def rewritten(scheme: str, model: nn.Module, x: Tensor) -> nrfx.TracedModule:
    """A network with dead channels after a rewrite, whose new channels have begun to learn: none of them gives 0."""
    gm = nrfx.trace(zoo.with_dead(model), x)
    if scheme == "compact":
        return nrfx.compact(gm).module.eval()
    module = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, flops=1.0), scheme=scheme).module
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def small(scheme: str = "attention") -> nrfx.TracedModule:
    model = nn.Sequential(*zoo.conv_bn(3, 8), nn.ReLU(), *zoo.conv_bn(8, 8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    return rewritten(scheme, model, torch.zeros(2, 3, 8, 8))


class Function(nn.Module):
    """A linear layer, and a function of its output and the input."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(4, 6), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer(x), x)


def traced(function: Callable[[Tensor, Tensor], Any], **options: Any) -> nrfx.TracedModule:
    return nrfx.trace(Function(function), torch.zeros(2, 4), **options).eval()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_rejuvenated_resnet_gives_the_same_in_onnxruntime(scheme: str, tmp_path: Path) -> None:
    module = rewritten(scheme, zoo.resnet((1,)), torch.zeros(zoo.IMAGE))
    exported = export(module, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x = torch.randn(batch, *zoo.IMAGE[1:], generator=torch.Generator().manual_seed(batch))
        (found,) = session.run(["output"], {"x": x.numpy()})
        assert (torch.from_numpy(found) - module(x)).abs().max() <= ROUNDING
    assert {node.domain for node in onnx.load(exported.path).graph.node} == {""}, "operations of ONNX itself"
    assert exported.difference is not None
    assert exported.difference <= ROUNDING and len(exported.compared) == 3
    assert exported.inputs == ("x [batch, 3, 16, 16] float32",)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("scheme", ["attention", "removed"])
def test_a_program_of_torch_export_has_plain_operations_and_takes_other_sizes(scheme: str, tmp_path: Path) -> None:
    module = small(scheme)
    exported = nrfx.export(module, tmp_path / "net.pt2", free="sizes")
    program = torch.export.load(exported.path)
    called = {node.target for node in program.graph.nodes if node.op == "call_function"} - {operator.getitem}
    assert {str(target).partition(".")[0] for target in called} == {"aten"}
    assert set(program.state_dict) == set(module.state_dict()) - {KEY}  # a program has its own graph
    x = torch.randn(5, 3, 11, 9)
    torch.testing.assert_close(program.module()(x), module(x))
    assert exported.inputs == ("input [batch, 3, input_2, input_3] float32",)
    assert len(exported.compared) == 6 and "net.pt2 (torch.export)" in str(exported)


def test_a_network_is_exported_in_eval_mode_and_left_in_its_own(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    module = nrfx.trace(model, torch.zeros(2, 4))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    exported = export(module, tmp_path / "net.pt2")
    x = torch.randn(3, 4)
    assert module.training and module.get_submodule("1").training
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())
    assert torch.equal(torch.export.load(exported.path).module()(x), module.eval()(x))


def test_tensors_of_nests_are_inputs_and_outputs_in_order(tmp_path: Path) -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 6)

        def forward(self, batch: dict[str, Tensor], *, scale: Tensor) -> dict[str, Any]:
            y = self.layer(batch["features"])
            return {"logits": y, "more": [y * scale]}

    model, x, scale = Nested().eval(), torch.randn(2, 4), torch.randn(2, 1)
    exported = export(model, tmp_path / "n.pt2", example_inputs=({"features": x},), kwargs={"scale": scale})
    assert exported.outputs == ("logits", "more_0")
    assert [line.partition(" ")[0] for line in exported.inputs] == ["batch_features", "scale"]
    expected = model({"features": x}, scale=scale)
    logits, more = torch.export.load(exported.path).module()(x, scale)
    assert torch.equal(logits, expected["logits"]) and torch.equal(more, expected["more"][0])


def test_a_batch_that_the_network_fixes_can_be_written_for_that_batch_alone(tmp_path: Path) -> None:
    gm = traced(lambda y, _: y.view(2, 6))
    with pytest.raises(ExportError, match=r"fixes a size that shall be free .*constant \(2\).*free='none'"):
        export(gm, tmp_path / "net.pt2")
    assert export(gm, tmp_path / "net.pt2", free="none").inputs == ("x [2, 4] float32",)


def test_a_size_that_the_file_does_not_take_is_said(tmp_path: Path) -> None:
    """The graph has one way, and so has the file; the network refuses the others, and nothing is compared there."""
    module = nrfx.trace(Sized(), torch.zeros(2, 3, 8, 8)).eval()
    exported = export(module, tmp_path / "net.pt2", free="sizes")
    assert [line for line in exported.compared if "[2, 3, 12, 8]" in line] == []
    assert any("[2, 3, 8, 12]" in line for line in exported.compared)


class Sized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.shape[2] < 10 else x


@torch.library.custom_op("nrfx_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


twice.register_fake(torch.empty_like)


def test_an_operator_of_the_users_own_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"ONNX cannot hold the network .*nrfx_tests\.twice.*Nothing was written"):
        export(traced(lambda y, _: twice(y)), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


class Routed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def pick(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.pick(x))


def test_a_call_that_depends_on_values_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    gm = nrfx.trace(Routed(), torch.zeros(2, 4), partial=True)
    with pytest.raises(ExportError, match=r"pick \(Routed\.pick\) is an opaque call"):
        export(gm, tmp_path / "net.pt2")
    assert capfd.readouterr() == ("", ""), "torch prints the graph where it stopped"


PLACES = {
    "net": "there is no suffix. Write NAME.onnx",
    "net.tflite": "'.tflite' is unknown. Write NAME.onnx",
    "absent/net.pt2": "there is no folder",
    "folder.pt2": "is a folder",
}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_where_nothing_can_be_written_is_refused_first(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(ExportError, match=PLACES[name]):
        export(nn.Linear(2, 2), tmp_path / name)


def test_free_has_three_values(tmp_path: Path) -> None:
    wrong: Any = "height"
    with pytest.raises(ExportError, match="free is 'height'; expected one of 'batch', 'sizes', 'none'"):
        export(nn.Linear(2, 2), tmp_path / "net.pt2", free=wrong)


def test_a_missing_package_is_named_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "onnxscript")
    with pytest.raises(ExportError, match=r"needs onnxscript, which is not installed: pip install 'nrfx\[export\]'"):
        format_of(tmp_path / "net.onnx")


def test_without_what_runs_a_file_it_is_there_and_a_note_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [kind.runs_by for kind in formats.FORMATS.values()] == ["onnxruntime", "torch"]
    without(monkeypatch, "torch")
    exported = export(traced(lambda y, _: y), tmp_path / "net.pt2")
    assert exported.path.exists() and exported.difference is None
    assert exported.notes == ("Not compared with the network: torch is not installed.",)


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == package else find(name))


def test_a_file_that_differs_is_not_left_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of before stays as it was."""
    (tmp_path / "net.pt2").write_text("of before")
    run = formats.FORMATS[".pt2"].runner

    def off(path: Path) -> formats.Run:
        return lambda inputs: [y + 0.001 * (len(inputs[0]) == 3) for y in run(path)(inputs)]

    monkeypatch.setitem(vars(formats.FORMATS[".pt2"]), "runner", off)
    with pytest.raises(ExportError, match=r"net\.pt2, on \[3, 4\]: output differs .* by \d\.\d\de-0[34]"):
        export(traced(lambda y, _: y), tmp_path / "net.pt2")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of before"]


@pytest.mark.parametrize(("changed", "said"), [(lambda y: y[:, 1:], r"\[2, 5\], and in the network \[2, 6\]"),
                                               (lambda y: y * torch.nan, "differs")])  # fmt: skip
def test_other_shapes_and_nan_are_differences(changed: Callable[[Tensor], Tensor], said: str) -> None:
    kind = formats.Format("", (), "torch", lambda *_: None, lambda _: lambda inputs: [changed(gm(*inputs))])
    gm, x = traced(lambda y, _: y), torch.randn(2, 4)
    with pytest.raises(ExportError, match=said):
        compared.compared(kind, Path("f"), gm, [x], [x], Path("f"))


def test_every_suffix_of_the_command_line_has_a_format() -> None:
    assert tuple(formats.FORMATS) == Suffix.__args__
