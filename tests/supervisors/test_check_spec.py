"""Specs are seen as a whole, and what does not go together is refused before anything starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import creche
from creche.supervisors.spec import SupervisorSpec, supervisor
from tests.core.support import Probe

OWN = creche.Intensity(2, 60)


def probe(**options: Any) -> Any:
    return creche.child(Probe).options(**options)


def over(*children: Any, **options: Any) -> SupervisorSpec:
    return supervisor("sub", *children, **options)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "an option of the wrong type": (lambda: probe(intensity=5), "ChildOptions.intensity = 5: a creche.Intensity"),
    "an unknown policy": (
        lambda: probe(on_exhausted="shrug"),
        "ChildOptions.on_exhausted = 'shrug': one of 'park', 'stop', 'escalate'",
    ),
    "no backoff": (lambda: probe(probe=3), "ChildOptions.probe = 3: a creche.Backoff"),
    "a probe at once": (lambda: probe(probe=creche.Backoff()), "what is parked is not tried at once"),
    "half significant": (lambda: probe(significant="yes"), "ChildOptions.significant = 'yes': one of True, False"),
    "a text for a tuple": (lambda: probe(depends_on="db"), "ChildOptions.depends_on = 'db': a tuple of names"),
    "an unknown shutdown": (
        lambda: over(auto_shutdown="sometimes"),
        "SupervisorSpec.auto_shutdown = 'sometimes': one of 'never', 'any_significant', 'all_significant'",
    ),
    "an unknown strategy": (lambda: over(strategy="one_for_two"), "SupervisorSpec.strategy = 'one_for_two': one of"),
    "permanent and significant": (
        lambda: over(probe(significant=True), auto_shutdown="any_significant"),
        'probe.significant = True: a permanent child is restarted whenever it ends: use restart="transient"',
    ),
    "significant for nobody": (
        lambda: over(probe(significant=True, restart="transient")),
        "probe.significant = True: give supervisor 'sub' auto_shutdown=\"any_significant\"",
    ),
    "a policy without a budget": (
        lambda: over(probe(on_exhausted="park")),
        "probe.on_exhausted = 'park': give it a budget of its own: intensity=creche.Intensity(restarts, window)",
    ),
    "a budget of what is never restarted": (
        lambda: over(probe(intensity=OWN, restart="temporary")),
        "a temporary child is never restarted: leave it out",
    ),
    "parking in a group": (
        lambda: over(probe(intensity=OWN, on_exhausted="park"), strategy="one_for_all"),
        "probe.on_exhausted = 'park': one_for_all restarts a whole group: give on_exhausted to supervisor 'sub' itself",
    ),
    "dependencies that nobody looks at": (
        lambda: over(probe(name="a"), probe(name="b", depends_on=("a",))),
        "b.depends_on = ('a',): only strategy=\"dependents\" looks at it, supervisor 'sub' has 'one_for_one'",
    ),
    "an unknown dependency": (
        lambda: over(probe(name="a"), probe(name="b", depends_on=("c",)), strategy="dependents"),
        "b.depends_on = ('c',): no sibling 'c' stands before it (there are: a): it has to start first",
    ),
    "a dependency that starts later": (
        lambda: over(probe(name="a", depends_on=("b",)), probe(name="b"), strategy="dependents"),
        "a.depends_on = ('b',): no sibling 'b' stands before it (there are: none)",
    ),
    "a dependency on itself": (
        lambda: over(probe(name="a", depends_on=("a",)), strategy="dependents"),
        "no sibling 'a' stands before it",
    ),
    "a permanent supervisor that shuts itself down": (
        lambda: supervisor("root", over(auto_shutdown="any_significant")),
        "sub.auto_shutdown = 'any_significant': what shuts itself down must not be restarted for it",
    ),
    "two of one name": (lambda: over(probe(), probe()), "name = 'probe': siblings need different names"),
    "no spec": (lambda: over(Probe), "pass a spec: creche.child(Probe, ...)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_specs_are_refused_as_a_whole(case: str) -> None:
    """What does not go together is refused when the supervisor's spec is made, with the field, the value and what to
    write instead."""
    make, text = WRONG[case]
    with pytest.raises(creche.SpecInvalid, match=re.escape(text)):
        make()


SINGLE = {
    name: WRONG[name][1]
    for name in ("a policy without a budget", "a budget of what is never restarted", "permanent and significant")
}
ALONE = {
    "a policy without a budget": probe(on_exhausted="park"),
    "a budget of what is never restarted": probe(intensity=OWN, restart="temporary"),
    "permanent and significant": probe(significant=True),
}


@pytest.mark.parametrize("case", ALONE)
async def test_check_spec_sees_what_start_would_refuse(case: str) -> None:
    """`creche.check_spec` raises what `runtime.start` would, and starts nothing."""
    with pytest.raises(creche.SpecInvalid, match=re.escape(SINGLE[case])):
        creche.check_spec(ALONE[case])
    async with creche.open_runtime("t") as runtime:
        with pytest.raises(creche.SpecInvalid, match=re.escape(SINGLE[case])):
            await runtime.start(ALONE[case])
        assert runtime.tree().children == ()


async def test_a_start_is_seen_together_with_its_siblings() -> None:
    """What is started at run time is checked against its supervisor and its siblings."""
    async with creche.open_runtime("t", root=supervisor("root", strategy="dependents")) as runtime:
        await runtime.start(probe(name="a"))
        for wrong in (probe(name="a"), probe(depends_on=("b",)), probe(significant=True, restart="transient")):
            with pytest.raises(creche.SpecInvalid):
                await runtime.start(wrong)
        await runtime.start(probe(name="b", depends_on=("a",)))
        assert [node.name for node in runtime.tree().children] == ["a", "b"]


def test_check_spec_takes_what_is_right() -> None:
    """A spec that is right passes, however deep; what is no spec is refused with what to pass."""
    job = probe(significant=True, restart="transient")
    creche.check_spec(
        supervisor("root", over(job, auto_shutdown="all_significant").options(restart="transient", on_exhausted="stop"))
    )
    creche.check_spec(probe(intensity=OWN, on_exhausted="park"))
    with pytest.raises(creche.SpecInvalid, match=re.escape("pass a spec: creche.child(Probe, ...)")):
        creche.check_spec(Probe)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("root", "field"),
    [
        (over(auto_shutdown="any_significant").options(restart="transient"), "auto_shutdown"),
        (over().options(on_exhausted="park"), "on_exhausted"),
        (over().options(intensity=OWN), "intensity"),
        (over().options(significant=True, restart="transient"), "significant"),
    ],
)
def test_the_root_has_nobody_above_it(root: SupervisorSpec, field: str) -> None:
    """Options for the supervisor above it are refused at the root."""
    with pytest.raises(creche.SpecInvalid, match=rf"open_runtime\(root=\.\.\.\)\.{field} = .*under the root"):
        creche.open_runtime("t", root=root)
