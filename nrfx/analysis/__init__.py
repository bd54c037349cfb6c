"""What a graph is, as values; nothing is changed: channels and their ties, constants, liveness, cost, utilization."""
