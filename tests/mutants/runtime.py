"""Faults of how messages travel, wait, and are handled."""

from __future__ import annotations

from tests.mutants.mutant import FUZZ, Mutant

ENVELOPE = "creche/runtime/envelope.py"
INTAKE = "creche/runtime/intake.py"
MAILBOX = "creche/runtime/mailbox.py"
FLIGHTS = "creche/runtime/flights.py"
SLOTS = "creche/runtime/slots.py"
HANDLING = "creche/runtime/handling.py"
NAMES = "creche/runtime/names.py"
FEEDS = "creche/runtime/feeds.py"
DYNAMIC_FUZZ = "tests/supervisors/test_dynamic_fuzz.py"
ATTEMPTS = "creche/runtime/attempts.py"
WAITS = "creche/runtime/waits.py"
MISSED_WAITS = "tests/issues/test_waits_that_were_missed.py"
VIRTUAL_TIME = "creche/runtime/virtual_time.py"

MUTANTS = (
    Mutant(
        "an await between finding the mailbox empty and parking: a wake-up is lost",
        HANDLING,
        """
             if not queue:
+                await checkpoint()
                 item, value = _NOTHING, None  # an idle actor holds nothing of its last message
""",
        ("tests/core/test_traps.py",),
    ),
    Mutant(
        "a cancelled scope is used for the next message",
        HANDLING,
        """
-            if self._spoiled:
-                return
""",
        (FUZZ, "tests/core/test_callers_gone.py"),
    ),
    Mutant(
        "a cancel does not note that the scope must be renewed",
        HANDLING,
        """
         if self._scope is not None:
-            self._spoiled = True
             self._scope.cancel(reason)
""",
        (FUZZ, "tests/core/test_callers_gone.py"),
    ),
    Mutant(
        "a second answer is taken for the first",
        ENVELOPE,
        """
-    def _settle(self, value: object, error: BaseException | None) -> None:
-        if self.state >= DEFERRED:
+    def _settle(self, value: object, error: BaseException | None) -> None:
+        if self.state == DEFERRED:
             if self.state == SETTLED:  # the caller may not have looked at its outcome yet: it stays as it is
""",
    ),
    Mutant(
        "an answer takes the wait for another call out of the graph",
        ENVELOPE,
        """
-        return self is other
+        return type(self) is type(other)
""",
        (MISSED_WAITS,),
    ),
    Mutant(
        "who comes back to where it waits for any one of several is taken for one that goes on",
        WAITS,
        """
-    trial = known.supposing(cell, _NO_WAY_OUT)
+    trial = known.supposing(cell, None)
""",
        (MISSED_WAITS,),
    ),
    Mutant(
        "a timer that runs while an end waits cannot be cut short",
        HANDLING,
        """
-        with trio.CancelScope() as self._scope:
+        with trio.CancelScope():
""",
        ("tests/issues/test_ends_that_hang.py",),
    ),
    Mutant(
        "a message is taken before the look at the stop flag",
        HANDLING,
        """
                 continue
             item = queue.popleft()
+            if self._ending and self._over():
+                return
""",
    ),
    Mutant(
        "the mailbox is drained into a local list",
        HANDLING,
        """
-        mailbox, queue = self._mailbox, self._mailbox.open()
+        mailbox, queue = self._mailbox, type(self._mailbox.queue)(self._mailbox.open())
+        mailbox.open().clear()
""",
    ),
    Mutant(
        "revoked requests run",
        HANDLING,
        """
-            elif item.state != QUEUED:
+            elif item.state == KEYED:
                 if item.state != KEYED:
""",
    ),
    Mutant(
        "a running handler is not told that its caller has gone",
        ENVELOPE,
        """
         if self._handler_follows():
             self._rarely().raise_cancel = raise_cancel
-            self._cancel_handler()
""",
        ("tests/core/test_callers_gone.py",),
    ),
    Mutant(
        "the message in hand is not answered for after a crash",
        HANDLING,
        """
             self.dead_letter(request.as_cast(), "poison", failure)
-        request.fail(OutcomeUnknown(self.path), failure)
         return True
""",
    ),
    Mutant(
        "the message in hand is put back after a crash",
        HANDLING,
        """
             self.dead_letter(request.as_cast(), "poison", failure)
-        request.fail(OutcomeUnknown(self.path), failure)
+        request.state = QUEUED
+        self._mailbox.put_back(request)
         return True
""",
    ),
    Mutant(
        "who comes later overtakes those that wait for room",
        MAILBOX,
        """
-        return self._in_queue() >= self.capacity or self._waiting() > 0
+        return self._in_queue() >= self.capacity
""",
        ("tests/core/test_mailbox.py::test_nobody_overtakes_between_a_revocation_and_the_refill",),
    ),
    Mutant(
        "revoked requests hold room",
        MAILBOX,
        """
         if was == QUEUED:
-            self._dead += 1
""",
        ("tests/core/test_mailbox.py::test_a_small_mailbox_does_not_fill_up_with_tombstones",),
    ),
    Mutant(
        "room that becomes free is not given to those that wait",
        MAILBOX,
        """
-        if self.spill is not None:
-            self.refill()
""",
    ),
    Mutant(
        "what comes while the actor is busy is not marked with its time",
        MAILBOX,
        """
         if not self.appends_below:
-            self.mark(self._clock())
+            pass
         self.open().append(item)
""",
        ("tests/core/test_mailbox.py", "tests/core/test_overflow.py"),
    ),
    Mutant(
        "the time at which many woke the actor is not read",
        HANDLING,
        """
                 if len(queue) > 1 or self._companion is not None:  # else nothing is going to wait
-                    mailbox.woken(trio.current_time())
+                    pass
""",
        ("tests/core/test_overflow.py",),
    ),
    Mutant(
        "an actor that is busy looks as if it waited for mail",
        HANDLING,
        """
                 await wait_task_rescheduled(self._unpark)
-                mailbox.appends_below = 0
""",
        ("tests/core/test_overflow.py",),
    ),
    Mutant(
        "a handler that waits is forgotten in the wait-for graph",
        INTAKE,
        """
             if edges is not None:
-                edges.remove(request)
+                pass
""",
    ),
    Mutant(
        "mail whose time is over is handled",
        HANDLING,
        """
-                if item.deadline != NEVER and item.deadline <= trio.current_time():
+                if item.deadline != NEVER and item.deadline < 0:
""",
        ("tests/core/test_time.py",),
    ),
    Mutant(
        "messages in flight are not answered for after a crash",
        HANDLING,
        """
         if companion is not None:
-            told = companion.end(failure) or told
+            told = True
""",
    ),
    Mutant(
        "a stop does not wait for what is in flight",
        HANDLING,
        """
-        return not self._mailbox and not self._in_flight() and not self.stashed
+        return not self._mailbox and not self.stashed
""",
        ("tests/core/test_stash.py",),
    ),
    Mutant(
        "a batch overtakes messages of another kind",
        MAILBOX,
        """
-        return self.take() if self.queue and spec_of(self.queue[0]) is spec else None
+        for index, item in enumerate(self.queue):
+            if is_live(item) and spec_of(item) is spec:
+                self.queue.rotate(-index)
+                taken = self.take()
+                self.queue.rotate(index)
+                return taken
+        return None
""",
    ),
    Mutant(
        "one more concurrent handler than the limit",
        FLIGHTS,
        """
-        return self._busy.get(spec.name, 0) < spec.concurrency
+        return self._busy.get(spec.name, 0) <= spec.concurrency
""",
        ("tests/core/test_concurrent.py",),
    ),
    Mutant(
        "what was revoked while unsent is sent",
        SLOTS,
        """
-        if not self._flight.wanted:
-            return False
""",
    ),
    Mutant(
        "a forgotten reply slot leaves its caller waiting",
        SLOTS,
        """
-        if self._flight.open:
-            self._flight.forget()
+        pass
""",
        ("tests/core/test_deferred.py",),
    ),
    Mutant(
        "the newest news is dropped, not the oldest",
        FEEDS,
        """
             self._own.receive_nowait()
-            self._send.send_nowait(value)
""",
        ("tests/core/test_monitors.py", "tests/core/test_names.py"),
    ),
    Mutant(
        "an actor that has ended keeps its name",
        NAMES,
        """
-        if to is State.STOPPED:
+        if to is State.SUSPENDED:
             self._undo()
""",
        ("tests/core/test_names.py", DYNAMIC_FUZZ),
    ),
    Mutant(
        "a change of a group is added to one that was read",
        NAMES,
        """
-        if not self._feed.has_unread:
+        if not self._change.joined and not self._change.left:
""",
        ("tests/core/test_names.py", DYNAMIC_FUZZ),
    ),
    Mutant(
        "stashed messages die with their incarnation",
        HANDLING,
        """
-            self.unstash_all()
+            pass
         if again is not None:
""",
        (FUZZ, "tests/core/test_stash.py"),
    ),
    Mutant(
        "what comes back from the stash comes back in reverse",
        MAILBOX,
        """
-        for item in reversed(items):
+        for item in items:
             queue.appendleft(item)
""",
        ("tests/core/test_stash.py",),
    ),
    Mutant(
        "a revoked call counts as one of the mailbox though it was stashed",
        INTAKE,
        """
-        if was == STASHED and self._stash is not None:
+        if was == STASHED and self._stash is None:
             self._stash.bury()
""",
        (FUZZ, "tests/core/test_stash.py"),
    ),
    Mutant(
        "a caller that has gone does not keep its message out of the stash",
        ENVELOPE,
        """
         if self.state == CANCELLING:
             self.unwound()
-        return self.state == RUNNING
+        return True
""",
        (FUZZ, "tests/core/test_stash.py"),
    ),
    Mutant(
        "drop_oldest loses what comes while a mailbox is over its capacity",
        INTAKE,
        """
-            self._mailbox.put_anyway(item)  # one for one: what was stashed may have come back over the capacity
+            self._mailbox.put(item)
""",
        (FUZZ, "tests/issues/test_overflow_after_a_stash.py"),
    ),
    Mutant(
        "a stop does not wait for the stash",
        HANDLING,
        """
-        return not self._mailbox and not self._in_flight() and not self.stashed
+        return not self._mailbox and not self._in_flight()
""",
        ("tests/core/test_stash.py",),
    ),
    Mutant(
        "messages are taken beside one that was let in",
        HANDLING,
        """
-        while self._has_guests() and not self._over() and not self._spoiled:
-            await self._park()
         return True
""",
        ("tests/core/test_reentrancy.py",),
    ),
    Mutant(
        "what was let in is not in the way of what waits",
        FLIGHTS,
        """
-        return [*beside, *([guest] for guest in self.guests)]
+        return beside
""",
        ("tests/core/test_reentrancy.py",),
    ),
    Mutant(
        "calls are let in without end",
        HANDLING,
        """
-        return spec.reentrant and self._actor is not None and len(self.flights().guests) < MOST_GUESTS
+        return spec.reentrant and self._actor is not None
""",
        ("tests/core/test_reentrancy.py",),
    ),
    Mutant(
        "a call is let in when background work is ending",
        HANDLING,
        """
-        if self._condemned is not None or self.companion().ends:
+        if self._condemned is not None:
             raise NotDelivered(self.path, "crash")
""",
        ("tests/issues/test_reentry_at_the_end.py",),
    ),
    Mutant(
        "what ends is taken for one that was let in",
        FLIGHTS,
        """
-            if activity in self.guests:
+            if activity not in self.running:
                 del self.guests[activity]
""",
        ("tests/core/test_concurrent.py",),
    ),
    Mutant(
        "a message may be tried once more than it is declared",
        ATTEMPTS,
        """
-    return len(causes) + 1 >= spec.attempts
+    return len(causes) >= spec.attempts
""",
        ("tests/core/test_attempts.py",),
    ),
    Mutant(
        "what was tried is told that it was not delivered",
        ENVELOPE,
        """
-        if causes:
+        if causes and isinstance(error, OutcomeUnknown):
             error = given_up(error, cause, causes)
""",
        ("tests/core/test_attempts.py",),
    ),
    Mutant(
        "the next attempt comes last",
        INTAKE,
        """
         \"\"\"Let the next incarnation begin with a message that this one has had in hand.\"\"\"
-        self._mailbox.put_first([item])
+        self._mailbox.put_anyway(item)
""",
        ("tests/core/test_attempts.py",),
    ),
    Mutant(
        "virtual time jumps to a timer past a deadline that comes first",
        VIRTUAL_TIME,
        """
-        ahead = min(to_timer, to_deadline)
+        ahead = to_timer if due else to_deadline
""",
        ("tests/core/test_virtual_time.py",),
    ),
    Mutant(
        "virtual time jumps although something has come in",
        VIRTUAL_TIME,
        """
-            if statistics.tasks_runnable or not self._jump(statistics.seconds_to_next_deadline):
+            if not self._jump(statistics.seconds_to_next_deadline):
""",
        ("tests/core/test_virtual_time.py",),
    ),
    Mutant(
        "simulated blocking code that has begun is given up",
        "creche/runtime/simulation.py",
        """
-            if begun:
-                return trio.lowlevel.Abort.FAILED
             beginning.cancel()
""",
        ("tests/core/test_run_blocking.py",),
    ),
    Mutant(
        "each path to a handler is walked beyond it",
        WAITS,
        """
-    if handler not in known.handlers:
+    if True:
""",
        ("tests/issues/test_wait_for_graph.py",),
    ),
    Mutant(
        "a task that an earlier message left running takes the one in hand",
        HANDLING,
        """
-        return (self._current, self._cast_in_hand) if place is self and self.serial is not None else (None, None)
+        return (self._current, self._cast_in_hand) if place is self else (None, None)
""",
        ("tests/issues/test_hands_of_others.py",),
    ),
)
