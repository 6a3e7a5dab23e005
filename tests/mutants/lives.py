"""Faults of how incarnations end, and of what they leave to the next."""

from __future__ import annotations

from tests.mutants.mutant import FUZZ, Mutant

CELL = "creche/runtime/cell.py"
LIFE = "creche/runtime/life.py"
COMPANION = "creche/runtime/companion.py"
HANDLING = "creche/runtime/handling.py"
AGENDA = "creche/runtime/agenda.py"
TIMERS = "creche/runtime/timers.py"
MONITORS = "creche/runtime/monitors.py"

MUTANTS = (
    Mutant(
        "a crash does not wake who waits for what it has taken down",
        CELL,
        """
             self._condemned = failure  # and the end that has begun goes on
-            self.wake()  # it may wait for what is in flight, which will not end by itself any more
""",
        ("tests/issues/test_ends_that_hang.py",),
    ),
    Mutant(
        "the successor starts before background work has ended",
        CELL,
        """
-            if self._companion.at_work:
-                with trio.CancelScope(shield=True):
-                    await self._companion.join()
+            pass
""",
        ("tests/core/test_lives.py", "tests/core/test_traps.py"),
    ),
    Mutant(
        "an actor that crashes in a loop lets nobody run",
        CELL,
        """
-                        self._left -= BATCH // CRASHES_PER_PASS
""",
        ("tests/supervisors/test_restarts.py",),
    ),
    Mutant(
        "an actor that was stopped while it crashed is restarted",
        LIFE,
        """
-        if self.want is not NOTHING:
-            if failure is not None:
-                self.bad_stop(failure)
+        if self.want is not NOTHING and failure is None:
""",
        (FUZZ, "tests/supervisors"),
    ),
    Mutant(
        "a lease outlives its incarnation",
        CELL,
        """
-        if lease is not None:
-            lease.revoke()
""",
        ("tests/core",),
    ),
    Mutant(
        "timers outlive their incarnation",
        COMPANION,
        """
-        if self.agenda is not None:
-            self.agenda.end()
""",
        ("tests/core/test_timers.py",),
    ),
    Mutant(
        "a link outlives the incarnation that made it",
        MONITORS,
        """
-        if to is State.STARTING:
+        if to is State.STOPPING:
             self.cancel()  # the incarnation that made it has a successor
""",
        ("tests/core/test_monitors.py",),
    ),
    Mutant(
        "a link crashes who is being stopped",
        MONITORS,
        """
-            if not _ends_anyway(self._tied):
+            if self._tied:
""",
        ("tests/core/test_monitors.py",),
    ),
    Mutant(
        "a monitor that was cancelled tells what waits in the lane",
        MONITORS,
        """
     async def run(self) -> None:
         \"\"\"See `Job`.\"\"\"
-        if self._agenda is not None:
+        if self.args:
""",
        ("tests/core/test_monitors.py",),
    ),
    Mutant(
        "a monitor that has told stays with the incarnation",
        MONITORS,
        """
-            self.cancel()
             await super().run()
+            self._node.unwatch(self)
""",
        ("tests/core/test_monitors.py",),
    ),
    Mutant(
        "the cause of the end is not told",
        LIFE,
        """
-        self.will_move_because_of(cause)
         self.move(STOPPED)
""",
        ("tests/core/test_monitors.py",),
    ),
    Mutant(
        "a timer that is replaced when it is due runs all the same",
        AGENDA,
        """
         self._waits_in_lane = False
         if self._agenda is None:
-            return
+            pass
         if self._period is None:
""",
        ("tests/core/test_keyed_timers.py", "tests/core/test_timers.py"),
    ),
    Mutant(
        "a timer that has run stays under its key",
        TIMERS,
        """
         if agenda.keyed.get(self._key) is self:  # else another has taken its place
-            del agenda.keyed[self._key]
+            pass
""",
        ("tests/core/test_keyed_timers.py",),
    ),
    Mutant(
        "a crash hands over",
        CELL,
        """
-        if self._condemned is not None or self._exiting is CUT:
+        if self._exiting is CUT:
             return False
""",
        ("tests/core/test_handover.py",),
    ),
    Mutant(
        "a successor that has started keeps what was handed over",
        CELL,
        """
-        self._handed_over = None  # it has been looked at, or it never will be
""",
        ("tests/core/test_handover.py",),
    ),
    Mutant(
        "an orderly end does not wait for what is in flight",
        HANDLING,
        """
-            while self._condemned is None and self._exiting is not CUT and self._in_flight(self._exiting is not EXIT):
+            while False:
""",
        ("tests/core/test_deferred.py", "tests/core/test_concurrent.py", "tests/core/test_lives.py"),
    ),
    Mutant(
        "what is spawned meets a nursery that has closed",
        COMPANION,
        """
-        if self._nursery is not None and (not self.ends or self._nursery.child_tasks):
+        if self._nursery is not None:
""",
        ("tests/issues/test_spawn_while_ending.py",),
    ),
    Mutant(
        "what is spawned when the nursery has closed is forgotten",
        COMPANION,
        """
-            if self._early:  # spawned when the nursery had been closed
-                self._begin()
""",
        ("tests/issues/test_spawn_while_ending.py",),
    ),
)
