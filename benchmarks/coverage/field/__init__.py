"""Small models of many packages that people use with PyTorch: how nrfx takes each of them."""

from collections.abc import Iterator

from benchmarks.coverage.catalogue import Catalogue
from benchmarks.coverage.field import hugging, images, named, restoration, sequences
from benchmarks.coverage.field.check import FieldExamination
from benchmarks.coverage.field.page import SUMMARY, page, summary
from benchmarks.coverage.field.row import FieldRow
from benchmarks.coverage.model import Model, shapes


def models() -> Iterator[Model]:
    """Every model, in the order of the page."""
    yield from hugging.MODELS
    yield from named.models()
    for module in (images, restoration, sequences):
        yield from module.MODELS


FIELD = Catalogue(
    "field",
    models,
    FieldExamination,
    FieldRow,
    shown=lambda model: shapes(model.inputs),
    heading="Packages",
    columns=SUMMARY,
    summary=summary,
    page=page,
    whole=False,
    preloaded=(
        *("timm", "transformers.modeling_utils", "transformers.models.bert.modeling_bert", "asteroid.models"),
        *("segmentation_models_pytorch", "ultralytics.nn.tasks", "monai.networks.nets", "spandrel"),
        "diffusers.models.modeling_utils",
        "benchmarks.coverage.field.warm",
    ),
)
