"""What a forward computes with while it is recorded, and what it decides by it.

`proxies` are the values; `writers` and `assignments` change tensors in place. `decisions` (truths, lengths, plain
numbers), `plain` (int, float, len, max, min) and `questions` (has this run gradients?) are what Python asks of them,
`bytecode` at which instruction; `causes` says in a sentence why a forward cannot be recorded.
"""
