"""Where records go whose handlers failed, and what their headers tell: pure."""

from __future__ import annotations

import re
from typing import Final

from .errors import TopicInvalid
from .message import ORIGINAL_TOPIC, OUTBOX_HEADER, Letter, Received, is_topic

DEAD_LETTER_SUFFIX: Final = ".dead_letter"
GROUP: Final = "creche-group"
FOR_GROUP: Final = "creche-for-group"
ATTEMPTS: Final = "creche-attempts"
NOT_BEFORE: Final = "creche-not-before"
_ORIGINAL_PARTITION = "creche-original-partition"
_ORIGINAL_OFFSET = "creche-original-offset"
_ORIGINAL_TIME = "creche-original-time"
_ERROR_TYPE = "creche-error-type"
_ERROR = "creche-error"
_LONGEST_ERROR = 1000  # characters
_WHOLE = re.compile(r"[0-9]{1,9}")
_DECIMAL = re.compile(r"[0-9]{1,12}(\.[0-9]{1,20})?")
_OF_A_FAILURE = (ATTEMPTS, NOT_BEFORE, _ERROR_TYPE, _ERROR, GROUP, FOR_GROUP)


def retry_topic(topic: str, stage: int) -> str:
    """The topic in which a record of `topic` waits for its `stage`-th try there, from 1. Raises `TopicInvalid`."""
    return _checked(f"{topic}.retry.{stage}")


def dead_letter_topic(topic: str) -> str:
    """Where letters of `topic` go by default. Raises `TopicInvalid`: a topic's name may be too long for it."""
    return _checked(topic + DEAD_LETTER_SUFFIX)


def is_for(record: Received, group: str) -> bool:
    """Whether the group is to handle the record: what comes back for another one is not its business."""
    return record.headers.get(FOR_GROUP, group) == group


def attempts_before(record: Received) -> int:
    """How often the record had failed when it came into this topic."""
    text = record.headers.get(ATTEMPTS, "")
    return int(text) if _WHOLE.fullmatch(text) else 0  # anybody may send such a header


def not_before(record: Received) -> float:
    """When the record is due, in seconds since the epoch."""
    text = record.headers.get(NOT_BEFORE, "")
    return float(text) if _DECIMAL.fullmatch(text) else 0.0


def for_retry(record: Received, topic: str, group: str, error: Exception, attempts: int, due: float) -> Letter:
    """The record as it goes to the retry topic `topic`, for one more try of this group when it is due.

    Its id makes it idempotent: a group that moves the same record again, after a crash, adds nothing.
    """
    headers = _headers(record, error, attempts, f"retry:{group}:{_name(record)}")
    return Letter(topic, record.value, record.key, {**headers, FOR_GROUP: group, NOT_BEFORE: f"{due:.6f}"})


def dead_letter(record: Received, topic: str, group: str, error: Exception, attempts: int) -> Letter:
    """The record as it goes to the dead-letter topic: as it was, with what became of it in the headers. Idempotent."""
    headers = _headers(record, error, attempts, f"dead_letter:{group}:{_name(record)}")
    return Letter(topic, record.value, record.key, {**headers, GROUP: group})


def replayed(letter: Received) -> Letter:
    """The letter as it goes back to its original topic, for the group that had put it aside only. Idempotent."""
    headers = {name: text for name, text in letter.headers.items() if name not in _OF_A_FAILURE}
    headers |= {OUTBOX_HEADER: f"replay:{_name(letter)}", FOR_GROUP: letter.headers[GROUP]}
    return Letter(letter.original_topic, letter.value, letter.key, headers)


def about_failure(letter: Received) -> dict[str, str]:
    """What the headers tell of where the record was sent to, and of what became of it."""
    names = {
        "original_topic": ORIGINAL_TOPIC,
        "original_partition": _ORIGINAL_PARTITION,
        "original_offset": _ORIGINAL_OFFSET,
        "attempts": ATTEMPTS,
        "error_type": _ERROR_TYPE,
        "error": _ERROR,
    }
    return {name: letter.headers[header] for name, header in names.items() if header in letter.headers}


def _headers(record: Received, error: Exception, attempts: int, outbox_id: str) -> dict[str, str]:
    kept = {name: text for name, text in record.headers.items() if name not in _OF_A_FAILURE}
    origin = {
        ORIGINAL_TOPIC: record.topic,
        _ORIGINAL_PARTITION: str(record.partition),
        _ORIGINAL_OFFSET: str(record.offset),
        _ORIGINAL_TIME: f"{record.time:.6f}",
    }
    return {
        **origin,
        **kept,  # of a record that failed before: where it came from at first
        OUTBOX_HEADER: outbox_id,
        _ERROR_TYPE: f"{type(error).__module__}.{type(error).__qualname__}",
        _ERROR: _text_of(error),
        ATTEMPTS: str(attempts),
    }


def _text_of(error: Exception) -> str:
    try:
        text = str(error)[:_LONGEST_ERROR]
    except Exception:  # its own str() may fail: the record must be put aside all the same
        text = ""
    return text.encode(errors="replace").decode()  # a lone surrogate could not be written


def _name(record: Received) -> str:
    """No other record has it: the offsets of a topic that is deleted and made anew begin again, its times do not."""
    return f"{record.topic}/{record.partition}/{record.offset}@{record.time:.6f}"


def _checked(topic: str) -> str:
    if not is_topic(topic):
        raise TopicInvalid(topic)
    return topic
