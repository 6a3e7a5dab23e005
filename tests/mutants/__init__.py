"""Proof that the tests can fail: named faults, planted one by one in a copy of the core. See `__main__`."""

from tests.mutants import runtime, supervisors

MUTANTS = (*runtime.MUTANTS, *supervisors.MUTANTS)
