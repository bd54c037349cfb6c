"""Changes of a tree of JSON: a value deleted, of another type, huge, renamed, repeated, exchanged, or nested deeply."""

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

SMALL: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, "", "text"),
    *([], {}, [1], {"a": 1}, [[1, 2]], math.nan, math.inf),
)
HUGE: tuple[Callable[[], Any], ...] = (
    lambda: 10**8, lambda: 10**9, lambda: 2**63, lambda: 2**70, lambda: -(2**70), lambda: 1e308, lambda: "x" * 10**6,
    lambda: [0] * 10**6, lambda: [1] * 10**6, lambda: [[1, 1]] * 10**5, lambda: {str(i): i for i in range(10**5)},
)  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values in a tree of JSON."""
    if path:
        yield path
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        yield from places(value, (*path, key))


def _owner(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        tree = tree[key]
    return tree


def _nested(depth: int, kind: str) -> str:
    """JSON text of that depth, which json.dumps could not write."""
    opening, closing = {"list": ("[", "]"), "dict": ('{"a":', "}"), "encoded": ('{"tuple":[', "]}")}[kind]
    return opening * depth + ("[]" if kind == "dict" else "") + closing * depth


_DEEP = "a deep place"


def changed_tree(draw: random.Random, tree: Any) -> Any:
    """The tree with one value deleted, of another type, huge, renamed, repeated or exchanged, or with one more."""
    tree = copy.deepcopy(tree)
    paths = list(places(tree))
    # each level of the tree as often as the others: lists of names would else get all
    depth = draw.choice(sorted({len(path) for path in paths}))
    path = draw.choice([path for path in paths if len(path) == depth])
    owner, key = _owner(tree, path), path[-1]
    way = draw.choice(("delete", "type", "type", "huge", "unknown", "rename", "repeat", "exchange", "near"))
    if way == "delete":
        del owner[key]
    elif way == "type":
        owner[key] = copy.deepcopy(draw.choice(SMALL))
    elif way == "huge":
        owner[key] = draw.choice(HUGE)()
    elif way == "unknown" or (way == "rename" and isinstance(owner, list)):
        holder = owner[key] if isinstance(owner[key], dict | list) else owner
        if isinstance(holder, dict):
            holder[draw.choice(("of_a_later_version", "", "0", "dict"))] = copy.deepcopy(draw.choice(SMALL))
        else:
            holder.append(copy.deepcopy(draw.choice(SMALL)))
    elif way == "rename":
        owner[f"{key}s"] = owner.pop(key)
    elif way == "repeat" and isinstance(owner, list):
        owner.extend([owner[key]] * draw.choice((1, 1, 1000)))
    elif way == "near" and isinstance(owner[key], int | float):
        owner[key] += draw.choice((1, -1, 100))
    else:
        other = draw.choice([one for one in paths if one[: len(path)] != path and path[: len(one)] != one] or [path])
        there = _owner(tree, other)
        owner[key], there[other[-1]] = there[other[-1]], owner[key]
    return tree


def changed_text(draw: random.Random, tree: Any, section: str) -> str:
    """The JSON of the tree with a change in one of its sections; now and then so deep that no json.dumps writes it."""
    tree = copy.deepcopy(tree)
    if draw.random() < 0.08:
        inside = draw.choice(list(places(tree[section], (section,))))
        _owner(tree, inside)[inside[-1]] = _DEEP
        deep = _nested(draw.choice((50, 190, 300, 10**4, 10**6)), draw.choice(("list", "dict", "encoded")))
        return json.dumps(tree).replace(f'"{_DEEP}"', deep)
    if draw.random() < 0.05:
        return json.dumps(changed_tree(draw, tree))
    return json.dumps({**tree, section: changed_tree(draw, tree[section])})
