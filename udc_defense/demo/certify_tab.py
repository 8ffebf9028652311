"""What no attack within a radius can do to the smoothed restorer: few samples, and what they prove."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from PIL import Image
from torch import Tensor, nn

from udc_defense.certification.certify import Certificate, Certification, certify
from udc_defense.certification.denoised import Denoised
from udc_defense.certification.lipschitz import certify_lipschitz, in_words, per_value
from udc_defense.certification.noise import Budget, Gaussian
from udc_defense.defense import Defense
from udc_defense.demo import engine
from udc_defense.demo.choices import Choices
from udc_defense.demo.controls import Controls
from udc_defense.demo.gallery import add_gallery
from udc_defense.demo.handlers import COMPUTING, Update, chosen_photo, guarded
from udc_defense.demo.link import named
from udc_defense.demo.networks import Networks
from udc_defense.demo.presets import choose
from udc_defense.demo.progress import Clock, status
from udc_defense.demo.run_tab import stop_by
from udc_defense.errors import SettingError
from udc_defense.images import to_pil
from udc_defense.photo import stages
from udc_defense.photo.result import HIGHEST_PSNR, Result
from udc_defense.photo.source import from_image
from udc_defense.purifiers.diffusion import DiffusionPurifier
from udc_defense.restorers.lipschitz import LipschitzRestorer

SIDE = 128  # of the middle of the photo that is certified
SIGMA = 0.05
RADII = (0.02, 0.05, 0.1, 0.2)
CONFIDENCE = 0.999
SAMPLES = (100, 200, 400)
USUAL_LINF = 4  # in 1/255: the attack that everybody speaks of
INTRO = f"""An attack that fails proves nothing; a **certificate** holds against every attack within its radius. The
middle {SIDE}×{SIDE} of the photo in the tab *Try it* is drowned in Gaussian noise (σ = {SIGMA:g}) again and again,
denoised by the purifier and restored. How far the outcomes scatter bounds what any change of the capture does to their
median."""
OUTPUTS = 4


def add_certify_tab(networks: Networks, gpu: Callable[..., Any], controls: Controls) -> None:
    """Draw and connect it."""
    gr.Markdown(INTRO)
    with gr.Row():
        samples = gr.Radio(
            SAMPLES, value=SAMPLES[1], label="Samples of noise", min_width=200, elem_id="samples-of-noise"
        )
        run = gr.Button("Certify", variant="primary", scale=2, min_width=120, elem_id="run-certify")
        stop = gr.Button("Stop", scale=1, min_width=80, elem_id="stop-certify")
    line = gr.HTML(status("idle", "Ready."), elem_id="certify-status", elem_classes="udc-flush")
    words = gr.Markdown("", elem_id="certified")
    table = gr.HTML("", elem_id="certificates", elem_classes="udc-flush")
    images = add_gallery("Images", "smoothed", columns=3)
    running = run.click(
        gpu(duration=90)(Certificates(networks).run),
        [samples, *controls.inputs],
        [line, words, table, images],
        api_visibility="private",
        **COMPUTING,
    )
    stop_by(stop, run, running, line)


class Certificates:
    """Handler on the networks of a demo."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    def run(self, samples: int, photo: str | None, *values: Any) -> Iterator[Update]:
        """Sample, then certify."""
        yield from guarded(self._run(samples, photo, named(values)), OUTPUTS, photo)

    def _run(self, samples: int, photo: str | None, fields: dict[str, Any]) -> Iterator[Update]:
        path = chosen_photo(photo)
        if samples not in SAMPLES:
            raise SettingError(f"{samples!r} samples are not one of {', '.join(map(str, SAMPLES))}.")
        # Neither the attack nor the defense matters: a certificate speaks of all attacks, and of a diffusion model.
        choices = choose(**fields | {"attack": "off", "defense": "paper", "sampler": ""})
        yield status("running", "Reading the photo"), "", "", []
        defense = self.networks.defense(choices)
        assert isinstance(defense.purifier, DiffusionPurifier)
        model = Denoised(defense.restorer, defense.purifier, SIGMA).eval()
        result = captured(defense.restorer, path, choices)
        settings = Certification(
            Gaussian(SIGMA), tuple(map(Budget, RADII)), CONFIDENCE, samples, seed=choices.settings().seed
        )
        image, reference = result.images["captured"], result.reference
        assert reference is not None
        proven = by_gain(defense.restorer, image, reference if result.has_truth else None)
        yield status("running", "Sampling"), proven, "", []
        clock = Clock()
        steps = certify(model, image, reference, settings, bare=result.images["restored"])
        try:
            for step in steps:
                share = step.done / step.total
                words = f"{step.done} of {step.total} samples{clock.left(share)}"
                yield status("running", words, share), gr.skip(), gr.skip(), gr.skip()
        finally:
            steps.close()  # type: ignore[attr-defined]
        assert step.certificate is not None
        done = status("done", f"Done in {clock.seconds:.0f} s · seed {settings.seed}", 1.0)
        pictures = shown(result, step.certificate)
        words = proven + said(step.certificate, settings, image, result.has_truth)
        yield done, words, table(step.certificate, image), pictures


def captured(restorer: nn.Module, path: str, choices: Choices) -> Result:
    """The capture of the photo's middle, and its restoration."""
    photo, _ = engine.read_photo(path)
    known = from_image(engine.NAME, photo, captured=choices.captured).load(SIDE)
    return stages.finish(stages.run(Defense(restorer), choices.settings(), engine.NAME, **known))


def by_gain(restorer: nn.Module, image: Tensor, truth: Tensor | None) -> str:
    """What is certified without samples, where the restorer's gain is bounded; empty where it is not."""
    if not isinstance(restorer, LipschitzRestorer):
        return ""
    certificate = certify_lipschitz(restorer, image, truth, [per_value(USUAL_LINF / 255)])
    (floor,) = certificate.floors
    against = "what it makes of the untouched capture" if truth is None else "the ground truth"
    return (
        f"**{in_words(floor, image[0].numel())}** It keeps at least {floor.psnr:.1f} dB against {against}. "
        "This needs no samples and holds without a doubt, of photos of any size and whoever attacks: the weights of "
        f"this restorer prove that no change of its input grows by more than a factor of {certificate.lipschitz:.3g}. "
        "It is said of the restorer alone, without a purifier.\n\nBy smoothing, as with any other restorer:\n\n"
    )


def said(certificate: Certificate, settings: Certification, image: Tensor, has_truth: bool) -> str:
    """What is certified and what is not, in plain words."""
    values = image[0].numel()
    held = [floor for floor in certificate.floors if floor.median is not None]
    against = "the ground truth" if has_truth else "what the restorer makes of the untouched capture"
    usual = USUAL_LINF / 255 * values**0.5
    if held:
        best = held[-1]
        rms = 255 * best.budget.linf_covered(values)
        proof = (
            f"**No change of the capture with an L2 norm up to {best.budget.radius:g}, a root mean square of "
            f"{rms:.2f}/255 per value, brings the smoothed image below {best.median:.1f} dB**, whoever attacks."
        )
    else:
        proof = "**Nothing is certified of the median image** with so few samples."
    return (
        f"{proof} Each bound, against {against}, holds with a probability of {settings.confidence:.1%} over the noise "
        f"that was drawn.\n\n**Not certified:** the usual attack, {USUAL_LINF}/255 at every value (L∞): its L2 norm is "
        f"up to {usual:.1f} here, far outside; the restorer without smoothing; the rest of the photo.\n\n"
        f"**The price:** the smoothed image has {certificate.smoothed:.1f} dB, the restorer without noise "
        f"{_level(certificate.bare)}."
    )


def table(certificate: Certificate, image: Tensor) -> str:
    """Certified floors of PSNR over the radius."""
    values = image[0].numel()
    rows = "".join(
        f'<tr><th scope="row">{floor.budget.radius:g}</th><td>{255 * floor.budget.linf_covered(values):.2f}</td>'
        f"<td>{_floor(floor.median)}</td><td>{_floor(floor.draw)}</td><td>{_floor(floor.centre)}</td></tr>"
        for floor in certificate.floors
    )
    head = ("Radius, L2", "RMS, of 255", "Median image", "Half of all single draws", "Centre of the draws")
    return (
        '<table class="udc-table"><caption>Certified: at least this PSNR in dB; a dash where the samples are too few'
        f"</caption><thead><tr>{''.join(f'<th scope=col>{words}</th>' for words in head)}</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _floor(value: float | None) -> str:
    return "–" if value is None else f"≥ {value:.1f}"


def _level(value: float) -> str:
    return f"{value:.1f} dB" if value < HIGHEST_PSNR else "is what is compared with"


def shown(result: Result, certificate: Certificate) -> list[tuple[Image.Image, str]]:
    """Capture, restored, smoothed."""
    pictures = {"Capture": result.images["captured"], "Restored": result.images["restored"]}
    return [
        (to_pil(image), words) for words, image in (pictures | {"Smoothed: the median": certificate.median}).items()
    ]
