"""Many processes that train one network: their decisions are one, and they notice when they differ.

place      where all processes meet: after the first step, at a measurement, in an event
facts      what must be the same in all of them: settings, counts, weights by their digests
said       what the first process says and all take over, such as its measurement

They talk through the store of their process group, which knows timeouts, and through the group itself where tensors go
from the first process to the others. A process that does not come, differs or fails is an error in all that came.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nrfx.errors import TrainingError

WAIT = 20.0
"""Seconds that a process waits for the others at a place."""

MARGIN = 3.0
"""Seconds in which an error of the first process reaches the others."""

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_begun: Counter[str] = Counter()


class Alone:
    """One process that has nobody to agree with."""

    rank, size = 0, 1

    def agree(self, place: str, facts: Mapping[str, object], said: Any = None) -> Any:
        """What was said."""
        return said

    @contextmanager
    def telling(self, place: str) -> Iterator[None]:
        """Nothing."""
        yield

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Nothing."""

    def average(self, tensor: Tensor) -> None:
        """Nothing."""


class Processes(Alone):
    """The processes of a group, of which each makes one of these at the same time as the others.

    Args:
        group: a process group of torch.distributed with this process in it.
        wait: seconds that a process waits for the others at a place.
    """

    def __init__(self, group: "dist.ProcessGroup", wait: float = WAIT) -> None:
        self.group, self.wait = group, wait
        self.rank, self.size = group.rank(), group.size()
        name = group.group_name
        self._store = dist.distributed_c10d.PrefixStore(f"nrfx/{name}/{_begun[name]}", group.get_group_store())
        _begun[name] += 1
        self._round = 0
        self._last = "its start"
        self._told: BaseException | None = None

    def agree(self, place: str, facts: Mapping[str, object], said: Any = None) -> Any:
        """What the first process said, after all have come to the place with the same facts.

        Args:
            place: where this is, in words.
            facts: name -> a value whose repr is compared.
            said: a JSON value; that of the first process is returned.

        Raises:
            TrainingError: in all processes: one has not come within `wait` seconds, has failed or differs.
        """
        self._round += 1
        told = {"where": place, **{name: repr(value) for name, value in facts.items()}}
        self._put(self._key(self.rank), {"facts": told, "said": said})
        verdict = self._judged(place) if self.rank == 0 else self._heard(place)
        if error := verdict.get("error"):
            self._told = TrainingError(error)
            raise self._told
        self._forget()
        self._last = place
        return verdict["said"]

    @contextmanager
    def telling(self, place: str) -> Iterator[None]:
        """Tells the other processes of an error that this one has in the block: they raise a TrainingError then."""
        try:
            yield
        except BaseException as error:
            if error is not self._told:
                self._round += 1
                text = f"Process {self.rank} failed at {place} with {type(error).__name__}: {error}"
                self._put(self._key(self.rank), {"failure": text})
                if self.rank == 0:
                    self._put(self._key("verdict"), {"error": text})
            raise

    @torch.no_grad()
    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Writes the numbers of the first process into these tensors, which have the same shapes in all processes."""
        first = dist.get_global_rank(self.group, 0)
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            if whole.numel():
                dist.broadcast(whole.reshape(-1).view(torch.uint8), first, group=self.group)
            if whole.data_ptr() != tensor.data_ptr():
                tensor.copy_(whole)

    @torch.no_grad()
    def average(self, tensor: Tensor) -> None:
        """Writes the mean over all processes into a tensor of floats, which has the same shape in each."""
        dist.all_reduce(tensor, group=self.group)
        tensor.div_(self.size)

    def _judged(self, place: str) -> dict[str, Any]:
        """The verdict, made in the first process for all."""
        keys = [self._key(rank) for rank in range(self.size)]
        if missing := self._missing(keys, self.wait):
            verdict: dict[str, Any] = {"error": self._late(missing, place)}
        else:
            told = [json.loads(self._store.get(key)) for key in keys]
            failures = [each["failure"] for each in told if "failure" in each]
            if failures or any(each["facts"] != told[0]["facts"] for each in told):
                verdict = {"error": failures[0] if failures else _difference([each["facts"] for each in told], place)}
            else:
                verdict = {"said": told[0]["said"]}
        self._put(self._key("verdict"), verdict)
        return verdict

    def _heard(self, place: str) -> dict[str, Any]:
        """The verdict of the first process."""
        key = self._key("verdict")
        if not self._missing([key], self.wait + MARGIN):
            verdict: dict[str, Any] = json.loads(self._store.get(key))
            return verdict
        keys = [self._key(rank) for rank in range(self.size)]
        error = self._late(self._missing(keys, 0.1) or [0], place)
        self._put(self._key(self.rank), {"failure": error})  # for those who come later
        return {"error": error}

    def _missing(self, keys: list[str], seconds: float) -> list[int]:
        """The positions of the keys that are not there after so many seconds."""
        try:
            self._store.wait(keys, timedelta(seconds=seconds))
            return []
        except RuntimeError:
            return [index for index, key in enumerate(keys) if not self._store.check([key])]

    def _late(self, missing: list[int], place: str) -> str:
        who = f"Process {missing[0]}" if len(missing) == 1 else f"Processes {', '.join(map(str, missing))}"
        return (
            f"{who} of {self.size} did not come to {place} within {self.wait:g} s, where process {self.rank} waited; "
            f"all were last together at {self._last}. Every process must build the Rejuvenator with the same "
            "arguments and make the same steps: look for a loop that ends early, an error, or a step that only some "
            "processes make. Where they need longer, give the Rejuvenator wait=..., in seconds."
        )

    def _key(self, who: object) -> str:
        return f"{self._round}/{who}"

    def _put(self, key: str, value: Mapping[str, Any]) -> None:
        self._store.set(key, json.dumps(value))

    def _forget(self) -> None:
        """Takes the words of the round before out of the store: all have heard them, for they have come to this one."""
        if self._round > 1:
            self._store.delete_key(f"{self._round - 1}/{self.rank}")
            if self.rank == 0:
                self._store.delete_key(f"{self._round - 1}/verdict")


def processes(group: Any, wait: float) -> Alone:
    """Those that train one network with this process.

    Args:
        group: a process group; None for the default one, if torch.distributed is initialised; "alone" for none.
        wait: see Processes.

    Raises:
        TrainingError: torchrun has started several processes, and torch.distributed is not initialised.
    """
    if group == "alone":
        return Alone()
    if not (dist.is_available() and dist.is_initialized()):
        if dist.is_available() and dist.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise TrainingError(
                f"torchrun has started {os.environ['WORLD_SIZE']} processes, and torch.distributed is not initialised: "
                "each would train and rejuvenate a network of its own. Call torch.distributed.init_process_group() and "
                'wrap the network in DistributedDataParallel, or give process_group="alone" if this is meant.'
            )
        return Alone()
    group = dist.group.WORLD if group is None else group
    return Processes(group, wait) if group.size() > 1 else Alone()


def digests(module: nn.Module) -> dict[str, int]:
    """Parameter -> a sum over the bits of its numbers, int64, for parameters that are whole in each process.

    >>> digests(nn.Linear(2, 2, bias=False)) == digests(nn.Linear(2, 2, bias=False))
    False
    """
    named = {name: tensor.detach() for name, tensor in module.named_parameters() if not hasattr(tensor, "device_mesh")}
    sums = [_bits(tensor).sum(dtype=torch.int64) for tensor in named.values()]
    devices = {each.device for each in sums}
    numbers: dict[int, int] = {}
    for device in devices:  # one transfer each
        chosen = [index for index, each in enumerate(sums) if each.device == device]
        numbers.update(zip(chosen, torch.stack([sums[index] for index in chosen]).tolist(), strict=True))
    return {name: numbers[index] for index, name in enumerate(named)}


def _bits(tensor: Tensor) -> Tensor:
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.view(_BITS[real.element_size()])


def _difference(facts: list[dict[str, str]], place: str) -> str:
    """The first fact in which a process differs from the first one, in sentences."""
    first = facts[0]
    rank, other = next((rank, each) for rank, each in enumerate(facts) if each != first)
    names = [name for name in (first | other) if first.get(name) != other.get(name)]
    name = names[0]
    values = first.get(name, "not there"), other.get(name, "not there")
    more = f" {len(names) - 1} more differ: {', '.join(names[1:6])}." if len(names) > 1 else ""
    return (
        f"At {place} process {rank} differs from process 0 in {name}: {values[1]} there, {values[0]} in process 0."
        f"{more} {_advice(name)}"
    )


def _advice(name: str) -> str:
    if name.startswith("digest of"):
        return (
            "All processes must train the same weights: wrap the network in DistributedDataParallel (or average the "
            "gradients), start from the same weights, and load the same checkpoint everywhere. Where each process is "
            'to train a network of its own, give the Rejuvenator process_group="alone".'
        )
    return "Build the Rejuvenator with the same arguments in all processes, and make the same steps and loads in each."
