"""A durable log with Kafka's words: topics, partitions, keys, consumer groups, offsets.

Today it lives in SQLite on one machine. See ``docs/components/mq.md``.
"""

from __future__ import annotations

from ...runtime.component import ComponentSpec, by_config
from ...runtime.config import validated
from ...runtime.spec import child
from .actor import Clock as Clock
from .actor import LogActor
from .config import Config as Config
from .config import default_config as default_config
from .consumer import Consumer as Consumer
from .consumer import Order as Order
from .consumer import consumer as consumer
from .delivery import Delivery as Delivery
from .delivery import Statistics as Statistics
from .errors import GroupActive as GroupActive
from .errors import GroupInvalid as GroupInvalid
from .errors import MessageTooLarge as MessageTooLarge
from .errors import OffsetInvalid as OffsetInvalid
from .errors import PartitionUnknown as PartitionUnknown
from .errors import TopicExists as TopicExists
from .errors import TopicInvalid as TopicInvalid
from .errors import TopicUnknown as TopicUnknown
from .errors import Unavailable as Unavailable
from .events import GroupLags as GroupLags
from .events import MembersExpelled as MembersExpelled
from .events import PartitionsAssigned as PartitionsAssigned
from .events import PartitionsRevoked as PartitionsRevoked
from .events import RecordFailed as RecordFailed
from .events import RecordsExpired as RecordsExpired
from .events import RecordsMissed as RecordsMissed
from .groups import GroupInfo as GroupInfo
from .handle import ConsumerGroups as ConsumerGroups
from .handle import DeadLetters as DeadLetters
from .handle import Mq as Mq
from .handle import Topics as Topics
from .message import OUTBOX_HEADER as OUTBOX_HEADER
from .message import TRACE_HEADER as TRACE_HEADER
from .message import Ack as Ack
from .message import Message as Message
from .message import NotSent as NotSent
from .message import Received as Received
from .message import TopicPartition as TopicPartition
from .processing import ConsumerStatistics as ConsumerStatistics
from .processing import Handler as Handler
from .retry import RetryPolicy as RetryPolicy
from .topic import PartitionInfo as PartitionInfo
from .topic import Retention as Retention
from .topic import TopicInfo as TopicInfo


def component(config: Config | None = None, *, name: str = "mq", clock: Clock | None = None) -> ComponentSpec[Mq]:
    """The log as a child for an app, a supervisor or a runtime.

    Parameters
    ----------
    config
        None takes the section of the app's configuration that is called as the component, over `default_config` of its
        environment; outside of an app `default_config("development")`.
    name
        Of the actor in the tree.
    clock
        Tells seconds since the epoch, for the time of the records, retention, sessions and retry topics. It is called
        in several threads. Default: the runtime's wall clock.

    Raises
    ------
    ConfigInvalid
        A value is out of range. A path that cannot be opened makes the start fail.
    """
    if config is None:
        return by_config(Config, lambda chosen: component(chosen, name=name, clock=clock))
    checked = validated(config)
    return ComponentSpec(name, child(LogActor, checked, clock).options(name=name), Mq)
