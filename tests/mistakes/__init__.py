"""What users get wrong, one row a mistake, in tables; tests/test_mistakes.py tries every row."""

from tests.mistakes.deploy import DEPLOY
from tests.mistakes.inputs import EXAMPLES
from tests.mistakes.models import MODELS, NOTED
from tests.mistakes.options import BUDGETS, REFUSED_OPTIONS, TRAINING
from tests.mistakes.results import CHECKS, FILES
from tests.mistakes.row import Row

TABLES = (EXAMPLES, MODELS, NOTED, BUDGETS, REFUSED_OPTIONS, TRAINING, CHECKS, FILES, DEPLOY)

ROWS: dict[str, Row] = {name: row for table in TABLES for name, row in table.items()}

__all__ = ["ROWS", "TABLES", "Row"]
