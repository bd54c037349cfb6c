"""A rewrite as values: which channels stay, how wide spaces become, where new positions come from; nothing is built."""
