"""Ways in which a file of `nrfx.save` may be changed: bytes, header, tensors, and the JSON of its plan.

A mutation takes a random generator and a File and returns bytes. The first table leaves the digests as they were: every
other content must be refused. Behind the second table, digests are written anew or left out, as earlier versions did:
schema and shapes alone must then tell what is no network.
"""

import json
import math
import random
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from benchmarks.soundness.changed_json import changed_text, changed_tree
from nrfx.checkpoint.digests import Digests


@dataclass(frozen=True)
class File:
    """A file that was taken apart: all bytes, the length of the header with its length before it, metadata, tensors."""

    whole: bytes
    start: int
    metadata: dict[str, str]
    tensors: dict[str, Tensor] = field(repr=False)

    @classmethod
    def of(cls, whole: bytes) -> "File":
        start = 8 + struct.unpack("<Q", whole[:8])[0]
        return cls(whole, start, json.loads(whole[8:start])["__metadata__"], dict(sorted(load(whole).items())))

    @property
    def header(self) -> dict[str, Any]:
        """The header of the safetensors format, as JSON."""
        read: dict[str, Any] = json.loads(self.whole[8 : self.start])
        return read

    @property
    def content(self) -> dict[str, Any]:
        """What nrfx keeps as JSON: plan, optimizer and rejuvenator."""
        read: dict[str, Any] = json.loads(self.metadata["nrfx"])
        return read

    def with_header(self, header: Any) -> bytes:
        return _joined(header, self.whole[self.start :])

    def packed(self, tensors: Mapping[str, Tensor] | None = None, **metadata: str) -> bytes:
        """With other tensors, or other entries of the metadata."""
        kept = {name: tensor.clone() for name, tensor in (self.tensors if tensors is None else tensors).items()}
        return written(kept, {**self.metadata, **metadata})


def written(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file, metadata in order: the library writes them in another order each time."""
    whole = save(tensors, metadata=metadata)
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8:start])
    return _joined({**header, "__metadata__": dict(sorted(metadata.items()))}, whole[start:])


def _joined(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


Mutation = Callable[[random.Random, File], bytes]


# Bytes


def flip(draw: random.Random, file: File) -> bytes:
    """One to three bits anywhere behind the header."""
    return _flipped(draw, file.whole, file.start, len(file.whole))


def flip_in_header(draw: random.Random, file: File) -> bytes:
    """One to three bits of the header, or of its length."""
    return _flipped(draw, file.whole, 0, file.start)


def _flipped(draw: random.Random, whole: bytes, start: int, stop: int) -> bytes:
    changed = bytearray(whole)
    for _ in range(draw.randint(1, 3)):
        changed[draw.randrange(start, stop)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def zero(draw: random.Random, file: File) -> bytes:
    """Up to 4096 bytes in a row become 0."""
    start = draw.randrange(len(file.whole))
    width = min(1 << draw.randrange(13), len(file.whole) - start)
    return file.whole[:start] + bytes(width) + file.whole[start + width :]


def overwrite(draw: random.Random, file: File) -> bytes:
    """Up to 64 bytes in a row become random ones."""
    start = draw.randrange(len(file.whole))
    width = min(draw.randint(1, 64), len(file.whole) - start)
    return file.whole[:start] + draw.randbytes(width) + file.whole[start + width :]


def truncate(draw: random.Random, file: File) -> bytes:
    return file.whole[: draw.randrange(len(file.whole))]


def insert(draw: random.Random, file: File) -> bytes:
    """Bytes more, anywhere, also at the end."""
    at = draw.randint(0, len(file.whole))
    return file.whole[:at] + draw.randbytes(draw.randint(1, 64)) + file.whole[at:]


def cut(draw: random.Random, file: File) -> bytes:
    """Bytes less, anywhere."""
    at = draw.randrange(len(file.whole))
    return file.whole[:at] + file.whole[at + draw.randint(1, 64) :]


# The header, and the metadata in it


def header_field(draw: random.Random, file: File) -> bytes:
    """A dtype, a shape or the offsets of a tensor."""
    header = file.header
    names = [name for name in header if name != "__metadata__"]
    entry = header[draw.choice(names)]
    key = draw.choice(list(entry))
    if draw.random() < 0.3:
        entry[key] = draw.choice(list(header[draw.choice(names)].values()))
    elif key == "dtype":
        entry[key] = draw.choice(("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "X"))
    elif entry[key]:
        entry[key][draw.randrange(len(entry[key]))] = draw.choice((0, 1, -1, 7, 2**31, 2**63, 2**64))
    return file.with_header(header)


def header_tree(draw: random.Random, file: File) -> bytes:
    return file.with_header(changed_tree(draw, file.header))


def digests(draw: random.Random, file: File) -> bytes:
    """The digests themselves, as JSON or as text."""
    read = json.loads(file.metadata["digests"])
    if draw.random() < 0.5:
        name = draw.choice(list(read["tensors"]))
        read["tensors"][name] = f"{draw.getrandbits(32):08x}"
        return file.packed(digests=json.dumps(read))
    return file.packed(digests=json.dumps(changed_tree(draw, read)))


# Tensors


def swap(draw: random.Random, file: File) -> bytes:
    """Two tensors of one shape and dtype that differ, by their names."""
    tensors, names = dict(file.tensors), list(file.tensors)
    draw.shuffle(names)
    for one in names:
        for other in names:
            a, b = tensors[one], tensors[other]
            if a.shape == b.shape and a.dtype == b.dtype and not torch.equal(a, b):
                tensors[one], tensors[other] = b, a
                return file.packed(tensors)
    raise AssertionError("no two tensors have one shape")


def retype(draw: random.Random, file: File, names: Sequence[str] = ()) -> bytes:
    tensors, name = dict(file.tensors), draw.choice(names or list(file.tensors))
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    tensors[name] = tensors[name].to(draw.choice([kind for kind in kinds if kind != tensors[name].dtype]))
    return file.packed(tensors)


def retype_state(draw: random.Random, file: File) -> bytes:
    """A tensor of the optimizer in another dtype. A network may have several dtypes, so that its tensors stay."""
    return retype(draw, file, [name for name in file.tensors if name.startswith("optimizer/")])


def poison(draw: random.Random, file: File) -> bytes:
    """NaN, infinity or 1e30 in one place or all."""
    tensors = dict(file.tensors)
    name = draw.choice([name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()])
    flat = tensors[name].clone().flatten()
    value = draw.choice((math.nan, math.inf, 1e30))
    if draw.random() < 0.5:
        flat[draw.randrange(flat.numel())] = value
    else:
        flat.fill_(value)
    tensors[name] = flat.view(tensors[name].shape)
    return file.packed(tensors)


def reshape(draw: random.Random, file: File) -> bytes:
    """A tensor of any part of the file with a row more or less, a dim more or less, flat, or empty."""
    tensors, name = dict(file.tensors), draw.choice(list(file.tensors))
    tensor = tensors[name]
    row = tensor[None] if tensor.dim() == 0 else tensor
    ways = (
        tensor[None],
        tensor.flatten(),
        row[:-1],
        torch.cat([row, row[:1]]),
        row[:0],
        torch.zeros(()),
        tensor[..., None],
    )
    tensors[name] = draw.choice([way for way in ways if way.shape != tensor.shape])
    return file.packed(tensors)


def rename(draw: random.Random, file: File) -> bytes:
    """A tensor under another name, dropped, or twice."""
    tensors, name = dict(file.tensors), draw.choice(list(file.tensors))
    tensor = tensors[name] if draw.random() < 0.3 else tensors.pop(name)
    if draw.random() < 0.7:
        tensors[draw.choice((f"{name}x", name[:-1] or "x", f"optimizer/{name}", name.replace("/", ".")))] = tensor
    return file.packed(tensors)


def plan(draw: random.Random, file: File) -> bytes:
    return file.packed(nrfx=changed_text(draw, file.content, "plan"))


def optimizer(draw: random.Random, file: File) -> bytes:
    return file.packed(nrfx=changed_text(draw, file.content, "optimizer"))


def rejuvenator(draw: random.Random, file: File) -> bytes:
    section = "optimizer" if file.content["rejuvenator"] is None else "rejuvenator"
    return file.packed(nrfx=changed_text(draw, file.content, section))


def config(draw: random.Random, file: File) -> bytes:
    """The sizes of a cross layer: widths, runs and present blocks, where there is one."""
    content = file.content
    if not content["plan"]["layers"]:
        return plan(draw, file)
    layer = draw.choice(content["plan"]["layers"])["config"]
    if draw.random() < 0.5:
        sides = draw.choice((("in_generations",), ("out_generations",), ("in_generations", "out_generations")))
        for side in sides:
            layer[side] = draw.choice(
                ([10**8] * len(layer[side]), [1] * 10**6, [0, *layer[side]], [*layer[side], 0], layer[side][::-1],
                 [*layer[side], 10**8], [layer[side][0] + 1, *layer[side][1:]], [1] * 10**4)
            )  # fmt: skip
        layer["in_runs"] = draw.choice((layer["in_runs"], list(map(list, enumerate(layer["in_generations"])))))
        if layer["present"] is not None:
            layer["present"] = draw.choice((layer["present"], None, [[i] for i in range(len(layer[sides[0]]))]))
        return file.packed(nrfx=json.dumps(content))
    layer.update(changed_tree(draw, layer))
    return file.packed(nrfx=json.dumps(content))


def sealed(mutation: Mutation) -> Mutation:
    """The mutation of a file that has no digests, or gets those of its new content."""

    def mutated(draw: random.Random, file: File) -> bytes:
        new = File.of(mutation(draw, file))
        if draw.random() < 0.3:
            return written(new.tensors, {"nrfx": new.metadata["nrfx"]})
        return new.packed(digests=Digests.of(new.metadata["nrfx"], new.tensors).to_json())

    return mutated


DAMAGE: Mapping[str, Mutation] = {
    "bits of tensors flipped": flip,
    "bits of the header flipped": flip_in_header,
    "bytes zeroed": zero,
    "bytes overwritten": overwrite,
    "truncated": truncate,
    "bytes inserted": insert,
    "bytes cut out": cut,
    "dtype, shape or offsets in the header": header_field,
    "JSON of the header": header_tree,
    "digests": digests,
    "two tensors swapped": swap,
    "dtype of a tensor": retype,
    "NaN or infinity in a tensor": poison,
    "shape of a tensor": reshape,
    "tensor renamed, dropped or added": rename,
    "plan": plan,
    "optimizer": optimizer,
    "rejuvenator": rejuvenator,
}
"""Kind -> a mutation that leaves the digests."""

FORGERIES: Mapping[str, Mutation] = {
    f"{kind}, digests to match": sealed(mutation)
    for kind, mutation in {
        "two tensors swapped": swap,
        "dtype of optimizer state": retype_state,
        "NaN or infinity in a tensor": poison,
        "shape of a tensor": reshape,
        "tensor renamed, dropped or added": rename,
        "plan": plan,
        "sizes of a cross layer": config,
        "optimizer": optimizer,
        "rejuvenator": rejuvenator,
    }.items()
}
"""Kind -> a mutation that mends the digests."""


@dataclass(frozen=True)
class Mutant:
    """What the mutant of a number and a seed is."""

    kind: str
    subject: str
    content: bytes = field(repr=False)

    @property
    def is_forged(self) -> bool:
        """Whether its digests are those of its content, or none."""
        return self.kind in FORGERIES


def mutant(seed: int, number: int, subjects: Mapping[str, File]) -> Mutant:
    """The mutant of that number: kinds in turns, subjects and all else at random."""
    draw = random.Random(f"{seed} {number}")
    mutations = {**DAMAGE, **FORGERIES}
    kind = list(mutations)[number % len(mutations)]
    subject = draw.choice(list(subjects))
    return replace(Mutant(kind, subject, b""), content=mutations[kind](draw, subjects[subject]))
