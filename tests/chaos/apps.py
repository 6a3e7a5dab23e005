"""Apps for `creche chaos`: what they count stands in this module, where a fault leaves it broken for good."""

from __future__ import annotations

import trio

import creche
from creche import chaos
from creche import components as c
from creche.chaos.live import Opened


class Ledger:
    """Of two accounts."""

    def __init__(self) -> None:
        self.mine, self.yours, self.on_the_way = 100, 100, False

    def is_balanced(self) -> bool:
        return self.on_the_way or self.mine + self.yours == 200


LEDGER = Ledger()


class Torn(creche.Actor):
    """Gives in a second step what it has taken in the first."""

    async def transfer(self) -> None:
        LEDGER.mine -= 1
        await trio.sleep(0.2)
        LEDGER.yours += 1


torn = creche.App("torn", intensity=creche.Intensity(1000, 1))
BANK = torn.use(creche.child(Torn).options(name="bank", backoff=creche.Backoff(first=0.01, cap=0.1)))
logged = creche.App("logged", intensity=creche.Intensity(1000, 1))
logged.use(c.clog.component())


async def transfers(world: chaos.World, _opened: Opened) -> None:
    world.always("no money is made or lost", LEDGER.is_balanced)
    while True:
        LEDGER.on_the_way = True
        try:
            await BANK.ask.transfer()
        except creche.CallFailed:
            pass
        LEDGER.on_the_way = False
        world.look()
        await trio.sleep(0.1)


def no_load(_world: chaos.World, _opened: Opened) -> None:
    """Not async."""
