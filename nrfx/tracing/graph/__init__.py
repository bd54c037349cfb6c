"""A graph that knows its shapes and behaves like its model in both modes, and the module around it.

What its nodes have: `shapes`, `regions` (no_grad, autocast), `work`, `guards` (what was taken for granted). How it is
called: `arguments`, `codegen`. The module: `module`, `modes` (both modes in one graph), `hosted` (the model's own
class around it), `registered` (names that a graph module has too), `clone`, `scripted` (TorchScript modules),
`staleness` (whether its layers still fit).
"""
