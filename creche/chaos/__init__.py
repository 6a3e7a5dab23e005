"""Chaos that replays: faults drawn from a seed, carried out live or in virtual time. See docs/guides/chaos.md.

Needs the extra ``creche[testing]`` for `run` and what is built on it. The faults of real connections are in `network`,
which needs nothing.
"""

from ..testing.faults import Act as Act
from ..testing.faults import Crash as Crash
from ..testing.faults import Cut as Cut
from ..testing.faults import Delay as Delay
from ..testing.faults import Fault as Fault
from ..testing.faults import Hang as Hang
from ..testing.faults import Kill as Kill
from ..testing.faults import RefuseStart as RefuseStart
from ..testing.faults import StepClock as StepClock
from ..testing.injector import FaultInjected as FaultInjected
from ..testing.injector import Injector as Injector
from ..testing.journal import Journal as Journal
from ..testing.journal import Summary as Summary
from . import network as network
from .explore import Finding as Finding
from .explore import Report as Report
from .explore import Run as Run
from .explore import Scenario as Scenario
from .explore import check as check
from .explore import explore as explore
from .explore import replay as replay
from .explore import run as run
from .explore import run_live as run_live
from .live import healthy as healthy
from .live import scenario_of as scenario_of
from .network import TcpProxy as TcpProxy
from .network import tcp_proxy as tcp_proxy
from .plan import Plan as Plan
from .plan import PlanInvalid as PlanInvalid
from .plan import Recipe as Recipe
from .plan import Step as Step
from .plan import draw as draw
from .plan import targets_in as targets_in
from .world import Violated as Violated
from .world import World as World
