"""All or nothing: what an event changes of networks, optimizers and schedules, to be put back where it fails."""

from collections.abc import Iterable
from types import TracebackType

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nrfx.tracing import TracedModule
from nrfx.tracing.graph.exchange import Snapshot
from nrfx.training.replicas import renew


class Transaction:
    """A `with` block that leaves everything as it was if it ends with an exception, an interrupt included.

    >>> linear = nn.Linear(2, 2)
    >>> optimizer, before = __import__("torch").optim.SGD(linear.parameters(), lr=0.1), linear.weight
    >>> try:
    ...     with Transaction([linear], [optimizer]):
    ...         linear.weight = nn.Parameter(before[:1])
    ...         optimizer.param_groups[0]["lr"] = 1.0
    ...         raise InterruptedError
    ... except InterruptedError:
    ...     print(linear.weight is before, optimizer.param_groups[0]["lr"])
    True 0.1
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        optimizers: Iterable[Optimizer],
        scheduler: LRScheduler | None = None,
        replicas: Iterable[DistributedDataParallel] = (),
    ) -> None:
        self._modules = list(modules)
        self._network = Snapshot(*self._modules)
        self._optimizers = [State(optimizer) for optimizer in optimizers]
        self._replicas = list(replicas)
        self._schedules = [] if scheduler is None else [(each, dict(vars(each))) for each in _schedules(scheduler)]

    def __enter__(self) -> "Transaction":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            return
        self._network.restore()
        for module in self._modules:
            if isinstance(module, TracedModule):
                module.recompile()
        for state in self._optimizers:
            state.restore()
        for schedule, attributes in self._schedules:
            vars(schedule).update(attributes)
        for replica in self._replicas:  # the nodes of autograd that its reducer held are gone
            renew(replica)


class State:
    """The groups and state of an optimizer. Tensors of the state are exchanged in an event, not written to."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = [
            (group, dict(group), {key: list(value) for key, value in group.items() if isinstance(value, list)})
            for group in optimizer.param_groups
        ]
        self._state = {key: dict(value) if isinstance(value, dict) else value for key, value in optimizer.state.items()}

    def restore(self) -> None:
        for group, values, lists in self._groups:
            group.clear()
            group.update(values)
            for key, contents in lists.items():
                group[key][:] = contents
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)


def _schedules(scheduler: LRScheduler) -> list[LRScheduler]:
    inner = getattr(scheduler, "_schedulers", ())
    return [scheduler, *(each for part in inner for each in _schedules(part))]
