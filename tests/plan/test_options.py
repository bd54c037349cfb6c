"""Options: values that are none, and when the function is kept."""

import pytest

from nrfx.errors import AnalysisError
from nrfx.plan.options import Options


@pytest.mark.parametrize("name", ["rescale", "reallocate", "constants", "merge"])
def test_a_switch_takes_true_or_false_alone(name: str) -> None:
    with pytest.raises(AnalysisError, match=f"{name} is 1; expected True or False"):
        Options(**{name: 1}).validate()


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="shceme"):
        Options(shceme="dense")


def test_the_function_is_kept_unless_constants_are_dropped_or_weights_start_anew() -> None:
    assert Options().keeps_function
    assert not Options(constants=False).keeps_function
    assert not Options(reinitialize="all").keeps_function
