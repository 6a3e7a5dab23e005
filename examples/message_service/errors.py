"""The service's own errors, and the one table that says how each leaves over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

import creche


class ErrorCode(IntEnum):
    """Codes of the domain; part of the API."""

    INVALID_INPUT = 1000
    USER_NOT_FOUND = 1001
    PERMISSION_DENIED = 1002
    RATE_LIMITED = 1003
    KEY_CONFLICT = 1004
    TOO_LARGE = 1005
    SESSION_NOT_FOUND = 1006
    MESSAGE_NOT_FOUND = 1007


HTTP_STATUS: Mapping[ErrorCode, int] = MappingProxyType(
    {
        ErrorCode.INVALID_INPUT: 400,
        ErrorCode.USER_NOT_FOUND: 404,
        ErrorCode.PERMISSION_DENIED: 403,
        ErrorCode.RATE_LIMITED: 429,
        ErrorCode.KEY_CONFLICT: 409,
        ErrorCode.TOO_LARGE: 413,
        ErrorCode.SESSION_NOT_FOUND: 404,
        ErrorCode.MESSAGE_NOT_FOUND: 404,
    }
)


class InvalidInput(creche.DomainError):
    """The request is wrong; the message says where."""

    def __init__(self, message: str, cause: BaseException | None = None) -> None:
        super().__init__(ErrorCode.INVALID_INPUT, message, cause)


class EntityNotFound(creche.DomainError):
    """There is nothing with this id. Its subclasses say what it would be."""


class UserNotFound(EntityNotFound):
    """No such user."""

    def __init__(self, user_id: str) -> None:
        super().__init__(ErrorCode.USER_NOT_FOUND, f"there is no user {user_id!r}")
        self.user_id = user_id


class SessionNotFound(EntityNotFound):
    """No such session."""

    def __init__(self, session_id: str) -> None:
        super().__init__(ErrorCode.SESSION_NOT_FOUND, f"there is no session {session_id!r}")
        self.session_id = session_id


class MessageNotFound(EntityNotFound):
    """No such message."""

    def __init__(self, message_id: int) -> None:
        super().__init__(ErrorCode.MESSAGE_NOT_FOUND, f"there is no message '{message_id}'")
        self.message_id = message_id


class PermissionDenied(creche.DomainError):
    """Who asks may not do this."""

    def __init__(self, user_id: str, session_id: str) -> None:
        super().__init__(ErrorCode.PERMISSION_DENIED, f"user {user_id!r} is not a member of session {session_id!r}")
        self.user_id, self.session_id = user_id, session_id


class KeyConflict(creche.DomainError):
    """The idempotency key has been used for another message."""

    def __init__(self, key: str) -> None:
        super().__init__(ErrorCode.KEY_CONFLICT, f"the idempotency key {key!r} was used for a different message")


class TooLarge(creche.DomainError):
    """The request's body is larger than the service reads."""

    def __init__(self, limit: int) -> None:
        super().__init__(ErrorCode.TOO_LARGE, f"the body is larger than {limit} bytes")


# What creche itself reports, as the client should see it: status and a text. Causes stay in the log.
RETRY = "the service was interrupted; retry with the same X-Idempotency-Key"
FAILURES: tuple[tuple[type[Exception], int, str], ...] = (
    (creche.DeadlineExceeded, 504, RETRY),
    (creche.CallFailed, 503, RETRY),
    (creche.Unavailable, 503, RETRY),
)


def response_for(error: Exception) -> tuple[int, str, str, float | None]:
    """Status, code, text and seconds to wait (None: not known) for an error. Anything not in the tables is a 500
    without details.
    """
    if isinstance(error, creche.DomainError):
        if isinstance(error.code, ErrorCode):
            return HTTP_STATUS[error.code], error.code.name, error.message, None
        return error.http_status, type(error).__name__, error.message, None  # a component's own
    for kind, status, text in FAILURES:
        if isinstance(error, kind):
            return status, kind.__name__, text, getattr(error, "retry_after", None)
    return 500, "INTERNAL", "internal error", None
