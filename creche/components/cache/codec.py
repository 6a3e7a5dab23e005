"""How values become bytes, and bytes values again."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, final

import msgspec

from .errors import ValueInvalid

_MOST_DECODERS = 256
_WHOLE_NUMBER = re.compile(rb"-?[0-9]+")  # MessagePack begins everything else that is stored with another byte


@final
class Codec:
    """Bytes and text are stored as they are, whole numbers in decimal, everything else as JSON or MessagePack.

    So whatever is stored can be read as bytes, text and numbers by every other client, and a number can be counted up.
    """

    def __init__(self, name: Literal["json", "msgpack"]) -> None:
        self._is_json = name == "json"
        self._encode = msgspec.json.encode if name == "json" else msgspec.msgpack.encode
        self._decoder: Callable[[Any], Any] = msgspec.json.Decoder if name == "json" else msgspec.msgpack.Decoder
        self._decoders: dict[Any, Any] = {}  # {type: its decoder}, made once: to make one costs more than to use it

    def encode(self, value: object) -> bytes:
        """Raises `ValueError` for None, and `TypeError` for what cannot be encoded."""
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return value.encode()
        if value is None:
            raise ValueError("None cannot be cached: it is what a miss looks like; see `negative_ttl` of get_or_load")
        if isinstance(value, int) and not isinstance(value, bool):
            return b"%d" % value
        return self._encode(value)

    def decode(self, key: str, data: bytes, type: Any) -> Any:
        """Raises `ValueInvalid`. `key` is for that error."""
        if type is bytes:
            return data
        try:
            if type is str:
                return data.decode()
            if type is int:
                return int(data)
            if not self._is_json and _WHOLE_NUMBER.fullmatch(data):  # to JSON it is a number as it is
                return msgspec.convert(int(data), type)
            return self._decoder_for(type).decode(data)
        except msgspec.DecodeError as error:
            reason = str(error)
        except UnicodeDecodeError:
            reason = "not UTF-8"
        except ValueError:
            reason = "not a decimal number"
        raise ValueInvalid(key, type, reason)  # out here: a cause could tell what the value is

    def _decoder_for(self, type: Any) -> Any:
        decoder = self._decoders.get(type)
        if decoder is None:
            if len(self._decoders) >= _MOST_DECODERS:
                self._decoders.clear()
            decoder = self._decoders[type] = self._decoder(type)
        return decoder
