"""nrfx inside of trainers that have the loop themselves. Each file imports its trainer when it is imported itself.

architecture    what a trainer's checkpoint needs beside its weights, so that a run goes on behind an event
attached        a Rejuvenator for a trainer's network, from the start or from a checkpoint
lightning       a callback for Lightning
transformers    a callback for the Trainer of transformers
"""
