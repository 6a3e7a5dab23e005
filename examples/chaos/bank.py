"""The bank: one actor that books transfers into a ledger that outlives it.

``creche chaos examples.chaos.bank:app --load examples.chaos.bank:load --for 5s`` lets faults strike it while it runs.
"""

from __future__ import annotations

import trio

import creche
from creche import chaos

ACCOUNTS: tuple[str, ...] = ("ada", "edsger", "grace")
OPENING_BALANCE = 100
QUICK = creche.Backoff(first=0.01, cap=0.2)
UNDER_FIRE = creche.Intensity(1000, 1.0)


class Ledger:
    """What is left when an actor dies: a stand-in for a database, whose one transaction is `book`."""

    def __init__(self) -> None:
        self.balances: dict[str, int] = dict.fromkeys(ACCOUNTS, OPENING_BALANCE)
        self.booked: set[str] = set()

    @property
    def total(self) -> int:
        """All the money that there is."""
        return sum(self.balances.values())

    def book(self, transfer: str, source: str, target: str, amount: int) -> None:
        """Move money, once for each transfer, all or nothing."""
        if transfer not in self.booked:
            self.booked.add(transfer)
            self.balances[source] -= amount
            self.balances[target] += amount


class InsufficientFunds(creche.DomainError):
    """The account has not got so much."""

    def __init__(self, account: str) -> None:
        super().__init__(1000, f"{account} has not got so much")


class Bank(creche.Actor):
    """Books transfers. A transfer that is asked for again, because nobody knows what became of it, is booked once."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def transfer(self, transfer: str, source: str, target: str, amount: int) -> None:
        """Raises `InsufficientFunds`."""
        await self._ask_the_other_bank()
        if transfer not in self.ledger.booked and self.ledger.balances[source] < amount:
            raise InsufficientFunds(source)
        self.ledger.book(transfer, source, target, amount)

    async def _ask_the_other_bank(self) -> None:
        await trio.sleep(0.02)


async def pay(bank: creche.Handle[Bank], transfer: str, source: str, target: str, amount: int) -> bool:
    """Transfer, and ask again for as long as it is not known what became of it. False: refused."""
    while True:
        try:
            await bank.within(5).ask.transfer(transfer, source, target, amount)
        except InsufficientFunds:
            return False
        except creche.CallFailed:
            await trio.sleep(0.05)
        else:
            return True


def build(ledger: Ledger, bank_class: type[Bank] = Bank) -> tuple[creche.App, creche.Handle[Bank]]:
    """The bank as an app, and the way to it."""
    made = creche.App("bank", intensity=UNDER_FIRE)
    return made, made.use(creche.child(bank_class, ledger).options(name="bank", backoff=QUICK))


LEDGER = Ledger()
app, BANK = build(LEDGER)


async def load(world: chaos.World, _opened: creche.Running) -> None:
    """What customers do while ``creche chaos`` strikes the live app."""
    world.always("no money is made or lost", lambda: LEDGER.total == len(ACCOUNTS) * OPENING_BALANCE)

    async def customer(me: int) -> None:
        number = 0
        while True:
            source, target = world.random.sample(ACCOUNTS, 2)
            await pay(BANK, f"{me}-{number}", source, target, world.random.randint(1, 20))
            number += 1

    async with trio.open_nursery() as nursery:
        for me in range(8):
            nursery.start_soon(customer, me)
