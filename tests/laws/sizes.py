"""A law of inputs of other sizes than the traced ones."""

from nrfx.errors import SizeError
from tests.laws.trial import TOLERANCE, Trial, difference, images, outputs


def other_sizes_give_what_the_model_gives(trial: Trial) -> None:
    """Or an error of nrfx that says what the trace assumed; at sizes that the model itself takes."""
    count, channels, *positions = trial.plan.image
    shapes = ((count + 1, channels, *positions), (count + 2, channels, positions[0] + 2, positions[1] + 4))
    modules = [trial.gm] + ([] if trial.result is None else [trial.result.module])
    for shape in shapes:
        x = images(*shape)
        try:
            expected = outputs(trial.model, x)
        except RuntimeError:
            continue
        if any(value.shape[0] != shape[0] for value in expected):
            continue  # view(-1, 2, 2, 5, 7) takes images of 7 x 11 too, and makes 11 examples of 5
        for module in modules:
            try:
                assert difference(expected, outputs(module, x)) < TOLERANCE
            except SizeError as error:
                assert str(list(trial.plan.image)) in str(error), str(error)
