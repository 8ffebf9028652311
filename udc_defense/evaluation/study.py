"""What an evaluation measures, read from a TOML file: attacks by what the attacker knows, the defenses they face."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from udc_defense.attacks import ATTACKS
from udc_defense.errors import SettingError, UDCDefenseError
from udc_defense.evaluation.jobs import Job
from udc_defense.photo.settings import Settings
from udc_defense.photo.source import Photo
from udc_defense.precision import Precision
from udc_defense.purification import Purification, evaluations, has_gradient, parse_defense
from udc_defense.threats import KINDS, SURROGATE_STEPS

PRESETS = ("quick", "paper", "full")
ALL, TESTED, PLAIN, ADAPTIVE = "all", "tested", "plain", "adaptive"


@dataclass(frozen=True)
class Attack:
    """An attack, its title in tables, and the settings that differ from its own defaults."""

    title: str
    name: str
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def threat(self) -> str:
        """What the attacker knows."""
        return str(self.changes.get("threat", "oblivious"))

    def settings(self, seed: int = 0, panel: str = "axon20", precision: Precision = "float32") -> Settings:
        """As a row has them; only gradients have a precision."""
        common: dict[str, Any] = {"seed": seed, "panel": panel}
        if ATTACKS.get(self.name).white_box:
            common["precision"] = precision
        return Settings(attack=self.name, **common | self.changes)

    def applies(self, purification: Purification | None) -> bool:
        """Whether such an attacker can attack a defense, and differs from one who is asked anyway."""
        if self.threat == "oblivious" or purification is None:
            return self.threat == "oblivious"
        if self.threat == "surrogate":
            return evaluations(purification) / purification.draws > self.changes.get("surrogate_steps", SURROGATE_STEPS)
        return self.threat != "exact" or not ATTACKS.get(self.name).white_box or has_gradient(purification)


@dataclass(frozen=True)
class Part:
    """Attacks, and what they are tried on.

    Attributes:
        attacks: each makes one adversarial image for all defenses, or one for each where it knows them.
        defenses: `all` (none, those under test, the plain ones), `tested`, `plain`, names of groups or of defenses.
        images: `all`, `adaptive` (those that a crop list marks, or all where none is marked), or at most so many.
        split: of a crop list, where not all.
        size: side of the centre of each image that is measured, in pixels, where it is not the study's.
        restorers: where they are not the study's.
        elsewhere: for other degradations, where no restorer was named.
        fitted_on: split whose captures an attack makes one perturbation for.
    """

    attacks: tuple[Attack, ...]
    defenses: tuple[str, ...] = (ALL,)
    images: str | int = ALL
    split: str | None = None
    size: int | None = None
    restorers: tuple[str, ...] = ()
    elsewhere: bool = False
    fitted_on: str | None = None


@dataclass(frozen=True)
class Study:
    """A preset, or what somebody wrote.

    Attributes:
        size: side of the centre of each image that is measured, in pixels.
        parts: what is measured, in this order.
        images: at most.
        defenses: under test, where none is named.
        plain: transforms that a defense must beat.
        groups: defenses by the name of their family.
        restorers: where none is named.
        perceptual: LPIPS is measured, where its weights can be had.
        transfer: attacks on one restorer are shown to the others.
    """

    size: int
    parts: tuple[Part, ...]
    images: int | None = None
    defenses: tuple[str, ...] = ("default",)
    plain: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    restorers: tuple[str, ...] = ("default",)
    perceptual: bool = False
    transfer: bool = True

    def narrowed(self, attacks: Sequence[str] | None, threats: Sequence[str] | None) -> Study:
        """Of these attacks and threats alone; an attack that the study lacks comes with its own defaults.

        Raises:
            SettingError: a name is unknown, or nothing is left.
        """
        for threat in threats or ():
            if threat not in KINDS:
                raise SettingError(f"threat {threat!r} is not one of {', '.join(KINDS)}.")
        kept = [
            replace(part, attacks=tuple(attack for attack in part.attacks if _wanted(attack, attacks, threats)))
            for part in (*self.parts, *self._added(attacks or (), threats or KINDS))
        ]
        kept = [part for part in kept if part.attacks]
        if all(part.elsewhere for part in kept):
            raise SettingError(f"attacks {attacks} under threats {threats}: nothing is left to measure.")
        return replace(self, parts=tuple(kept))

    def _added(self, attacks: Sequence[str], threats: Sequence[str]) -> list[Part]:
        known = {attack.name for part in self.parts for attack in part.attacks}
        new = [name for name in attacks if ATTACKS.get(name) and name not in known]
        made = [Attack(f"{name}, {threat}", name, {"threat": threat}) for name in new for threat in threats]
        ignorant = tuple(attack for attack in made if attack.threat == "oblivious")
        knowing = tuple(attack for attack in made if attack.threat != "oblivious")
        return [
            Part(ignorant),
            Part(knowing, defenses=(TESTED,), images=ADAPTIVE),
            Part(tuple(made), defenses=(ALL,), images=ADAPTIVE, elsewhere=True),
        ]


def _wanted(attack: Attack, attacks: Sequence[str] | None, threats: Sequence[str] | None) -> bool:
    return (attacks is None or attack.name in attacks) and (threats is None or attack.threat in threats)


@cache
def read_study(name: str) -> Study:
    """A preset by its name, or a file that ends in `.toml`.

    Raises:
        SettingError: there is none, or it asks for something that does not exist.
    """
    path = Path(__file__).parent / "studies" / f"{name}.toml" if name in PRESETS else Path(name)
    if name not in PRESETS and path.suffix != ".toml":
        raise SettingError(f"preset {name!r} is not one of {', '.join(PRESETS)}, nor a file that ends in .toml.")
    try:
        return _study(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, UDCDefenseError) as error:
        raise SettingError(f"{path}: is no study ({str(error).rstrip('.')}).") from error


def _study(found: dict[str, Any]) -> Study:
    parts = tuple(_part(dict(part)) for part in found.pop("part"))
    groups = {name: tuple(group) for name, group in found.pop("groups", {}).items()}
    study = Study(parts=parts, groups=groups, **_tuples(found))
    for part in parts:
        for name in part.defenses:
            named_defenses(study, name)
    return study


def _part(found: dict[str, Any]) -> Part:
    attacks = []
    for entry in found.pop("attacks"):
        changes = dict(entry)
        attack = Attack(changes.pop("title"), changes.pop("attack"), changes)
        attack.settings()  # refuses what the attack does not take
        attacks.append(attack)
    return Part(tuple(attacks), **_tuples(found))


def _tuples(found: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(held) if isinstance(held, list) else held for key, held in found.items()}


_parsed = cache(parse_defense)  # a study names the same defense in many places


def named_defenses(study: Study, name: str) -> tuple[Purification | None, ...]:
    """Those of a part's list: a group's, or the one of that name; none of `all`, `tested` and `plain`."""
    if name in (ALL, TESTED, PLAIN):
        return ()
    return tuple(_parsed(spec) for spec in study.groups.get(name, (name,)))


@dataclass(frozen=True)
class Plan:
    """A study with everything that it is about.

    Attributes:
        study: attacks, plain transforms, sizes.
        photos: whose captures are attacked, and those that an attack is fitted on.
        restorers: names by degradation.
        defenses: under test.
        brief: degradations that get what the study measures elsewhere.
        split: the photos of this one alone are measured.
        precision: of attackers' gradients.
    """

    study: Study
    photos: tuple[Photo, ...]
    restorers: Mapping[str, tuple[str, ...]]
    defenses: tuple[Purification, ...]
    brief: tuple[str, ...] = ()
    split: str | None = None
    panel: str = "axon20"
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "float32"

    @property
    def measured(self) -> tuple[Photo, ...]:
        """The photos whose rows are asked for."""
        return tuple(photo for photo in self.photos if self.split in (None, photo.split))[: self.study.images]

    @property
    def plain(self) -> tuple[Purification, ...]:
        """The plain transforms that are not themselves under test."""
        found = (_parsed(spec) for spec in self.study.plain)
        return tuple(purification for purification in found if purification and purification not in self.defenses)

    def jobs(self, photos: Sequence[Photo] | None = None) -> list[Job]:
        """What is to be done for some of the photos, or all; each row once."""
        chosen = self.measured if photos is None else photos
        jobs: list[Job] = []
        known: set[str] = set()
        for degradation in self.restorers:
            for job in self._of_degradation(degradation, chosen):
                keys = job.keys()
                if not keys <= known:
                    jobs.append(job)
                    known |= keys
        return jobs

    def _of_degradation(self, degradation: str, chosen: Sequence[Photo]) -> Iterator[Job]:
        brief, everyone = degradation in self.brief, self.restorers[degradation]
        parts = [part for part in self.study.parts if part.elsewhere == brief]
        for restorer in dict.fromkeys((*everyone, *(name for part in parts for name in part.restorers))):
            for part in parts:
                if restorer in (part.restorers or everyone):
                    yield from self._of_part(part, degradation, restorer, self._met(part, chosen))
            if brief or not self.study.transfer or restorer not in everyone or len(everyone) == 1:
                continue
            few = self._met(Part((), images=ADAPTIVE), chosen)
            for other in everyone:
                made_on = other if other != restorer else None
                yield from self._job(TRANSFERRED, (None,), few, degradation, restorer, Part(()), made_on)

    def _met(self, part: Part, chosen: Sequence[Photo]) -> list[Photo]:
        """The photos of a part, among the chosen ones."""
        found = [photo for photo in self.measured if part.split in (None, photo.split)]
        if part.images != ALL:
            found = [photo for photo in found if photo.adaptive] or found
        if isinstance(part.images, int):
            found = found[: part.images]
        return [photo for photo in chosen if photo in found]

    def _of_part(self, part: Part, degradation: str, restorer: str, photos: Sequence[Photo]) -> Iterator[Job]:
        faced = self._faced(part, () if part.elsewhere else self.plain)
        for attack in part.attacks:
            those = tuple(p for p in faced if attack.threat == "oblivious" or attack.applies(p))
            groups = [those] if attack.threat == "oblivious" else [(purification,) for purification in those]
            for purifications in groups:
                yield from self._job(attack, purifications, photos, degradation, restorer, part)

    def _faced(self, part: Part, plain: Sequence[Purification]) -> tuple[Purification | None, ...]:
        known: dict[str, tuple[Purification | None, ...]] = {
            ALL: (None, *self.defenses, *plain),
            TESTED: self.defenses,
            PLAIN: tuple(plain),
        }
        found = (p for name in part.defenses for p in known.get(name) or named_defenses(self.study, name))
        return tuple(dict.fromkeys(found))

    def _job(
        self,
        attack: Attack,
        purifications: tuple[Purification | None, ...],
        photos: Sequence[Photo],
        degradation: str,
        restorer: str,
        part: Part,
        made_on: str | None = None,
    ) -> Iterator[Job]:
        """One per photo, whose purifications face the same attacked image."""
        if not purifications:
            return
        for photo in photos:
            yield Job(
                photo,
                attack.settings(self.seed, self.panel, self.precision),
                purifications,
                title=attack.title if made_on is None else f"{attack.title}, made on {made_on}",
                size=part.size or self.study.size,
                restorer=restorer,
                degradation=degradation,
                made_on=made_on,
                trivial=tuple(p for p in purifications if p and p.is_transform and p not in self.defenses),
                fitted_on=tuple(other for other in self.photos if part.fitted_on and other.split == part.fitted_on),
                device=self.device,
                perceptual=self.study.perceptual,
            )


TRANSFERRED = Attack("PGD-20", "pgd")  # the attack whose examples go from restorer to restorer


def defenses_of(names: Sequence[str]) -> tuple[Purification, ...]:
    """Those of a command line, each once and loadable; none is left out.

    Raises:
        SettingError: a name is none of a defense, or its weights cannot be had.
    """
    found = [parse_defense(name) for name in names]
    for purification in filter(None, found):
        purification.load()  # what it cannot be is said before hours of measuring
    return tuple(dict.fromkeys(purification for purification in found if purification))
