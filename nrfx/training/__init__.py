"""For a training loop of the user's own: the Rejuvenator, the lambda schedule, the optimizer's state, baselines."""
