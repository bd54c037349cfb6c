"""What every set-up needs, done once by the server from which their processes are forked. Nothing is trained here."""

import nrfx
from benchmarks.setups.setup import all_setups
from benchmarks.setups.training import X, kill, network

all_setups()
_net = network()
kill(_net)
_traced = nrfx.trace(_net, X)
nrfx.rejuvenate(_traced, nrfx.Budget.relative(_traced, params=1.0)).module(X)
