"""Networks to save, and what must be equal after loading."""

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import nrfx
from nrfx.tracing import TracedModule
from tests.zoo import IMAGE, aux_net, calibrated, densenet_preact, grouped, mobilenet, resnet, vgg_bn, with_dead

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


def damage(file: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> None:
    """Rewrites the file with other content or tensors."""
    with safe_open(file, "pt") as opened:
        content = json.loads(opened.metadata()["nrfx"])
    tensors = load_file(file)
    change(content, tensors)
    save_file(tensors, file, metadata={"nrfx": json.dumps(content)})
