"""One file for a network whose layers are no longer those of its class, and for what a resumed run needs beside it.

The file is a safetensors file, without pickled code:

    tensors     parameters and buffers by name, tied ones once; those of the optimizer under `optimizer/`
    metadata    "nrfx": JSON with the format, its version, the plan, the optimizer's groups and the rejuvenator's state
                "digests": JSON with a digest of that text, and of each tensor; files of earlier versions have none

The plan says what tensors cannot: cross layers, inputs, ties, frozen parameters, modes. Widths follow from the tensors'
shapes. Not kept, unless as `extra`: gradients, hooks, schedulers, the state of random number generators.

tensors      parameters and buffers by name
encoding     what an optimizer, a Rejuvenator and the user keep, as JSON and tensors
digests      what tells that a file was damaged
plan         what of a network its tensors cannot say
file         the file, as bytes and as it is read back
network      the network of a file, built from a fresh model
entry        the plan in a state dict, which plain checkpoints keep
state        the state of an optimizer, checked against its parameters
optimizer    the state of an optimizer and of a Rejuvenator, and whether they belong to the network
save_load    both doors
"""

from nrfx.checkpoint import entry as entry
from nrfx.checkpoint.optimizer import Resumable
from nrfx.checkpoint.save_load import load, save
from nrfx.files import Location

__all__ = ["Location", "Resumable", "load", "save"]
