"""What a proxy can be told in JSON: one object with the name of a deed under ``do``, and one answer to each."""

from __future__ import annotations

from abc import abstractmethod

import msgspec
from msgspec import Struct

from .faults import AnyFault, Direction, Ending
from .handle import TcpProxy


class _Command(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag=str.lower):
    @abstractmethod
    async def carry_out(self, proxy: TcpProxy) -> object:
        """Returns the answer."""


class Add(_Command, frozen=True):
    """``{"do": "add", "fault": {"kind": "latency", "seconds": 0.1}}``."""

    fault: AnyFault

    async def carry_out(self, proxy: TcpProxy) -> object:
        await proxy.add(self.fault)
        return self.fault.key


class Remove(_Command, frozen=True):
    """Answers whether there was such a fault."""

    name: str

    async def carry_out(self, proxy: TcpProxy) -> object:
        return await proxy.remove(self.name) > 0


class Set(_Command, frozen=True):
    """These faults and no others; answers their names."""

    faults: tuple[AnyFault, ...]

    async def carry_out(self, proxy: TcpProxy) -> object:
        await proxy.set_faults(*self.faults)
        return [fault.key for fault in self.faults]


class Clear(_Command, frozen=True):
    """No faults."""

    async def carry_out(self, proxy: TcpProxy) -> object:
        await proxy.clear()
        return True


class Faults(_Command, frozen=True):
    """Answers those in force."""

    async def carry_out(self, proxy: TcpProxy) -> object:
        return await proxy.faults()


class Cut(_Command, frozen=True):
    """Answers how many connections there were."""

    how: Ending = "reset"

    async def carry_out(self, proxy: TcpProxy) -> object:
        return await proxy.cut(self.how)


class Blackhole(_Command, frozen=True):
    """Short for adding that fault."""

    direction: Direction = "both"

    async def carry_out(self, proxy: TcpProxy) -> object:
        await proxy.blackhole(self.direction)
        return True


class Refuse(_Command, frozen=True):
    """Refuse connections."""

    async def carry_out(self, proxy: TcpProxy) -> object:
        await proxy.refuse()
        return True


class Accept(_Command, frozen=True):
    """Accept them again."""

    async def carry_out(self, proxy: TcpProxy) -> object:
        await proxy.accept()
        return True


class Statistics(_Command, frozen=True):
    """Answers the counters."""

    async def carry_out(self, proxy: TcpProxy) -> object:
        return await proxy.statistics()


AnyCommand = Add | Remove | Set | Clear | Faults | Cut | Blackhole | Refuse | Accept | Statistics


async def answer(line: bytes, proxy: TcpProxy) -> object:
    """Carry out one command. Raises `msgspec.DecodeError` for what is none, and what the proxy's methods raise."""
    command: AnyCommand = msgspec.json.decode(line, type=AnyCommand)
    return await command.carry_out(proxy)
