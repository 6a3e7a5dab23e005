"""Faults of components."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CACHE = "tests/components/cache/test_loading_and_writes.py"
HTTP = "tests/components/http/test_attended.py"

MUTANTS = (
    Mutant(
        "a load whose tag was invalidated shares its guard with the next one, and ends it",
        "creche/components/cache/loads.py",
        """
         if load is not None and load.guard.intact and not self._store.is_valid(load.job.tags, load.stamp):
-            self._store.break_guard(key)
+            load = None
""",
        (f"{CACHE}::test_who_asks_after_a_write_gets_a_load_that_began_after_it",),
    ),
    Mutant(
        "the end of an exchange is taken for a client that leaves",
        "creche/components/http/app.py",
        """
-            if message["type"] == "http.disconnect" and not self._answered:
+            if message["type"] == "http.disconnect":
""",
        (f"{HTTP}::test_what_comes_after_the_answer_goes_on",),
    ),
)
