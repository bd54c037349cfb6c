"""A graph in values: channels and their ties, constants, liveness, cost, utilization. Nothing is changed."""
