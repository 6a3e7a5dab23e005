"""Network faults for real connections: a TCP proxy that misbehaves on demand.

An actor between a client and its server. Faults are set and lifted while connections are open; see `tcp_proxy`.
"""

from .events import ConnectionClosed as ConnectionClosed
from .events import ConnectionOpened as ConnectionOpened
from .events import FaultsChanged as FaultsChanged
from .events import ListenerChanged as ListenerChanged
from .events import UpstreamUnreachable as UpstreamUnreachable
from .faults import Blackhole as Blackhole
from .faults import Corrupt as Corrupt
from .faults import Cut as Cut
from .faults import Fault as Fault
from .faults import HalfOpen as HalfOpen
from .faults import Latency as Latency
from .faults import Rate as Rate
from .faults import Reset as Reset
from .faults import Slicer as Slicer
from .faults import SlowClose as SlowClose
from .faults import Stall as Stall
from .handle import TcpProxy as TcpProxy
from .handle import tcp_proxy as tcp_proxy
from .statistics import Statistics as Statistics
