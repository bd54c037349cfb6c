"""One row of the coverage table: the results for one model of torchvision or timm."""

from dataclasses import dataclass

from benchmarks.coverage.row import Row
from nrfx.choices import Residual

RESIDUALS: tuple[Residual, ...] = ("live", "fixed", "coupled")


@dataclass(frozen=True)
class WholeRow(Row):
    """The columns of six rewrites beside those of every row.

    Attributes:
        free: share of the params of convolutions and linear layers that nothing pins (shares.Shares).
        scales: whether the rewrites below worked on the network with inserted scales; `pins` are then those beside it.
        listens: relative change of the outputs with the input.
        gammas: their number.
        r_*: live share of the params under that residual setting; alpha_*: growth at 1.0x; difference_*: of eval
            outputs before and after, the larger of both budgets.
        share: least part of its budget that a rewrite used. cases: rewrites of which every check held, of six.
        idle: rewrites that changed nothing, for there was nothing to do.
        seconds_rewrite: CPU time of one rejuvenate, the mean. analysis: CPU time of nrfx.utilization on the traced
            model, as a multiple of torch.fx.symbolic_trace on the model; None where that cannot trace it.
    """

    free: float | None = None
    scales: bool | None = None
    listens: float | None = None
    gammas: int | None = None
    r_live: float | None = None
    r_fixed: float | None = None
    r_coupled: float | None = None
    alpha_live: float | None = None
    alpha_fixed: float | None = None
    alpha_coupled: float | None = None
    difference_live: float | None = None
    difference_fixed: float | None = None
    difference_coupled: float | None = None
    share: float | None = None
    cases: int = 0
    idle: int = 0
    seconds_rewrite: float | None = None
    analysis: float | None = None

    @property
    def share_mortal(self) -> float:
        """The share of layers that can change width, with scales where they help."""
        return max(self.mortal or 0.0, self.scaled or 0.0)
