"""Proof that the tests can fail: named faults, planted one by one in a copy of the package. See `__main__`."""

from tests.mutants import chaos, components, lives, runtime, supervisors

MUTANTS = (*runtime.MUTANTS, *lives.MUTANTS, *supervisors.MUTANTS, *components.MUTANTS, *chaos.MUTANTS)
