"""The components: one package each, with the same names in each; and `wal`, which those with a file of SQLite share.

Importing them imports none of the third-party packages they stand on; those come with the component's own extra and are
imported when it is opened.
"""

from . import cache as cache
from . import clog as clog
from . import db as db
from . import http as http
from . import mq as mq
from . import uid as uid
