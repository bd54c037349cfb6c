"""Training with Neural Rejuvenation: the lambda schedule, the Rejuvenator, optimizers, and a loop over them."""
