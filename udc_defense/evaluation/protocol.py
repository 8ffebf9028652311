"""What `evaluate` measures: presets of attacks by what the attacker knows, and the defenses that face them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from udc_defense.attacks import ATTACKS
from udc_defense.errors import SettingError
from udc_defense.evaluation.attack_suite import KNOWING, OBLIVIOUS
from udc_defense.evaluation.entry import Entry
from udc_defense.evaluation.purifier_suite import CHOSEN
from udc_defense.evaluation.rows import EOT
from udc_defense.purification import Purification, evaluations, has_gradient
from udc_defense.threats import KINDS, SURROGATE_STEPS

LARGEST = 64.0  # a radius at which no restorer can hold


@dataclass(frozen=True)
class Protocol:
    """A preset.

    Attributes:
        size: side of the centre of each image that is measured, in pixels.
        images: at most.
        oblivious: attacks on the bare restorer, whose images every defense faces.
        dear: more of them, which take long: on the images that a crop list marks adaptive, where it marks any, as
            everything below.
        adaptive: attacks made for each defense under test.
        trivial: plain transforms that a defense must beat.
        on_trivial: attacks made for each of them.
        eot: gradients averaged over so many draws of a defense's noise, to see whether more of them hurt more.
        eot_images: at most.
        elsewhere: attacks of both kinds on the other degradations, where no restorer was named.
        perceptual: LPIPS is measured, where its weights can be had.
    """

    size: int
    images: int | None
    oblivious: tuple[Entry, ...]
    dear: tuple[Entry, ...]
    adaptive: tuple[Entry, ...]
    trivial: tuple[Purification, ...]
    on_trivial: tuple[Entry, ...]
    eot: tuple[Entry, ...]
    eot_images: int
    elsewhere: tuple[Entry, ...]
    perceptual: bool = True

    def narrowed(self, attacks: Sequence[str] | None, threats: Sequence[str] | None) -> Protocol:
        """Of these attacks and threats alone; an attack that the preset lacks comes with its own defaults.

        Raises:
            SettingError: a name is unknown, or nothing is left.
        """
        for threat in threats or ():
            if threat not in KINDS:
                raise SettingError(f"threat {threat!r} is not one of {', '.join(KINDS)}.")
        added = self._added(attacks or (), threats or KINDS)
        parts = {"oblivious": added, "dear": (), "adaptive": added, "on_trivial": (), "eot": (), "elsewhere": added}
        kept: dict[str, Any] = {
            part: tuple(
                entry
                for entry in (*getattr(self, part), *new)
                if (attacks is None or entry.attack in attacks)
                and (threats is None or threat_of(entry) in threats)
                and (part == "elsewhere" or (threat_of(entry) == "oblivious") == (part in ("oblivious", "dear")))
            )
            for part, new in parts.items()
        }
        if not (kept["oblivious"] or kept["dear"] or kept["adaptive"]):
            raise SettingError(f"attacks {attacks} under threats {threats}: nothing is left to measure.")
        return replace(self, **kept)

    def _added(self, attacks: Sequence[str], threats: Sequence[str]) -> tuple[Entry, ...]:
        known = {entry.attack for entry in (*self.oblivious, *self.dear, *self.adaptive)}
        new = [name for name in attacks if ATTACKS.get(name) and name not in known]
        return tuple(Entry(f"{name}, {threat}", name, {"threat": threat}) for name in new for threat in threats)


def threat_of(entry: Entry) -> str:
    """What the attacker of an entry knows."""
    return entry.changes.get("threat", "oblivious")


def applies(entry: Entry, purification: Purification) -> bool:
    """Whether such an attacker can attack a defense, and differs from one who is asked anyway."""
    threat = threat_of(entry)
    if threat == "surrogate":
        per_draw = evaluations(purification) / purification.draws
        return per_draw > entry.changes.get("surrogate_steps", SURROGATE_STEPS)
    return threat != "exact" or not ATTACKS.get(entry.attack).white_box or has_gradient(purification)


def _pgd(words: str, threat: str = "oblivious", **changes: Any) -> Entry:
    title = f"{words}, {threat}" if threat != "oblivious" else words
    return Entry(title, "pgd", {"threat": threat} | changes if threat != "oblivious" else changes)


def _eot(steps: int, *draws: int) -> tuple[Entry, ...]:
    return tuple(_pgd(f"{EOT}: PGD-{steps}, draws {k}", "exact", steps=steps, draws=k) for k in draws)


def _is_general(entry: Entry) -> bool:
    of_features = entry.changes.get("objective", "").startswith("feature:")
    return entry.attack not in ("universal", "random_noise") and not of_features


def _trivial(*families: str) -> tuple[Purification, ...]:
    return tuple(CHOSEN[family] for family in families)


ASKED_AGAIN: dict[str, Any] = {"resubmit": 4}
QUICK = Protocol(
    size=96,
    images=4,
    oblivious=(
        Entry("FGSM", "fgsm"),
        _pgd("PGD-20", **ASKED_AGAIN),
        _pgd("PGD-20, ε = 2", eps=2.0),
        _pgd("PGD-20, ε = 8", eps=8.0),
        Entry("Square, 100 queries", "square", {"steps": 100}),
    ),
    dear=(),
    adaptive=(
        Entry("FGSM, exact", "fgsm", {"threat": "exact"}),
        _pgd("PGD-10", "bpda", steps=10, **ASKED_AGAIN),
        _pgd("PGD-10", "exact", steps=10, **ASKED_AGAIN),
        *(_pgd(f"PGD-10, ε = {eps:g}", "exact", steps=10, eps=eps) for eps in (2.0, 8.0, LARGEST)),
        Entry("Square, 50 queries", "square", {"threat": "exact", "steps": 50}),
    ),
    trivial=_trivial("bit depth", "JPEG", "Gaussian blur", "smaller and back"),
    on_trivial=(_pgd("PGD-10", "bpda", steps=10), _pgd("PGD-10", "exact", steps=10)),
    eot=_eot(4, 1, 4),
    eot_images=1,
    elsewhere=(_pgd("PGD-20"), _pgd("PGD-10", "bpda", steps=10)),
    perceptual=False,
)

# What the paper attacks with (arXiv 2402.13629): PGD of 20 steps at four radii, C&W with 9 bisections, SimBA of 1000
# iterations, a perceptual loss; and the attackers whom it left out, who know the defense.
PAPER = Protocol(
    size=128,
    images=None,
    oblivious=(
        _pgd("PGD-20"),
        *(_pgd(f"PGD-20, ε = {eps:g}", eps=eps) for eps in (1.0, 2.0, 8.0)),
        _pgd("PGD-20 on MS-SSIM", objective="ms_ssim"),
    ),
    dear=(
        Entry("C&W to 15 dB", "cw", {"options": {"psnr": 15.0}}),
        Entry("SimBA, 1000 iterations", "simba"),
    ),
    adaptive=(
        Entry("FGSM, exact", "fgsm", {"threat": "exact"}),
        _pgd("PGD-20", "bpda"),
        _pgd("PGD-20", "surrogate"),
        _pgd("PGD-20", "exact", resubmit=8),
        *(_pgd(f"PGD-20, ε = {eps:g}", "exact", eps=eps) for eps in (2.0, 8.0)),
        _pgd(f"PGD-5, ε = {LARGEST:g}", "exact", steps=5, eps=LARGEST),
        Entry("Square, 100 queries", "square", {"threat": "exact", "steps": 100}),
    ),
    trivial=_trivial("bit depth", "JPEG", "Gaussian blur", "plain denoiser (DCT)"),
    on_trivial=(_pgd("PGD-20", "bpda"), _pgd("PGD-20", "exact")),
    eot=_eot(10, 1, 4, 8),
    eot_images=2,
    elsewhere=(_pgd("PGD-20"), _pgd("PGD-20", "bpda"), _pgd("PGD-20", "exact")),
)

# Every attack of results/attacks.json, made for whatever defense is measured, but for those that need other images to
# be fitted on or know a layer of the embedded network; random noise is every attack's control.
FULL = replace(
    PAPER,
    oblivious=tuple(entry for entry in OBLIVIOUS if _is_general(entry)),
    dear=(),
    adaptive=(
        *(entry for entry in KNOWING if threat_of(entry) != "oblivious" and _is_general(entry)),
        _pgd("PGD-20", "surrogate", resubmit=8),
        _pgd(f"PGD-20, ε = {LARGEST:g}", "exact", eps=LARGEST),
    ),
    trivial=tuple(purification for purification in CHOSEN.values() if purification.is_transform),
    eot=_eot(10, 1, 4, 8, 16, 20),
    eot_images=8,
)
PRESETS = {"quick": QUICK, "paper": PAPER, "full": FULL}
