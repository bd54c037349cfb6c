"""Models that cannot be traced whole (partial=True).

Boxes: `culprits` finds what an error came out of, `around` makes it one call and traces the rest, `box_runs` sees
what it gives. Parts: `partition` traces the largest submodules that can be traced, `run` sees how a run calls them,
`parts` is the module. `free_share` tells which of two cuts leaves more free.
"""
