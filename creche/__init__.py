"""creche: supervised actors for Trio, and the infrastructure a service needs built on them."""

from .components.http import ServerConfig as ServerConfig
from .components.http import http_server as http_server
from .runtime import events as events
from .runtime.actor import Actor as Actor
from .runtime.actor import batched as batched
from .runtime.actor import message as message
from .runtime.backoff import Backoff as Backoff
from .runtime.config import Config as Config
from .runtime.config import PositiveSeconds as PositiveSeconds
from .runtime.config import Seconds as Seconds
from .runtime.config import Secret as Secret
from .runtime.configuration import load_config as load_config
from .runtime.configuration import read_configuration as read_configuration
from .runtime.context import current_deadline as current_deadline
from .runtime.context import current_runtime as current_runtime
from .runtime.errors import ActorStopped as ActorStopped
from .runtime.errors import CallCycle as CallCycle
from .runtime.errors import CallFailed as CallFailed
from .runtime.errors import ConfigInvalid as ConfigInvalid
from .runtime.errors import CrecheError as CrecheError
from .runtime.errors import DeadlineExceeded as DeadlineExceeded
from .runtime.errors import DomainError as DomainError
from .runtime.errors import Killed as Killed
from .runtime.errors import MailboxFull as MailboxFull
from .runtime.errors import NotDelivered as NotDelivered
from .runtime.errors import NotStarted as NotStarted
from .runtime.errors import OutcomeUnknown as OutcomeUnknown
from .runtime.errors import PeerFailed as PeerFailed
from .runtime.errors import SpecInvalid as SpecInvalid
from .runtime.errors import StartFailed as StartFailed
from .runtime.errors import TreeFailed as TreeFailed
from .runtime.errors import Unavailable as Unavailable
from .runtime.handle import Handle as Handle
from .runtime.runtime import Runtime as Runtime
from .runtime.slots import BatchItem as BatchItem
from .runtime.slots import ReplySlot as ReplySlot
from .runtime.spec import Spec as Spec
from .runtime.spec import child as child
from .supervisors.app import App as App
from .supervisors.app import Running as Running
from .supervisors.budget import Intensity as Intensity
from .supervisors.opening import open_runtime as open_runtime
from .supervisors.spec import supervisor as supervisor

__version__ = "0.1.0.dev0"
