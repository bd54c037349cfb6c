"""The labels of each birth at the new widths: those that stay, in order, and those of new channels behind them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from nrfx.analysis.channels import Channels, Space
from nrfx.ids import joined, occurrence
from nrfx.labels import noted


def grown_births(channels: Channels, kept: Tensor, width: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The labels of each birth, and the channel of each label, new ones appended."""
    kept_width = torch.bincount(channels.space_of[kept], minlength=len(channels.spaces))
    # new channels are numbered behind all old ones, space by space; new labels behind all old ones, birth by birth
    more = width - kept_width
    first_new = (channels.space_of.numel() + torch.cumsum(more, 0) - more).tolist()
    stays, labels = kept[channels.channel_of], channels.channel_of.numel()
    channel_of = [channels.channel_of]
    spaces_of: dict[str, list[Space]] = {key: [] for key in channels.births}
    for space, comes in zip(channels.spaces, more.tolist(), strict=True):
        for key in space.births if comes else ():
            spaces_of[key].append(space)
    births, staying = {}, _staying(channels, stays)
    for key, old in channels.births.items():
        fresh = {}
        for space in spaces_of[key]:
            each, count, first = space.births[key], int(more[space.index]), first_new[space.index]
            fresh[space.index] = torch.arange(labels, labels + count * each).view(-1, each)
            channel_of.append(torch.arange(first, first + count).repeat_interleave(each))
            labels += count * each
        births[key] = noted(_grown(channels, old, stays, fresh) if fresh else staying[key])
    return births, torch.cat(channel_of)


def _staying(channels: Channels, stays: Tensor) -> dict[str, Tensor]:
    """The labels of each birth that stay, in order, found for all births at once; each in memory of its own."""
    labels, birth = joined(list(channels.births.values()))
    here = stays[labels]
    counts = torch.bincount(birth[here], minlength=len(channels.births)).tolist()
    return {key: own.clone() for key, own in zip(channels.births, labels[here].split(counts), strict=True)}


def _grown(channels: Channels, old: Tensor, stays: Tensor, fresh: Mapping[int, Tensor]) -> Tensor:
    """The labels of a birth that stay, in order, and the new labels of each space behind its last old one.

    stays: bool [labels]. fresh: space -> [new channels, labels a channel]. Where the labels of a channel lie in several
    blocks (queries, keys and values of one linear layer), each block gets its share of the new labels.
    """
    channel = channels.channel_of[old]
    space = channels.space_of[channel]
    ends = []  # (last old place, new labels) of each space in each block
    for index, new in fresh.items():
        places = (space == index).nonzero().flatten()
        block, run = blocks_of(channel[places])
        for number in range(int(block[-1]) + 1):
            ends.append((int(places[block == number][-1]), new[:, number * run : (number + 1) * run].reshape(-1)))
    parts, start = [], 0
    for end, new in sorted(ends, key=lambda each: each[0]):
        here = old[start : end + 1]
        parts += [here[stays[here]], new]
        start = end + 1
    rest = old[start:]
    return torch.cat([*parts, rest[stays[rest]]])


def blocks_of(channel: Tensor) -> tuple[Tensor, int]:
    """([len] int64: the block of each place, labels of a channel in a block), for the channels of one birth.

    In every block each channel has equally many places, side by side. A birth without such blocks is one block.

    >>> blocks_of(torch.tensor([0, 0, 1, 1, 0, 0, 1, 1]))
    (tensor([0, 0, 0, 0, 1, 1, 1, 1]), 2)
    """
    if bool((channel[1:] > channel[:-1]).all()):  # nearly all births have one label a channel, in order
        return torch.zeros_like(channel), 1
    rank = occurrence(channel)
    each, run = int(rank.max()) + 1, _run(channel)
    block = rank // run
    if each % run or bool((block[1:] < block[:-1]).any()):
        return torch.zeros_like(block), each
    return block, run


def grows_at_its_end(channels: Channels, key: str) -> bool:
    """Whether the new channels of a birth all stand behind its old ones: it has one space and one block."""
    channel = channels.channel_of[channels.births[key]]
    space = channels.space_of[channel]
    return space.numel() > 0 and bool((space == space[:1]).all()) and int(blocks_of(channel)[0][-1]) == 0


def births_in_order(channels: Channels) -> frozenset[str]:
    """The births that have one space, and one label for each channel, in order: nearly all. They grow at their ends."""
    names = [key for key, labels in channels.births.items() if labels.numel()]
    labels, birth = joined([channels.births[key] for key in names])
    channel = channels.channel_of[labels]
    space = channels.space_of[channel]
    falls = (channel[1:] <= channel[:-1]) | (space[1:] != space[:-1])
    others = set(birth[1:][falls & (birth[1:] == birth[:-1])].tolist())
    return frozenset(name for index, name in enumerate(names) if index not in others)


def _run(channel: Tensor) -> int:
    """How many labels from the first one on belong to the first channel."""
    differs = (channel != channel[0]).nonzero()
    return int(differs[0]) if differs.numel() else channel.numel()
