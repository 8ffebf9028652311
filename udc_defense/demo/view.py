"""A result in pictures and numbers, and the names of things for a visitor. Knows no gradio."""

from __future__ import annotations

import math

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from udc_defense.attacks import ATTACKS
from udc_defense.attacks.objectives import OBJECTIVE_WORDS, OBJECTIVES
from udc_defense.images import to_pil
from udc_defense.options import Option
from udc_defense.photo.result import STAGES, Result
from udc_defense.transforms import TRANSFORMS

# What the wipe shows while, or because, a stage is not there.
STANDS_IN = {
    "defended_attacked": "defended_clean",
    "defended_clean": "restored",
    "attacked_restored": "restored",
    "noise_restored": "restored",
    "purified": "attacked_input",
    "attacked_input": "captured",
    "restored": "captured",
    "clean": "captured",
}
# Names that a file name does not show; other attacks are called like their file.
ATTACK_TITLES = {"apgd": "Auto-PGD", "cospgd": "CosPGD", "cw": "Carlini–Wagner", "fgsm": "FGSM", "pgd": "PGD"}
ATTACK_TITLES |= {"simba": "SimBA"}
PROPER = {"dct": "DCT", "gaussian": "Gaussian", "jpeg": "JPEG"}
LENS_SIDE = 256  # pixels on the screen, about
FILLED = 0.35  # of the range of values, by the largest change of an amplified perturbation: more of it would glare


def attack_choices() -> list[tuple[str, str]]:
    """Every attack of the library with its label; those that see gradients first."""
    choices = []
    for name in ATTACKS.names():
        title = ATTACK_TITLES.get(name, name.replace("_", " ").capitalize())
        choices.append((f"{title} · sees {'gradients' if ATTACKS.get(name).white_box else 'outputs only'}", name))
    choices.sort(key=lambda choice: (not ATTACKS.get(choice[1]).white_box, choice[0]))
    return choices


def attack_words(attack: str) -> str:
    """What the attack does, in a sentence."""
    return "" if attack == "none" else ATTACKS.get(attack).summary


def options_words(attack: str) -> str:
    """The attack's own options with their defaults, each with the first sentence of its description; may be empty."""
    options = () if attack == "none" else ATTACKS.get(attack).options
    return " ".join(_option_words(option) for option in options)


def _option_words(option: Option) -> str:
    others = [choice for choice in option.choices if choice != option.default]
    alternatives = f" (or {', '.join(others)})" if others else ""
    first_sentence = option.words.partition(". ")[0].removesuffix(".")
    return f"`{option.name}={option.default}`{alternatives}: {first_sentence}."


def defense_words(name: str) -> str:
    """Of a sampler without words of its own, or of a plain transform."""
    if name not in TRANSFORMS.names():
        return name
    strength, words = TRANSFORMS.get(name).strength, [PROPER.get(word, word) for word in name.split("_")]
    return f"Plain {' '.join(words)}, {strength.name} {strength.default:g}"


def objective_choices() -> list[tuple[str, str]]:
    """What an attack can make worse, of what needs no argument."""
    return [(OBJECTIVE_WORDS[name][:1].upper() + OBJECTIVE_WORDS[name][1:], name) for name in OBJECTIVES]


def pictures(result: Result) -> list[tuple[Image.Image, str]]:
    """The film strip: every stage that is there, with its caption."""
    return [(to_pil(result.images[key]), words) for key, words in STAGES.items() if key in result.images]


def pair(captions: list[str], left: str, right: str) -> tuple[str, str] | None:
    """Captions to compare: the two chosen stages, or what stands in for them; two different ones where it can be."""
    there = {key for key, words in STAGES.items() if words in captions}
    if not there:
        return None
    first, second = _present(left, there), _present(right, there)
    if first == second and "captured" in there:
        first = "captured"
    return STAGES[first], STAGES[second]


def _present(key: str, there: set[str]) -> str:
    while key not in there:
        if key not in STANDS_IN:
            return next(stage for stage in STAGES if stage in there)
        key = STANDS_IN[key]
    return key


def rows(result: Result) -> list[tuple[str, float | None, float | None]]:
    """Stage, PSNR and SSIM of every stage that is there; null where there is nothing to compare with."""
    psnr, ssim = result.scores("psnr"), result.scores("ssim")
    return [(words, psnr[key], ssim[key]) for key, words in STAGES.items() if key in result.images and key in psnr]


def table(result: Result) -> str:
    """PSNR and SSIM per stage, with a bar for the eye, and how long each part took."""
    lines = rows(result)
    values = [value for _, value, _ in lines if value is not None]
    low, high = (min(values) - 3, max(values)) if values else (0.0, 1.0)
    body = "".join(_table_row(words, psnr, ssim, low, high) for words, psnr, ssim in lines)
    against = "the ground truth" if result.has_truth else "what the restorer makes of the untouched capture"
    return (
        f'<table class="udc-table"><caption>Compared with {against}</caption><thead><tr><th scope="col">Stage</th>'
        f'<th scope="col" colspan="2">PSNR, dB</th><th scope="col">SSIM</th></tr></thead><tbody>{body}</tbody></table>'
        f'<p class="udc-small">Time: {timings(result)}</p>'
    )


def _table_row(words: str, psnr: float | None, ssim: float | None, low: float, high: float) -> str:
    share = 0 if psnr is None else 100 * (psnr - low) / max(high - low, 1e-9)
    return (
        f'<tr><th scope="row">{words}</th><td class="bar"><i style="width:{share:.0f}%"></i></td>'
        f"<td>{_number(psnr, 2)}</td><td>{_number(ssim, 3)}</td></tr>"
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def timings(result: Result) -> str:
    """Wall time per part."""
    return " · ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())


def perturbation(result: Result) -> tuple[Image.Image, str] | None:
    """What the attack added, amplified around grey by the factor that the caption states; None without an attack."""
    if "attacked_input" not in result.images:
        return None
    delta: Tensor = result.images["attacked_input"] - result.images["captured"]
    largest = float(delta.abs().max())
    factor = max(1, math.floor(FILLED / largest)) if largest else 1
    caption = f"Perturbation × {factor} (at most {largest * 255:.0f} of 255)"
    return to_pil(0.5 + delta * factor), caption


def lens(image: Tensor, zoom: int, across: float, down: float) -> Image.Image:
    """A square of the image (1, 3, H, W), `zoom` times smaller than its shorter side, every pixel enlarged.

    Args:
        image: in [0, 1].
        zoom: at least 1.
        across: the square's middle from the left, as a share of the width.
        down: from the top, likewise.
    """
    height, width = image.shape[-2:]
    side = max(1, min(height, width) // zoom)
    left, top = (
        min(max(round(share * size - side / 2), 0), size - side) for share, size in ((across, width), (down, height))
    )
    crop = image[..., top : top + side, left : left + side]
    return to_pil(F.interpolate(crop, scale_factor=max(1, LENS_SIDE // side), mode="nearest"))
