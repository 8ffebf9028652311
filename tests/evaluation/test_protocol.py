"""Presets, and defenses as the command line names them."""

from __future__ import annotations

import pytest

from udc_defense.errors import SettingError
from udc_defense.evaluation.entry import Entry
from udc_defense.evaluation.protocol import (
    PRESETS,
    applies,
    threat_of,
)
from udc_defense.purification import DEFAULT, Purification, defense_name, has_gradient, parse_defense

DEFENSES = (
    None,
    DEFAULT,
    Purification("jpeg", strength=50),
    Purification("ddim", 20, steps=3, draws=2, aggregate="median", options={"eta": 0.5}),
    Purification("ddpm", 30, guide="mse", guidance=20),
    Purification("one_step", 30),
)


@pytest.mark.parametrize("purification", DEFENSES)
def test_the_name_of_a_defense_means_it(purification: Purification | None) -> None:
    assert parse_defense(defense_name(purification)) == purification


@pytest.mark.parametrize(
    "name", ["", "magic", "jpeg:x", "jpeg:1000", "jpeg:sigma=3", "ddim:steps=x", "ddim:5", "ddim:x=1"]
)
def test_a_name_that_means_none(name: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_defense(name)
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_every_entry_of_a_preset_is_a_setting(name: str) -> None:
    """Each knows what its place says, and no two are the same."""
    protocol = PRESETS[name]
    for entries in (protocol.oblivious, protocol.adaptive, protocol.on_trivial, protocol.eot, protocol.elsewhere):
        settings = [entry.settings(0) for entry in entries]
        assert len({repr(setting) for setting in settings}) == len(entries) == len({e.title for e in entries})
    assert {threat_of(entry) for entry in protocol.oblivious} == {"oblivious"}
    known = {threat_of(entry) for entry in protocol.adaptive}
    assert {"bpda", "exact"} <= known and "oblivious" not in known
    assert len(protocol.eot) > 1 and all(purification.is_transform for purification in protocol.trivial)


def test_narrowed_to_attacks_and_threats() -> None:
    quick = PRESETS["quick"]
    assert quick.narrowed(None, None) == quick
    squares = quick.narrowed(["square"], None)
    assert {entry.attack for entry in (*squares.oblivious, *squares.adaptive)} == {"square"}
    bpda = quick.narrowed(None, ["bpda"])
    assert not bpda.oblivious and {threat_of(entry) for entry in (*bpda.adaptive, *bpda.on_trivial)} == {"bpda"}
    added = quick.narrowed(["apgd"], ["oblivious", "exact"])
    assert [(e.attack, threat_of(e)) for e in (*added.oblivious, *added.adaptive)] == [
        ("apgd", "oblivious"),
        ("apgd", "exact"),
    ]


@pytest.mark.parametrize(("attacks", "threats"), [(["magic"], None), (None, ["spy"]), (["cw"], []), ([], None)])
def test_what_leaves_nothing_to_measure(attacks: list[str] | None, threats: list[str] | None) -> None:
    with pytest.raises(SettingError):
        PRESETS["quick"].narrowed(attacks, threats)


def test_who_can_attack_what() -> None:
    exact, square = Entry("", "pgd", {"threat": "exact"}), Entry("", "square", {"threat": "exact"})
    surrogate = Entry("", "pgd", {"threat": "surrogate", "surrogate_steps": 2})
    jpeg, mask, chain = Purification("jpeg"), Purification("bit_depth"), Purification("ddim", 30, steps=3, draws=2)
    assert not has_gradient(jpeg) and has_gradient(mask) and has_gradient(chain)
    assert [applies(exact, p) for p in (jpeg, mask, chain)] == [False, True, True]
    assert applies(square, jpeg)
    assert [applies(surrogate, p) for p in (mask, DEFAULT, chain)] == [False, False, True]
