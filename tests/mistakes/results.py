"""Checks of results that do not fit, and files."""

import math

import torch

import nrfx
from nrfx.errors import CheckpointError, UsageError, VerificationError
from tests import zoo
from tests.mistakes.broken import (
    X,
    loaded,
    plain,
    random_images,
    save_half_of_it,
    save_result,
    save_weights,
    sgd,
    traced,
    verified,
)
from tests.mistakes.row import on_disk, row

CHECKS = {
    "verify with images of 4 colours": row(
        traced, lambda gm: verified(gm, torch.zeros(2, 4, 16, 16)), VerificationError,
        "[2, 4, 16, 16] float32", "traced on [2, 3, 16, 16] float32", "Pass inputs like those",
    ),
    "verify with two inputs": row(
        traced, lambda gm: verified(gm, (X, X)), VerificationError, "cannot run on", "Pass inputs like those"
    ),
    "verify with a list": row(
        traced, lambda gm: verified(gm, [X]), VerificationError, "cannot run on a list of 1", "Pass inputs like those"
    ),
    "verify with another dtype": row(
        traced, lambda gm: verified(gm, X.double()), VerificationError, "float64", "float32"
    ),
    "verify with no images": row(
        traced, lambda gm: verified(gm, X[:0]), VerificationError, "(0, 5)", "nothing to compare"
    ),
    "verify with NaN": row(traced, lambda gm: verified(gm, X * math.nan), VerificationError, "not finite", "inputs"),
    "verify with a module for a result": row(
        traced, lambda gm: nrfx.verify(gm, gm, X),
        VerificationError, "what nrfx.rejuvenate returned", "got a Sequential"
    ),
    "verify with another network": row(
        traced, lambda gm: verified(gm, X, traced(zoo.resnet())), VerificationError, "not of this network", "1.weight"
    ),
    "verify with other weights": row(
        traced, lambda gm: verified(gm, random_images(), traced(zoo.vgg_bn())), VerificationError,
        "output differs by", "rounding explains 1e-03",
    ),
    "why of a layer that does not exist": row(
        traced, lambda gm: nrfx.why(gm, "44"), UsageError, "no layer '44'"
    ),
}  # fmt: skip

FILES = {
    "a file that is not there": on_disk(
        plain, lambda m, folder: nrfx.load(folder / "none", m), CheckpointError, "There is no file", "none"
    ),
    "no path": on_disk(plain, lambda m, _: nrfx.load(None, m), CheckpointError, "The path is None", "nrfx.save"),
    "a file of something else": on_disk(
        plain, lambda m, folder: loaded(m, folder, lambda path: path.write_bytes(b"?" * 99) and None), CheckpointError,
        "not a complete safetensors file", "nrfx.save",
    ),
    "half a file": on_disk(plain, lambda m, folder: loaded(m, folder, save_half_of_it),
        CheckpointError, "not a complete"),
    "a file of plain weights": on_disk(
        plain, lambda m, folder: loaded(m, folder, save_weights),
        CheckpointError, "not written by nrfx.save", "load_state_dict"
    ),
    "a file of another model": on_disk(
        zoo.resnet, lambda m, folder: loaded(m, folder, save_result),
        CheckpointError, "does not fit", "missing in the model"
    ),
    "saved into a folder that is not there": on_disk(
        traced, lambda gm, folder: nrfx.save(folder / "no" / "file", gm),
        CheckpointError, "there is no folder", "Make it first"
    ),
    "saved without having been traced": on_disk(
        plain, lambda m, folder: nrfx.save(folder / "file", m), CheckpointError, "save got a Sequential", "nrfx.trace"
    ),
    "saved with the optimizer of another model": on_disk(
        traced, lambda gm, folder: nrfx.save(folder / "file", gm, optimizer=sgd(plain())), CheckpointError,
        "11 parameters that the module does not have",
    ),
}  # fmt: skip
