"""What accompanies a user's own loop: the Rejuvenator, the lambda schedule, the optimizer's state, baselines."""
