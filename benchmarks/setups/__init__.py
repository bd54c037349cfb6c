"""Set-ups of a training loop: each a small training across an event, and how it ended."""
