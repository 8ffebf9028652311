"""Studies: presets, files that people write, and defenses as the command line names them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from udc_defense.errors import SettingError
from udc_defense.evaluation.estimate import expected, passes
from udc_defense.evaluation.study import PRESETS, Attack, Part, Plan, Study, read_study
from udc_defense.photo.source import from_title
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


def attacks_of(study: Study) -> list[tuple[str, str]]:
    return [(attack.name, attack.threat) for part in study.parts for attack in part.attacks if not part.elsewhere]


@pytest.mark.parametrize("name", PRESETS)
def test_every_attack_of_a_preset_is_a_setting(name: str) -> None:
    """Each knows what its place says, and no two of a part are the same."""
    study = read_study(name)
    for part in study.parts:
        settings = [attack.settings() for attack in part.attacks]
        titles = {attack.title for attack in part.attacks}
        assert len({repr(setting) for setting in settings}) == len(part.attacks) == len(titles)
        if part.defenses in (("tested",), ("plain",)):
            assert "oblivious" not in {attack.threat for attack in part.attacks}
    known = {attack.threat for part in study.parts if part.defenses == ("tested",) for attack in part.attacks}
    assert {"bpda", "exact"} <= known
    plan = Plan(study, (from_title("a"),), {"udc": ("default",)}, (DEFAULT,))
    assert all(purification.is_transform for purification in plan.plain) and len(plan.plain) > 3


def test_narrowed_to_attacks_and_threats() -> None:
    quick = read_study("quick")
    assert quick.narrowed(None, None).parts == quick.parts
    assert {name for name, _ in attacks_of(quick.narrowed(["square"], None))} == {"square"}
    assert {threat for _, threat in attacks_of(quick.narrowed(None, ["bpda"]))} == {"bpda"}
    assert attacks_of(quick.narrowed(["apgd"], ["oblivious", "exact"])) == [("apgd", "oblivious"), ("apgd", "exact")]


@pytest.mark.parametrize(("attacks", "threats"), [(["magic"], None), (None, ["spy"]), (["cw"], []), ([], None)])
def test_what_leaves_nothing_to_measure(attacks: list[str] | None, threats: list[str] | None) -> None:
    with pytest.raises(SettingError):
        read_study("quick").narrowed(attacks, threats)


def test_who_can_attack_what() -> None:
    exact, square = Attack("", "pgd", {"threat": "exact"}), Attack("", "square", {"threat": "exact"})
    surrogate = Attack("", "pgd", {"threat": "surrogate", "surrogate_steps": 2})
    jpeg, mask, chain = Purification("jpeg"), Purification("bit_depth"), Purification("ddim", 30, steps=3, draws=2)
    assert not has_gradient(jpeg) and has_gradient(mask) and has_gradient(chain)
    assert [exact.applies(p) for p in (None, jpeg, mask, chain)] == [False, False, True, True]
    assert square.applies(jpeg)
    assert [surrogate.applies(p) for p in (mask, DEFAULT, chain)] == [False, False, True]


STUDY = """
size = 24
defenses = ["jpeg:75"]
plain = ["bit_depth:5"]
[groups]
blurs = ["gaussian_blur:1", "median_blur:3"]
[[part]]
attacks = [{ title = "PGD-2", attack = "pgd", steps = 2 }]
[[part]]
defenses = ["blurs", "none"]
images = 1
size = 16
attacks = [{ title = "FGSM", attack = "fgsm" }, { title = "FGSM, exact", attack = "fgsm", threat = "exact" }]
"""


def test_a_study_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(STUDY)
    study = read_study(str(tmp_path / "mine.toml"))
    photos = (from_title("a"), replace(from_title("b"), adaptive=True))
    jobs = Plan(study, photos, {"udc": ("default",)}, (Purification("jpeg"),)).jobs()
    made = [(job.title, job.photo.name, job.size, [defense_name(p) for p in job.purifications]) for job in jobs]
    assert made == [
        ("PGD-2", "a", 24, ["none", "jpeg:75", "bit_depth:5"]),
        ("PGD-2", "b", 24, ["none", "jpeg:75", "bit_depth:5"]),
        ("FGSM", "b", 16, ["gaussian_blur:1", "median_blur:3", "none"]),
        ("FGSM, exact", "b", 16, ["gaussian_blur:1"]),
        ("FGSM, exact", "b", 16, ["median_blur:3"]),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("size = ", "is no study"),
        ("size = 24", "'part'"),
        (STUDY.replace("size = 24", "colour = 1"), "colour"),
        (STUDY.replace("pgd", "magic"), "magic"),
        (STUDY.replace("steps = 2", "stairs = 2"), "stairs"),
        (STUDY.replace('"blurs", "none"', '"blur"'), "'blur'"),
    ],
)
def test_what_is_no_study_gets_one_sentence(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(SettingError) as caught:
        read_study(str(tmp_path / "mine.toml"))
    message = str(caught.value)
    assert words in message and "mine.toml: is no study (" in message and "\n" not in message and message.endswith(").")
    with pytest.raises(SettingError, match="'magic' is not one of quick, paper, full"):
        read_study("magic")


def test_a_plan_counts_passes_and_takes_longer_for_more_of_them() -> None:
    assert passes(Attack("", "pgd", {"steps": 7, "draws": 2}).settings()) == 3 * 7 * 2
    assert passes(Attack("", "square", {"steps": 50}).settings()) == 50
    attacks = (Attack("short", "fgsm"), Attack("long", "square", {"steps": 200}))
    plan = Plan(Study(16, (Part(attacks, ("none",)),)), (from_title("a"),), {"udc": ("default",)}, ())
    short, long = expected(plan.jobs())
    assert (short.rows, short.images, long.rows) == (1, 1, 1) and long.minutes > 10 * short.minutes > 0
