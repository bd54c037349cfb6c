"""What says which channels are dead: the criteria that `nrfx.rejuvenate`, `compact` and others take as `liveness=`.

    nrfx.liveness.Activation(batches, tau)     dormant channels, as in ReDo
    nrfx.liveness.Utility(batches, tau)        contribution utility, as in Continual Backprop
    nrfx.liveness.Weight(tau)                  small filters; "weight" for those of zeros
    nrfx.liveness.Gamma(tau)                   small gammas, for rankings; "gamma" for what nrfx does by itself
    nrfx.liveness.Scores(given, tau)           masks (True stays) or scores of your own; also as a plain mapping

Each has `budget=` (a ranking in the place of the threshold), `keep=`, `min_width=`, `most=` (limits), `group=` (how the
scores of tied layers join) and `batches=` (whose means take the place of what is given up).
"""

from nrfx.analysis.criteria import Activation, Gamma, Scores, Utility, Weight
from nrfx.analysis.criterion import Criterion

__all__ = ["Activation", "Criterion", "Gamma", "Scores", "Utility", "Weight"]
