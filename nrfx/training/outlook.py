"""What a search can be expected to do, before it starts: how many steps until the first channels die.

Under the penalty alone a gamma falls by lr * lambda a step (over 1 - momentum), and lambda rises by delta_lambda at
each measurement but the first while r does not fall. What the loss holds on to falls more slowly or not at all.
"""

import math

from nrfx.training.config import RunConfig


def steps_to_first_death(
    lr: float, delta_lambda: float, interval: int, gamma: float = 1.0, threshold: float = 0.01, momentum: float = 0.0
) -> int:
    """Steps from the start of a search until the penalty has taken a scale from `gamma` to `threshold * gamma`.

    The learning rate stays what it is, and r does not fall before, so that lambda is k * delta_lambda between
    measurements k + 1 and k + 2.

    >>> steps_to_first_death(lr=0.1, delta_lambda=5e-5, interval=5_000, gamma=1.0, momentum=0.9)
    21600
    """
    needed = gamma * (1 - threshold) * (1 - momentum) / (lr * delta_lambda)  # in steps at lambda = delta_lambda
    raises = math.ceil((math.sqrt(1 + 8 * needed / interval) - 1) / 2 - 1e-9)
    rest = needed - interval * raises * (raises - 1) / 2
    return interval * (raises + 1) + math.ceil(rest / raises - 1e-6)


def outlook(config: RunConfig, per_epoch: int, gamma: float) -> str:
    """When the first channels will die in a run, and whether its search lasts so long; "" for AdamW.

    Args:
        config: of the run.
        per_epoch: steps of an epoch.
        gamma: the initial level of the gammas.

    >>> print(outlook(RunConfig(epochs=50, interval=20, delta_lambda=5e-4), per_epoch=67, gamma=0.5))
    A gamma of 0.5 that the loss does not hold is dead after about 475 steps (epoch 8). The search ends with step 1,675.
    """
    if config.optimizer != "sgd":
        return ""
    until = max(1, round(config.epochs * per_epoch * config.search))
    interval = config.interval or min(per_epoch, until)
    steps = steps_to_first_death(config.lr, config.delta_lambda, interval, gamma, momentum=config.momentum)
    said = (
        f"A gamma of {gamma:g} that the loss does not hold is dead after about {steps:,} steps (epoch "
        f"{math.ceil(steps / per_epoch)}). The search ends with step {until:,}"
    )
    if steps < until:
        return f"{said}."
    return (
        f"{said}: too early for an event. Give the search more steps (epochs, search, smaller batches), measure more "
        "often (interval), start with smaller gammas, or raise delta_lambda."
    )
