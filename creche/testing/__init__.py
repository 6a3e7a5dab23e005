"""Tests of actors: runs that follow from a seed, faults on purpose, records of what happened, and what to expect.

See docs/testing.md. `run` and `seeds` need the extra ``creche[testing]``, and so does the pytest plugin,
``creche.testing.plugin``.
"""

from ..runtime.scheduling import NotDeterministic as NotDeterministic
from ..runtime.simulation import BlockingTime as BlockingTime
from .deterministic import Trace as Trace
from .deterministic import run as run
from .deterministic import seeds as seeds
from .expect import expect_actor_stopped as expect_actor_stopped
from .expect import expect_answer as expect_answer
from .expect import expect_call_cycle as expect_call_cycle
from .expect import expect_deadline_exceeded as expect_deadline_exceeded
from .expect import expect_not_delivered as expect_not_delivered
from .expect import expect_outcome_unknown as expect_outcome_unknown
from .expect import expect_peer_failed as expect_peer_failed
from .fakes import Call as Call
from .fakes import Fake as Fake
from .injector import FaultInjected as FaultInjected
from .injector import Injector as Injector
from .leaks import Leaks as Leaks
from .leaks import leaks_since as leaks_since
from .leaks import look_around as look_around
from .recorder import Recorder as Recorder
