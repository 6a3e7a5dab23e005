"""Proof that the tests can fail: named faults, planted one by one in a copy of the core. See `__main__`."""
