"""The page of torchvision and timm, and the models on it."""

from benchmarks.coverage.page import worst
from benchmarks.coverage.vision.models import models
from benchmarks.coverage.vision.page import page, summary
from benchmarks.coverage.vision.row import WholeRow


def test_the_page_names_missed_goals_and_every_failure() -> None:
    bad = WholeRow("vgg11", "torchvision", "VGG", "3x8x8", mortal=0.1, scaled=0.5, failures=("trace: TraceError: no",))
    good = WholeRow("vit", "timm", "vision_transformer", "3x8x8", mortal=0.7, difference_live=float("nan"))
    text = page([bad, good], 0)
    assert "- vgg11: trace: TraceError: no" in text
    assert "Every check holds for 0 of 1 of torchvision, 1 of 1 of timm." in text
    assert summary([bad])[0][5:7] == ("50 %", "95%, missed")
    assert str(worst(1.0, float("nan"))) == "nan" and worst(None, None) is None


def test_all_classification_segmentation_and_video_models_of_torchvision_are_named() -> None:
    chosen = list(models())
    assert len({model.title for model in chosen}) == len(chosen)
    assert sum(model.package == "torchvision" for model in chosen) >= 95
    assert all(model.family != "other" for model in chosen)
    assert len({model.family for model in chosen if model.package == "timm"}) >= 20
