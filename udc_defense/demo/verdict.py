"""What a result means, in words: what the attack took, what the defense gave back, and whether the detector noticed."""

from __future__ import annotations

from udc_defense.photo.result import Result
from udc_defense.photo.settings import Settings

HURTS = 0.05  # dB: smaller differences are called none


def verdict(result: Result, settings: Settings) -> str:
    """In words, what the attack took and what the defense gave back, also where that is nothing or less."""
    psnr, how = result.scores("psnr"), _how(result, settings)
    sentences = _with_truth(psnr, result.threat, how) if result.has_truth else _without_truth(psnr, result, how)
    return " ".join(sentences)


def suspicion(result: Result, threshold: float | None) -> str:
    """Whether the detector notices the attack, or why that cannot be said; nothing without a defense."""
    scores = result.detection()
    if scores is None:
        return ""
    if threshold is None:
        return (
            "Whether the detector notices is not known: it is calibrated for the default defense (Fast) and our "
            "networks only."
        )
    levels = {kind: f"{score:.1f} dB, threshold {threshold:.1f} dB" for kind, score in scores.items()}
    detector = "The detector, which compares the images restored with and without the defense,"
    alarm = scores["clean"] > threshold
    if "attacked" not in scores:
        said = "takes this untouched capture for attacked" if alarm else "finds nothing suspicious"
        return f"{detector} {said} ({levels['clean']})."
    said = "**notices** the attack" if scores["attacked"] > threshold else "does **not notice** the attack"
    words = f"{detector} {said} ({levels['attacked']})."
    return words + (" But it takes the untouched capture for attacked, too." if alarm else "")


def _how(result: Result, settings: Settings) -> list[str]:
    """What one should know of the search before believing its numbers."""
    found = result.search
    if found is None:
        return []
    sentences = []
    if settings.eps is None:
        delta = found.image - result.images["captured"]
        sentences.append(_own_size(255 * float(delta.square().mean().sqrt())))
    if not found.backwards:
        queries = found.forwards if found.queries is None else int(found.queries.max())
        sentences.append(f"It saw outputs only, those of {queries:,} queries.")
    if found.zero_gradients:
        share = f"{found.zero_gradients} of its {found.backwards} gradients were zero everywhere"
        sentences.append(f"{share}: it was misled, and what it failed to do proves nothing.")
    return sentences


def _own_size(rms: float) -> str:
    """Of an attack that has no ε; what lies below half a step is lost in the 8 bits of a file."""
    if rms == 0:
        return "It changed nothing: what it aims at (see its options) was there already."
    return f"It has no ε: its change has a root mean square of **{rms:.2f}** of 255 before rounding to 8 bits."


def _with_truth(psnr: dict[str, float | None], threat: str, how: list[str]) -> list[str]:
    captured, restored, attacked = psnr["captured"], psnr["restored"], psnr["attacked_restored"]
    if restored is None:
        return []
    sentences = []
    if captured is not None:
        sentences.append(
            f"Restoring {_moved(restored - captured, 'won', 'lost')} ({captured:.1f} → {restored:.1f} dB)."
        )
    defended, unattacked = psnr["defended_attacked"], psnr["defended_clean"]
    if threat != "oblivious" and defended is not None:
        # Against what the defense leaves unattacked: its own cost is not the attacker's doing.
        sentences += [_adaptive(restored if unattacked is None else unattacked, defended, attacked), *how]
    elif attacked is not None:
        taken = _moved(restored - attacked, "took", "added")
        sentences += [f"The attack {taken}{_noise_control(psnr, restored)}.", *how]
        if defended is not None:
            sentences.append(_given_back(restored, attacked, defended))
    if unattacked is not None:
        sentences.append(
            f"On the same photo without an attack the defense {_moved(restored - unattacked, 'costs', 'gains')}."
        )
    return sentences


def _adaptive(before: float, defended: float, bare: float | None) -> str:
    """The attack was made for the defended restorer; what it does to the bare one is a side effect."""
    side = "" if bare is None else f"; the same image without the defense: {bare:.1f} dB"
    moved = _moved(before - defended, "took", "added")
    return f"The attacker who knows the defense {moved} in spite of it ({before:.1f} → {defended:.1f} dB{side})."


def _noise_control(psnr: dict[str, float | None], restored: float) -> str:
    noisy = psnr["noise_restored"]
    return "" if noisy is None else f", where random noise of the same size {_moved(restored - noisy, 'takes', 'adds')}"


def _given_back(restored: float, attacked: float, defended: float) -> str:
    lost, back = restored - attacked, defended - attacked
    if back < -HURTS:
        return f"The defense made it worse: it took another **{-back:.1f} dB**."
    if back <= HURTS:
        return "The defense gave back **nothing**."
    share = f", {100 * back / lost:.0f} % of what was lost" if lost > 0.5 else ""
    return f"The defense gave back **{back:.1f} dB**{share}."


def _without_truth(psnr: dict[str, float | None], result: Result, how: list[str]) -> list[str]:
    """Distances from the restorer's own clean output: a higher number means less moved, not better."""
    if "restored" not in result.images:
        return []
    sentences = ["There is no ground truth: all is compared with what the restorer makes of the untouched capture."]
    attacked, defended = _level(psnr["attacked_restored"]), _level(psnr["defended_attacked"])
    knows = result.threat != "oblivious"
    if knows and "defended_attacked" in result.images:
        side = f"the same image without the defense: {attacked}"
        sentences.append(
            f"The attacker who knows the defense moves the result to **{defended}** in spite of it ({side})."
        )
    elif "attacked_restored" in result.images:
        noisy = _level(psnr["noise_restored"]) if "noise_restored" in result.images else None
        control = f"; random noise of the same size moves it to {noisy}" if noisy else ""
        sentences.append(f"The attack moves the result to **{attacked}** from it{control}.")
    sentences += how
    if not knows and "defended_attacked" in result.images:
        sentences.append(f"With the defense it comes out at **{defended}**{_nearer(psnr)}.")
    if "defended_clean" in result.images:
        unattacked = _level(psnr["defended_clean"])
        sentences.append(f"The defense alone, without an attack, moves the result to {unattacked}.")
    return sentences


def _nearer(psnr: dict[str, float | None]) -> str:
    attacked, defended = psnr["attacked_restored"], psnr["defended_attacked"]
    if attacked is None or defended is None:
        return ""
    nearer = defended - attacked
    if abs(nearer) <= HURTS:
        return ", no nearer"
    return f", {abs(nearer):.1f} dB {'nearer' if nearer > 0 else 'further away: the defense made it worse'}"


def _moved(change: float, took: str, added: str) -> str:
    """`took **2.1 dB**`, or the other verb where it went the other way, or nothing."""
    if abs(change) <= HURTS:
        return f"{took} **nothing**"
    return f"{took if change > 0 else added} **{abs(change):.1f} dB**"


def _level(value: float | None) -> str:
    return "0 difference" if value is None else f"{value:.1f} dB"
