"""One forward recorded as a graph (`recorder`), and the graphs of both modes as a traced module (`both_modes`).

`modeless` makes one recording do for both modes. `compiled` and `einops_backend` let it look into what hides from a
trace; `draws` are random numbers, `signatures` the calls that the model itself would refuse.
"""
