"""What is known of optimizers: how the state of each kind follows its parameters, and what a wrapper wraps.

kinds       the table: a kind of optimizer, its state tensors, the power of 1 / f of each, what new positions start from
packages    the kinds of other packages, by name: none of them is imported
wrappers    the optimizers inside a wrapper or a list
"""
