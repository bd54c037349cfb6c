"""Which of the dead channels 2, 3, 5 and 7 of `before` can go, pattern by pattern. Their constants are positive.

Where a pattern says that `before.0` is free all of them go, else none; what is different stands here.
"""

ALL = "2 3 5 7"

DIES: dict[str, str] = {
    # their constants may follow from the number of positions, or of what is summed
    **dict.fromkeys(("stack", "unfold and fold", "scaled by numel"), ""),
    # free though no pattern says so
    **dict.fromkeys(
        (
            *("shuffle function", "pad module", "cat new zeros", "rot90", "rearrange by reshape"),
            *("lerp", "addcmul", "norm of tokens", "autocast region"),
            *("F.group_norm by a computed number of groups", "F.group_norm by groups of four", "F.linear", "x @ W"),
            *("einsum", "einsum of weight first", "masks times a vector", "masks times their positions"),
            *(
                "read after write",
                "read after write to itself",
                "frozen layers",
                "frozen norm",
                "frozen network",
                "cast",
            ),
            *("F.linear transposed", "leaky_relu_", "logarithm of more than one"),
            *("rotary positions of one head", "half of the products of channels"),
        ),
        ALL,
    ),
    # parts that different layers read
    **dict.fromkeys(
        (
            *("chunk", "chunk by method dim", "tensor_split", "split by size", "split by literal", "split by list"),
            *("slice", "slice by literal", "slice from the end", "slice and forget", "narrow", "index by list"),
            "cat zeros",
        ),
        ALL,
    ),
    "width as an index": "2 3",
    "kernels of several sizes": "2 3 7",
    # tied to channels of which some live
    "x + roll": "",
    "x + flip": "2 5",
    "pixel shuffle": "",
    "maxout": "",
    "maxout of halves": "3 7",
    "glu": "",
    "grouped of one a group": "5 7",
    # not constant behind zeros that are added, averaged in, or read at a border by groups of channels
    "pad shortcut": "3 5",
    "pad positions": "",
    "pad, add, convolve": "",
    "unfold and fold with overlap": "",
    "cat then grouped": "",
    "cat then uneven grouped": "",
    "transposed grouped": "",
    "grouped": "",
    "F.conv2d grouped": "2 3",
    "depthwise with multiplier": "",
    # statistics of the example, and positions that are told apart
    "GroupNorm": "",
    "GroupNorm without parameters": "",
    "GroupNorm of each channel": "",
    "GroupNorm on a view": "",
    "F.group_norm": "",
    "LayerNorm of positions": "",
    "triangle of positions": "",
    "InstanceNorm": "",
    "InstanceNorm affine": "",
    "cumsum of positions": "",
    "indices of the largest": "",
    # gates, and values that are not followed
    "squeeze and excite": "",
    "squeeze and excite of linear layers": "",
    "squeeze and excite with a norm": "",
    "spatial gate": "",
    "masks of two sources": "",
    "masks of two sources, added": "",
    "sum of integers": "2 3 5",
    "drop path": "",
    "cast to integers": "",
    "cast like integers": "",
    "nest of outputs": "",
    "einsum element by element": "",
    "product with a vector": "",
    # rows and positions that are picked by value, and what is added to them
    "embedding of positions": "",
    "index_select of positions": "",
    # numbers that weigh whole maps
    **dict.fromkeys((f"maps weighed {how}" for how in ("by a stack", "along the last dim", "by an einsum")), ""),
    **dict.fromkeys((f"maps weighed by {how}" for how in ("tensordot", "a product")), ""),
    # parameters and buffers that are no bias alone: what they multiply is not followed
    "layer scale": "",
    "layer scale by view": "",
    "layer scale by index": "",
    "layer scale in a residual": "",
    "scale of one": "",
    "scale without dims": "",
    "buffer scale": "",
    "parameter gate": "",
    "ParameterList": "",
    "position scale": "",
    "mixing parameter": "",
    "columns of a parameter": "",
}
