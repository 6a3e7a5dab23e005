"""What must hold for the bank, whatever strikes; in virtual time, from one seed after the other.

``creche chaos examples.chaos.scenario:transfers --seeds 200`` explores it. With ``careless`` in place of ``transfers``
it finds what is wrong with `CarelessBank`.
"""

from __future__ import annotations

import trio

from creche import chaos

from .bank import ACCOUNTS, OPENING_BALANCE, Bank, InsufficientFunds, Ledger, build, pay

TRANSFERS = 12


async def transfers(world: chaos.World, bank_class: type[Bank] = Bank) -> None:
    """Customers transfer money under the plan."""
    ledger, accepted = Ledger(), Ledger()  # the second is what the customers know
    app, bank = build(ledger, bank_class)
    world.always("no money is made or lost", lambda: ledger.total == len(ACCOUNTS) * OPENING_BALANCE)
    world.always("nobody is in debt", lambda: min(ledger.balances.values()) >= 0)

    async def customer(number: int) -> None:
        source, target = world.random.sample(ACCOUNTS, 2)
        amount = world.random.randint(1, 60)
        await trio.sleep(world.random.uniform(0, 5))
        if await pay(bank, f"t{number}", source, target, amount):
            accepted.book(f"t{number}", source, target, amount)

    async with app.open() as running:
        async with world.unleashed(running.runtime), trio.open_nursery() as nursery:
            for number in range(TRANSFERS):
                nursery.start_soon(customer, number)
        await world.eventually("healthy again", lambda: chaos.healthy(running.runtime), within=20)
    world.always("what was accepted is booked once", lambda: accepted.balances == ledger.balances)


class CarelessBank(Bank):
    """Takes the money first, and gives it when the other bank has answered."""

    async def transfer(self, transfer: str, source: str, target: str, amount: int) -> None:
        """As `Bank.transfer`."""
        if transfer in self.ledger.booked:
            return
        if self.ledger.balances[source] < amount:
            raise InsufficientFunds(source)
        self.ledger.balances[source] -= amount
        self.ledger.balances[target] += amount
        await self._ask_the_other_bank()  # a crash in here, and the transfer is asked for again
        self.ledger.booked.add(transfer)


async def careless(world: chaos.World) -> None:
    """The same with the careless bank."""
    await transfers(world, CarelessBank)
