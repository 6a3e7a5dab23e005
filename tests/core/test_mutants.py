"""The mutants' patches fit the code; `make mutants` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import MUTANTS
from tests.mutants.mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_matches_once(mutant: Mutant) -> None:
    """Else it would plant nothing, or too much; and the tests that are to catch it exist."""
    assert (ROOT / mutant.path).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.old != mutant.new
    for path in mutant.caught_by:
        assert (ROOT / path.partition("::")[0]).exists()
