"""What nrfx and its layers cost: time of the passes, counts of params and flops, cross against dense convolutions."""
