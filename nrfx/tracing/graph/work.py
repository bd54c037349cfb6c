"""The multiply-adds of one node, measured: it runs on meta tensors, and every operation that it calls is seen.

For ops that no rule describes. What torch's FlopCounterMode counts is counted, and some products of vectors that it
leaves out. Operations that act element by element, sum, view or move are free. Any other one is named, for it may do
multiply-adds.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from nrfx.rules import Unfit, attempt
from nrfx.rules.contraction import per_example
from nrfx.tracing.graph.clone import on_meta, shell
from nrfx.tracing.graph.shapes import resolved


@dataclass(frozen=True)
class Measured:
    """The multiply-adds of a node for one example, and the operations that may do more."""

    times: int
    unknown: tuple[str, ...]


def measured_work(
    root: nn.Module,
    node: fx.Node,
    batch: int,
    reached: Collection[fx.Node],
    first: Callable[[], Mapping[fx.Node, Any] | None],
) -> Measured | None:
    """What the node does at the shapes of the trace, in eval mode; None where it does not run without values.

    Some of it may not depend on the number of examples (a layer on a table of positions), so that it runs on the first
    example alone, where it can; else its multiply-adds for all of them are divided.

    Args:
        batch: examples that go into the node.
        reached: the nodes whose values hold something of each example.
        first: gives the values of all nodes for the first example (examples.py); asked where there are several.
    """
    of_all = _measured(root, node, tree_map(_own, (resolved(node.args), resolved(node.kwargs))))
    if of_all is None or batch == 1:
        return of_all
    of_one = _measured_on(root, node, _of_first(node, batch, reached, first()))
    return of_one or replace(of_all, times=per_example(of_all.times, batch))


def _of_first(
    node: fx.Node, batch: int, reached: Collection[fx.Node], known: Mapping[fx.Node, Any] | None
) -> Mapping[fx.Node, Any] | None:
    """The values that go into the node for the first example; None where they are not known.

    Where the graph takes no single example, the first dim of what holds something of each is taken for that of the
    examples if it has their number.
    """
    if known is not None and known.keys() >= set(node.all_input_nodes):
        return known
    given = {source: source.meta.get("val") for source in node.all_input_nodes}
    whole = [value for source, value in given.items() if source in reached]
    if not all(isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch for value in whole):
        return None
    return {source: value[:1] if source in reached else value for source, value in given.items()}  # type: ignore[index]


def _measured_on(root: nn.Module, node: fx.Node, values: Mapping[fx.Node, Any] | None) -> Measured | None:
    if values is None:
        return None
    arguments: Any = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    return _measured(root, node, tree_map(_own, arguments))


def _measured(root: nn.Module, node: fx.Node, arguments: Any) -> Measured | None:
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415  it loads triton, and few networks need it

    args, kwargs = arguments
    seen = _Seen()
    counter = FlopCounterMode(display=False, custom_mapping=_FURTHER)
    # entered first, and so asked last: of the operations that FlopCounterMode takes apart it sees the parts
    with torch.no_grad(), seen, counter:
        try:
            attempt(_function(root, node), *args, **kwargs)
        except Unfit:
            return None
    return Measured(counter.get_total_flops() // 2, tuple(seen.unknown))


def _own(value: Any) -> Any:
    """A tensor of its own, so that a change of its shape in place is not one of the graph's value."""
    return value.detach() if isinstance(value, Tensor) else value


def _function(root: nn.Module, node: fx.Node) -> Callable[..., Any]:
    target: Any = node.target
    if node.op == "call_module":
        return shell(root.get_submodule(target), on_meta).eval().forward
    return target if callable(target) else lambda me, *args, **kwargs: getattr(me, target)(*args, **kwargs)


class _Seen(TorchDispatchMode):
    """Notes the operations of which it is not known that they do no multiply-adds beyond what is counted."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.unknown: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _is_known(func):
            self.unknown[str(func.overloadpacket)] = None
        return func(*args, **(kwargs or {}))


def _is_known(func: Any) -> bool:
    from torch.utils.flop_counter import flop_registry  # noqa: PLC0415

    packet = func.overloadpacket
    if packet in flop_registry or packet in _FURTHER:
        return True
    if func.namespace not in ("aten", "prims"):
        return False
    free = func.is_view or torch.Tag.pointwise in func.tags or torch.Tag.reduction in func.tags
    name = packet.__name__.strip("_")
    return bool(free) or name in _FREE or name.removesuffix("_copy") in _FREE


_BY_NAME = (
    # made of sizes or numbers
    "arange empty empty_like empty_permuted empty_strided eye fill full full_like linspace logspace new_empty "
    "new_empty_strided new_full new_ones new_zeros ones ones_like scalar_tensor tril_indices triu_indices zero "
    "zeros zeros_like lift lift_fresh efficientzerotensor "
    # random
    "bernoulli multinomial native_dropout normal poisson rand rand_like randint randint_like randn randn_like "
    "random randperm uniform exponential "
    # copied, moved or chosen
    "alias as_strided as_strided_scatter block_diag cat channel_shuffle clone col2im constant_pad_nd copy "
    "diag_embed diagonal diagonal_scatter embedding expand flip gather im2col index index_add index_copy index_fill "
    "index_put index_put_impl unsafe_index unsafe_index_put unsafe_masked_index index_reduce index_select "
    "masked_fill masked_scatter masked_select narrow permute pixel_shuffle pixel_unshuffle put reflection_pad1d "
    "reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d "
    "replication_pad3d reshape resize resize_as roll rot90 scatter scatter_add scatter_reduce segment_reduce select "
    "select_scatter set slice slice_scatter split split_with_sizes unsafe_split unsafe_split_with_sizes squeeze "
    "stack t take to_copy transpose tril triu unbind unfold unsafe_view unsqueeze view pin_memory "
    # ordered or compared
    "bincount bucketize cummax cummin histc isin kthvalue median mode nanmedian nonzero nonzero_static searchsorted "
    "sort topk unique unique2 unique_consecutive unique_dim unique_dim_consecutive aminmax "
    # sums and statistics
    "cumprod cumsum logcumsumexp log_softmax softmax safe_softmax masked_softmax batch_norm_no_update "
    "batch_norm_with_update native_batch_norm native_batch_norm_legit native_batch_norm_legit_functional "
    "native_batch_norm_legit_no_training native_group_norm native_layer_norm native_norm renorm trace dist "
    "weight_norm_interface "
    # pooled or sampled
    "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d affine_grid_generator "
    "avg_pool2d avg_pool3d fractional_max_pool2d fractional_max_pool3d grid_sampler_2d grid_sampler_3d "
    "max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d upsample_bicubic2d "
    "upsample_bilinear2d upsample_linear1d upsample_trilinear3d upsample_bicubic2d_aa upsample_bilinear2d_aa "
    # element by element, without the tag
    "abs addr complex copysign eq floor_divide gcd ge gelu glu gt hardswish heaviside lcm le log_sigmoid_forward lt "
    "mish mse_loss ne polar prelu_kernel rrelu_with_noise rsub smooth_l1_loss huber_loss threshold xlogy detach "
    # checks and fake quantization
    "assert_async assert_tensor_metadata local_scalar_dense fused_moving_avg_obs_fq_helper "
    "fake_quantize_per_tensor_affine_cachemask fake_quantize_per_tensor_affine_cachemask_tensor_qparams "
    "fake_quantize_per_channel_affine_cachemask "
)
"""Operations of aten without multiply-adds that count, without the underscores at the ends of their names."""
_FREE = frozenset(_BY_NAME.split())


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    from torch.utils.flop_counter import sdpa_flop_count  # noqa: PLC0415

    return int(sdpa_flop_count(query, key, value))


def _product(left: Any, right: Any, *_: Any, **__: Any) -> int:
    """Of a matrix or a vector with a vector."""
    return 2 * int(prod(left))


def _added_product(_: Any, matrix: Any, *__: Any, **___: Any) -> int:
    return 2 * int(prod(matrix))


def _added_matrices(_: Any, left: Any, right: Any, *__: Any, **___: Any) -> int:
    return 2 * int(prod(left)) * int(right[-1])


_FURTHER: dict[Any, Any] = {
    torch.ops.aten.mv: _product,
    torch.ops.aten.dot: _product,
    torch.ops.aten.vdot: _product,
    torch.ops.aten.addmv: _added_product,
    torch.ops.aten.addmv_: _added_product,
    torch.ops.aten.addbmm: _added_matrices,
    torch.ops.aten.addbmm_: _added_matrices,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_fused_attention_overrideable: _attention,
}
"""The flops of further operations, two for a multiply-add, from the shapes of their arguments."""
