"""What is asked of the database.

Built once, the values are parameters: SQLAlchemy takes five times as long to build and look up a new statement as to
execute one that it has seen.
"""

from __future__ import annotations

from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from .model import counted, inbox, members, messages, session_counters, sessions, users, world_inbox

# --- users and sessions -------------------------------------------------------------------------------------------

USER = select(users).where(users.c.id == bindparam("user"))
KNOWN_USERS = select(users.c.id).where(users.c.id.in_(bindparam("users", expanding=True)))

_user = upsert(users)
SAVE_USER = _user.on_conflict_do_update(index_elements=["id"], set_={"name": _user.excluded.name})

# One row for each member; one with no member for a session that has none.
SESSION = (
    select(sessions.c.kind, members.c.user_id)
    .outerjoin(members, members.c.session_id == sessions.c.id)
    .where(sessions.c.id == bindparam("session"))
    .order_by(members.c.user_id)
)
_session = upsert(sessions)
SAVE_SESSION = _session.on_conflict_do_update(index_elements=["id"], set_={"kind": _session.excluded.kind})
REMOVE_MEMBERS = delete(members).where(members.c.session_id == bindparam("session"))
ADD_MEMBER = insert(members)

# --- messages -----------------------------------------------------------------------------------------------------

MESSAGE = select(messages).where(messages.c.id == bindparam("message"))
MESSAGE_OF_KEY = select(messages).where(messages.c.request_key == bindparam("key"))
ADD_MESSAGE = upsert(messages).on_conflict_do_nothing(index_elements=["request_key"])

HISTORY = (
    select(messages)
    .where(messages.c.session_id == bindparam("session"), messages.c.id > bindparam("after"))
    .order_by(messages.c.id)
    .limit(bindparam("limit"))
)
_delivered = select(inbox.c.message_id).where(
    inbox.c.user_id == bindparam("user"), inbox.c.message_id > bindparam("after")
)
_for_all = select(world_inbox.c.message_id).where(world_inbox.c.message_id > bindparam("after"))
INBOX = (
    select(messages)
    .where(messages.c.id.in_(_delivered.union_all(_for_all)))
    .order_by(messages.c.id)
    .limit(bindparam("limit"))
)

# --- what consumers write: each row once, however often its message is delivered ----------------------------------

COUNT = select(session_counters.c.messages).where(session_counters.c.session_id == bindparam("session"))
MARK_COUNTED = upsert(counted).on_conflict_do_nothing()
COUNT_ONE = (
    upsert(session_counters)
    .values(session_id=bindparam("session"), messages=1)
    .on_conflict_do_update(index_elements=["session_id"], set_={"messages": session_counters.c.messages + 1})
)
DELIVER = upsert(inbox).on_conflict_do_nothing()
DELIVER_TO_ALL = upsert(world_inbox).on_conflict_do_nothing()
