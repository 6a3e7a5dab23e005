"""Who of a group reads which partition: pure.

Balanced and sticky, as Kafka's cooperative-sticky assignor: nobody has two partitions more than somebody else who could
take one of them, and of those that are well placed none moves. Members may want different topics. All members would
come to the same result, for nothing here depends on an order that is not given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .message import TopicPartition


def assign(
    wanted: Mapping[str, frozenset[str]], partitions: Sequence[TopicPartition], owners: Mapping[TopicPartition, str]
) -> dict[TopicPartition, str]:
    """The member for each partition that any member wants.

    `wanted` are each member's topics; `owners` tells who has what now, members that are gone left out or not.
    """
    shares: dict[str, list[TopicPartition]] = {member: [] for member in sorted(wanted)}
    homeless: list[TopicPartition] = []
    for place in sorted(partitions):
        owner = owners.get(place)
        if owner is not None and place[0] in wanted.get(owner, ()):
            shares[owner].append(place)
        else:
            homeless.append(place)
    for place in homeless:
        takers = [member for member, topics in sorted(wanted.items()) if place[0] in topics]
        if takers:
            shares[min(takers, key=lambda member: len(shares[member]))].append(place)
    while _improve(shares, wanted):
        pass
    return {place: member for member, share in shares.items() for place in share}


def _improve(shares: dict[str, list[TopicPartition]], wanted: Mapping[str, frozenset[str]]) -> bool:
    """Move one partition from who has more to who has at least two less. False: there is none to move."""
    by_load = sorted(shares, key=lambda member: (len(shares[member]), member))
    for giver in reversed(by_load):
        for taker in by_load:
            if len(shares[giver]) - len(shares[taker]) < 2:
                break
            for index in reversed(range(len(shares[giver]))):
                if shares[giver][index][0] in wanted[taker]:
                    shares[taker].append(shares[giver].pop(index))
                    return True
    return False
