"""Signs that an evaluation is too kind to a defense, after AutoAttack's checks (arXiv 2003.01690, `checks.py`).

Each check takes PSNRs under attack in dB, so that lower is worse for the defense, and says in one sentence what it saw.
"""

from __future__ import annotations

from collections.abc import Mapping

from udc_defense.photo.flags import Flag

# Means over few images wander by about this much between seeds.
TOLERANCE = 0.1
ROUNDED = 1e-3  # PSNRs in rows have four decimals


def black_box_wins(white: Mapping[str, float], black: Mapping[str, float], attacked: str) -> Flag:
    """An attack that sees outputs only must not beat those that see gradients."""
    (best_white, low), (best_black, lower) = (min(found.items(), key=lambda item: item[1]) for found in (white, black))
    words = f"the best white box ({best_white}) leaves {low:.2f} dB, the best black box ({best_black}) {lower:.2f} dB."
    return Flag(f"black box beats white box, {attacked}", lower < low - TOLERANCE, words)


def more_does_not_hurt(what: str, series: Mapping[str, float]) -> Flag:
    """A larger radius, or more steps, must not do less damage. `series` is in rising order."""
    values = list(series.values())
    raised = any(after > before + TOLERANCE for before, after in zip(values, values[1:], strict=False))
    words = ", ".join(f"{value:.2f} dB at {name}" for name, value in series.items())
    return Flag(f"more {what} does not hurt more", raised, words + ".")


def knowledge_does_not_help(unknowing: float, knowing: float) -> Flag:
    """The attacker who knows the defense must not do worse than the one who does not."""
    words = f"not knowing the defense leaves {unknowing:.2f} dB, knowing it {knowing:.2f} dB."
    return Flag("knowing the defense does not help", knowing > unknowing + TOLERANCE, words)


def masked_gradient(gradient: float, around: float) -> Flag:
    """Who goes around the purifier's gradient (BPDA) must not do more damage than who follows it.

    Else the gradient leads nowhere: the defense is not robust, it is hard to differentiate (arXiv 1802.00420).
    """
    words = f"following the gradient leaves {gradient:.2f} dB, going around the purifier's {around:.2f} dB."
    return Flag("masked gradient", around < gradient - TOLERANCE, words)


def no_better_than_noise(attacked: float, noise: float) -> Flag:
    """An attack must do more damage than random noise with its own magnitudes."""
    words = f"the attack leaves {attacked:.2f} dB, random noise of the same norm {noise:.2f} dB."
    return Flag("attack no better than noise", attacked > noise - TOLERANCE, words)


def certificate_broken(margin: float, attack: str, attacked: float, floor: float) -> Flag:
    """No attack may leave less than what is certified; on the image where it comes nearest."""
    words = f"where it comes nearest, {attack} leaves {attacked:.2f} dB; certified are {floor:.2f} dB."
    return Flag("an attack breaks the certificate", margin < -ROUNDED, words)


def large_radius(eps: float, attacked: float, captured: float) -> Flag:
    """With a radius that hides the picture, nothing may be left of a restoration."""
    words = f"ε = {eps:g}/255 leaves {attacked:.2f} dB; the capture itself has {captured:.2f} dB."
    return Flag("a large radius does not break it", attacked > captured, words)


def not_converged(series: Mapping[str, float]) -> Flag:
    """Gradients averaged over more draws must not find much more; `series` is in rising order of draws."""
    first, *_, last = series.values()
    words = ", ".join(f"{value:.2f} dB with {name}" for name, value in series.items())
    return Flag("more draws per gradient hurt more", last < first - TOLERANCE, words + ".")
