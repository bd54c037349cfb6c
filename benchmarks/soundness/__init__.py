"""Whether a rewrite keeps the outputs, meets its budget and trains: on a few networks, in every scheme."""
