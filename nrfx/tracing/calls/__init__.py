"""What is one call of a graph: modules and functions that have a rule or are asked for, and boxes.

`leaves` says which, `known_forward` whether a class runs the forward that its rule describes; `boxes` are what cannot
be traced.
"""
