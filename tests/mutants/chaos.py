"""Faults of chaos itself: it would find less, or tell what is not so."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

COMMAND = "creche/chaos/command.py"
EXPLORE = "creche/chaos/explore.py"
WORLD = "creche/chaos/world.py"

MUTANTS = (
    Mutant(
        "what must always hold is looked at only when something has happened to the tree",
        "creche/testing/injector.py",
        """
             if self.onlooker is not None:
-                self.onlooker(path)
+                pass
             coroutine = handler(*args, **kwargs)  # raises TypeError for wrong arguments, as it would without us
""",
        ("tests/chaos/test_world.py",),
    ),
    Mutant(
        "what must always hold is not looked at when the scenario has ended",
        WORLD,
        """
             await scenario(self)
-        self.look()
""",
        ("tests/chaos/test_world.py",),
    ),
    Mutant(
        "a plan for who has never been there passes for one that strikes",
        WORLD,
        """
-        if step.target in self._not_seen:
+        if False:
""",
        ("tests/chaos/test_faults.py",),
    ),
    Mutant(
        "a cut of a proxy lacks an argument",
        "creche/chaos/network/actor.py",
        """
-    async def cut(self, how: Ending = "reset") -> int:
+    async def cut(self, how: Ending) -> int:
""",
        ("tests/chaos/test_faults.py",),
    ),
    Mutant(
        "a plan is shrunk although a run that held fails since",
        EXPLORE,
        """
-    if held is not None and by_itself(held).failure is not None:
+    if False:
""",
        ("tests/chaos/test_explore.py",),
    ),
    Mutant(
        "the plan of an app is shrunk in one process",
        COMMAND,
        """
-        tried.append(apart(plan) if job.of_app else job.run(plan.seed, plan))
+        tried.append(job.run(plan.seed, plan))
""",
        ("tests/chaos/test_command.py",),
    ),
    Mutant(
        "a plan that does not fit is a finding",
        EXPLORE,
        """
-        if not began or isinstance(failure, PlanInvalid):
+        if not began:
""",
        ("tests/chaos/test_explore.py",),
    ),
)
