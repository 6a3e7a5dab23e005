"""Faults of supervisors, pools, pipelines and processes, and of the proxy."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

GROUPS = "creche/supervisors/groups.py"
RESTARTS = "creche/supervisors/restarts.py"
FLOW = "creche/supervisors/pipelines/flow.py"
PROCESS = "creche/supervisors/processes/process.py"
CONNECTION = "creche/chaos/network/connection.py"
POOL = "creche/supervisors/pools/pool.py"
BACKLOG = "creche/supervisors/pools/backlog.py"
KEYED = "creche/supervisors/pools/keyed.py"
SHARED = "creche/supervisors/pools/shared.py"
LINE = "creche/supervisors/pools/line.py"
WORKER = "creche/supervisors/pools/worker.py"
ADMISSION = "creche/supervisors/pools/admission.py"
POOLS = "tests/supervisors/test_pools.py"
LIMITS = "tests/supervisors/test_pool_limits.py"
STILL = "tests/issues/test_pools_that_stand_still.py"
SUPERVISOR, WAITS = "creche/supervisors/supervisor.py", "creche/runtime/waits.py"
CIRCLE = "tests/supervisors/test_stop_in_a_circle.py"
DYNAMIC = "creche/supervisors/dynamic.py"
DYNAMIC_FUZZ = "tests/supervisors/test_dynamic_fuzz.py"

MUTANTS = (
    Mutant(
        "the rest of a group whose restart is interrupted is forgotten",
        GROUPS,
        """
             if self._group:  # a crash meanwhile: its group and the rest of this one are begun anew
-                self._group.update(left.name for left in members[place:])
                 return
""",
        ("tests/supervisors/test_dependents.py",),
    ),
    Mutant(
        "the trials of a parked child come no later from one to the next",
        RESTARTS,
        """
         probation.ends()
-        probation.trials += 1
+        probation.trials = 1
         delay = child.spec.probe.delay(probation.trials, self.runtime.random)
""",
        ("tests/supervisors/test_budgets.py",),
    ),
    Mutant(
        "two starts at once take the last place",
        DYNAMIC,
        """
             raise TooManyChildren(self.path, self.max_children)
+        await checkpoint()
         return await super().start_child(spec)
""",
        ("tests/supervisors/test_dynamic.py", DYNAMIC_FUZZ),
    ),
    Mutant(
        "dynamic children stop one after the other",
        DYNAMIC,
        """
-                    nursery.start_soon(self._retire, node, Want.DRAIN)
+                    await self._retire(node, Want.DRAIN)
""",
        ("tests/supervisors/test_dynamic.py",),
    ),
    Mutant(
        "a child waits for its own supervisor",
        DYNAMIC,
        """
-        return place.path.startswith(f"{self.path}/") or self.runtime.node_of(place.path).leaves_anyway
+        return False
""",
        ("tests/supervisors/test_dynamic.py",),
    ),
    Mutant(
        "a pool does not count what is handed back",
        BACKLOG,
        """
         assert entry is not None
-        self._count += 1
         self._put_first(seat, (entry[0], item, entry[2]))
""",
        ("tests/supervisors/test_pool_attempts.py",),
    ),
    Mutant(
        "a worker that was woken and dies does not pass the wake on",
        BACKLOG,
        """
         self._blocked.pop(seat, None)
-        self.pass_on()
""",
        (POOLS,),
    ),
    Mutant(
        "who comes for a message does not wake the next one",
        SHARED,
        """
         if common:
-            if self._idle:
-                self.pass_on()
             if common.since == inf:
""",
        (f"{POOLS}::test_a_burst_gets_all_workers_to_work",),
    ),
    Mutant(
        "what is revoked while it waits for one worker still takes room",
        WORKER,
        """
         \"\"\"See `Intake`: all that waits, waits in the pool's backlog.\"\"\"
-        self.front.bury(was)
+        self.revoked += 1
""",
        (f"{LIMITS}::test_what_is_revoked_holds_no_room_whatever_the_routing",),
    ),
    Mutant(
        "what a worker died of comes last when another is to try it",
        BACKLOG,
        """
             entry[1].cell = self._front if seat.from_common else seat.worker
-        line.put_first(entry)
+        line.append(entry)
""",
        (STILL, "tests/supervisors/test_pool_attempts.py"),
    ),
    Mutant(
        "an overload never ends",
        ADMISSION,
        """
         self._slow_since = None
-        self.overloaded = False
""",
        ("tests/supervisors/test_pool_policies.py::test_overload_lasts_until_the_queue_is_empty",),
    ),
    Mutant(
        "a key moves while its retiring worker has it in hand",
        KEYED,
        """
-        elif bound is None:
+        elif bound is None or bound.seat.retired:
             super()._place(entry)
""",
        (f"{LIMITS}::test_resize_keeps_the_order_of_each_key",),
    ),
    Mutant(
        "what was held for a key comes after what waits of it",
        KEYED,
        """
         for entry in reversed(first):
             self._one_unbound_more(entry[2])
-            self.common.put_first(entry)
+            self.common.append(entry)
""",
        (STILL,),
    ),
    Mutant(
        "only the last key of a batch is in hand",
        KEYED,
        """
         if before is not None and before is not seat.hand:
-            seat.batch.append(before[2])
+            self._release(before[2])
""",
        (STILL,),
    ),
    Mutant(
        "a less urgent class starves",
        LINE,
        """
-        if self._taken % FAIR_TURN == FAIR_TURN - 1:
-            return self._eldest()
         return next(entries for entries in self._classes if entries)
""",
        (f"{LIMITS}::test_priority_goes_first_and_starves_nobody",),
    ),
    Mutant(
        "a worker leaves a draining pool while others' mail waits",
        WORKER,
        """
         own = len(self._seat.line)
-        return own + self._backlog.for_anybody() if self._front.draining and not self._seat.retired else own
+        return own
""",
        (f"{POOLS}::test_a_drain_finishes_the_queue_with_all_workers",),
    ),
    Mutant(
        "a draining pool does not wait for what is held",
        KEYED,
        """
         \"\"\"See `Backlog`. What is held will be.\"\"\"
-        return len(self.common) + sum(map(len, self._held.values()))
+        return len(self.common)
""",
        (STILL,),
    ),
    Mutant(
        "who has put a message back is not told that another has taken it",
        BACKLOG,
        """
-            if self._blocked and line is self.common:
-                self._moves_on(item, seat)
             if not self._still_wanted(seat, line, entry):
""",
        (STILL,),
    ),
    Mutant(
        "what waits for a stuck worker waits on",
        WORKER,
        """
-        self.front.backlog.yields(self.seat)  # only what nobody else may handle is refused
         super()._refuse_calls(reason, retry_after)
""",
        (STILL,),
    ),
    Mutant(
        "nobody knows since when those wait that came together",
        SHARED,
        """
-            if common.since == inf:
-                self._read_the_clock()
         if self.mailbox.spill is not None:
""",
        (STILL,),
    ),
    Mutant(
        "an item gives its room back before there is any in the next stage",
        FLOW,
        """
         if len(items) == 1:
-            await room.acquire()
             leave()
+            await room.acquire()
             await self._pass(number, items[0], journey, results)
""",
        ("tests/supervisors/test_pipelines.py",),
    ),
    Mutant(
        "a drain lets those wait who wait for a source",
        FLOW,
        """
         self.closed = True
-        for asking in self._asking:
-            asking.cancel("the pipeline is being stopped")
""",
        ("tests/issues/test_pipelines.py",),
    ),
    Mutant(
        "a worker that is too many is cut off after the drain time",
        POOL,
        """
-        if not self._leaving() and cast("WorkerCell", node).seat.retired:
-            return inf  # to finish what it has in hand, for as long as the pool runs
         return super()._patience_with(node)
""",
        ("tests/issues/test_pools_by_load.py",),
    ),
    Mutant(
        "what a process has started outlives it",
        PROCESS,
        """
-        self.kill()  # what it has left behind
         self._reaped = True
""",
        ("tests/issues/test_processes.py::test_what_a_process_has_started_ends_with_it_however_it_ends",),
    ),
    Mutant(
        "a cut comes before its last bytes have passed",
        CONNECTION,
        """
-                flow.line.in_hand = True
                 await self._pass_on(flow, out, sink)
""",
        ("tests/issues/test_network_faults.py",),
    ),
    Mutant(
        "a call to whoever waits for the caller's end waits in vain",
        SUPERVISOR,
        """
-            with _waiting_for(Change(child, "stopped")):
+            if True:
                 await child.wait_for(State.STOPPED)
""",
        (f"{CIRCLE}::test_a_call_to_who_stops_one_is_refused",),
    ),
    Mutant(
        "a call that waits for whoever stops the caller is not refused",
        WAITS,
        """
     for edge, error in hopeless:
-        edge.fail(error)
+        pass
""",
        (f"{CIRCLE}::test_a_call_that_waits_for_who_stops_its_caller_is_refused",),
    ),
)
