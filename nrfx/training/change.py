"""How the network that is trained becomes another one, with what follows it: all of it or nothing, in all processes.

At an event it becomes its rejuvenation, and the optimizers, the followers and the schedule go with it; behind a load it
becomes the network of the file. An error in between leaves everything as it was.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nrfx.rewrite.result import Rejuvenation
from nrfx.tracing import TracedModule
from nrfx.training.followers import carried_inside, put_inside
from nrfx.training.guards import Averages
from nrfx.training.in_place import become, joined_with
from nrfx.training.optimizer import migrate
from nrfx.training.processes import Alone
from nrfx.training.recalibrate import recalibrate
from nrfx.training.replicas import check_renewable, renew, replicas_of
from nrfx.training.restart import restart
from nrfx.training.sharded import Whole
from nrfx.training.together import DRAWN, END, spread_new
from nrfx.training.transaction import Transaction


@dataclass(frozen=True)
class Changed:
    """What came of an event.

    Attributes:
        result: the rejuvenation; its module is the one that is trained now.
        notes: what of the optimizers and followers could not be carried as it was.
        averages: the averages that nobody named as followers, to be asked when the event is over.
    """

    result: Rejuvenation
    notes: tuple[str, ...]
    averages: Averages


@dataclass(frozen=True)
class Change:
    """How a network becomes another one.

    Attributes:
        optimizers, followers, scheduler, calibration, inplace: as for `Rejuvenator`.
        watch: takes a network as the one that is trained.
    """

    optimizers: Sequence[Optimizer]
    followers: Sequence[nn.Module]
    scheduler: LRScheduler | None
    calibration: Iterable[Any] | None
    inplace: bool
    watch: Callable[[TracedModule], None]

    def rejuvenate(self, module: TracedModule, result: Rejuvenation, together: Alone, whole: Whole) -> Changed:
        """Makes the network the new one, or puts the new one in its place.

        Args:
            together: the processes that train the network, which have all come to the same rejuvenation.
            whole: the block in which the network is not cut.
        """
        if self.calibration is not None:
            recalibrate(result.module, self.calibration, result.origins)
        together.agree(DRAWN, {})
        spread_new(together, result.module)
        averages = Averages(module, self.followers)
        joined = joined_with(module) if self.inplace else []
        replicas = replicas_of([module, *joined]) if self.inplace else []
        for replica in replicas:
            check_renewable(replica)
        whole.take_optimizers()
        changing = Transaction([module, *joined, *self.followers], self.optimizers, self.scheduler, replicas)
        with changing, whole.undone():
            twins = [carried_inside(follower, result, module) for follower in self.followers]
            notes = migrate(self.optimizers, module, result, hooks_stay=self.inplace)
            for follower, twin in zip(self.followers, twins, strict=True):
                put_inside(follower, twin)
                notes += twin.notes
            if self.inplace:
                become(module, result.module, joined, self.optimizers)
                result = replace(result, module=module)
            if self.scheduler is not None:
                restart(self.scheduler)
            for replica in replicas:
                renew(replica)
            self.watch(result.module)
            whole.cut_again()
            together.agree(END, {})
        return Changed(result, notes, averages)

    def load(self, before: TracedModule, loaded: TracedModule) -> None:
        """Makes the network the one of a file, which the optimizers hold by now."""
        joined = joined_with(before)
        replicas = replicas_of([before, *joined])
        with Transaction([before, *joined], self.optimizers, replicas=replicas):
            become(before, loaded, joined, self.optimizers)
            for replica in replicas:
                renew(replica)
            self.watch(before)
