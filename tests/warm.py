"""What processes of a test need, done once by the server from which they are forked. Nothing is trained here."""

import torch
import torch._dynamo  # DistributedDataParallel asks for it
import torch.distributed.fsdp
from torch import nn

import nrfx
import tests.experiment.test_ranks
import tests.training.test_sharded  # noqa: F401

torch.set_num_threads(1)
_net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
with torch.no_grad():
    _net[1].weight[:4] = 0
_traced = nrfx.trace(_net, torch.zeros(1, 3, 8, 8))
nrfx.rejuvenate(_traced, nrfx.Budget.relative(_traced, params=1.0)).module(torch.zeros(2, 3, 8, 8))
