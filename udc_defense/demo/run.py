"""The runs of visitors: one photo through everything, and its stages one by one for clients of the API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import torch
from PIL import Image

from udc_defense.demo import engine, view
from udc_defense.demo.choices import Choices
from udc_defense.demo.downloads import downloads
from udc_defense.demo.handlers import Update, chosen_photo, guarded
from udc_defense.demo.networks import Networks
from udc_defense.demo.presets import ATTACK, DEFENSE, choose
from udc_defense.demo.progress import Progress, status
from udc_defense.demo.verdict import suspicion, verdict
from udc_defense.device import best_device
from udc_defense.images import quantize, to_pil
from udc_defense.photo import stages
from udc_defense.photo.result import Result
from udc_defense.photo.settings import Settings

OUTPUTS = 7  # of a run

Stage = Callable[[torch.Tensor, Choices], Iterator[Image.Image | None]]  # None while it works


class Runs:
    """Handlers on the networks of a demo. Public methods are endpoints of the API: their docstrings are its pages."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    def run(
        self,
        photo: str | None,
        captured: bool = False,
        panel: str = "axon20",
        attack: str = ATTACK,
        defense: str = DEFENSE,
        method: str | None = None,
        eps: float | None = None,
        steps: int | None = None,
        threat: str | None = None,
        objective: str | None = None,
        norm: str | None = None,
        options: str | None = None,
        sampler: str | None = None,
        noise_level: int | None = None,
        draws: int | None = None,
        restorer: str | None = None,
        purifier: str | None = None,
        seed: int | None = None,
    ) -> Iterator[Update]:
        """Attack, purify and restore one photo; every stage is sent as soon as it is there.

        What is null or empty is as the presets `attack` and `defense` say. What an attack does not take is ignored.

        Args:
            photo: any image; large ones are scaled down.
            captured: the photo already comes from an under-display camera; otherwise its capture is simulated.
            panel: the display in front of the camera: axon20, toled or poled.
            attack: off, quick, strong or adaptive.
            defense: off, fast, paper or best.
            method: of the attack: one of the library's, such as pgd, apgd, cw (see gradients), square (outputs only).
            eps: largest change, in units of 1/255, 0 to 16.
            steps: of the attack, 1 to 50, of one that sees outputs only to 1000.
            threat: what the attacker knows of the defense: oblivious, bpda, surrogate or exact.
            objective: what the attack makes worse: mse, l1, ssim or ms_ssim.
            norm: linf or l2.
            options: the attack's own, such as restarts=2, momentum=0.75.
            sampler: of the defense: one_step, ddim, ddpm, dpm_solver, ode, or a plain transform such as jpeg.
            noise_level: forward diffusion steps, 0 to 100.
            draws: purifications that are averaged, 1 to 8.
            restorer: embedded name, or owner/name[@revision] on the Hugging Face Hub.
            purifier: likewise.
            seed: of all noise; null draws one.

        Returns:
            Status (HTML), verdict (Markdown), all stages, table (HTML), amplified perturbation, report.json, and files:
            a zip of everything, recipe.json for `udc-defense run --recipe`, and every stage as a PNG of 16 bit.
        """
        fields = {name: value for name, value in locals().items() if name not in ("self", "photo")}
        yield from guarded(self._run(photo, fields), OUTPUTS, photo)

    def _run(self, photo: str | None, fields: dict[str, Any]) -> Iterator[Update]:
        path, choices = chosen_photo(photo), choose(**fields)
        settings = choices.settings()
        cleared: Update = ("", [], "", gr.update(value=None, visible=False), None, gr.update(value=None, visible=False))
        yield (status("running", "Reading the photo"), *cleared)
        (image, note), content = engine.read_photo(path), engine.content_of(path)
        progress = Progress(engine.phases(choices))
        yield _line(progress.line())
        if fields["restorer"] or fields["purifier"]:
            yield _line(status("running", "Fetching the networks"))
        steps = engine.start(self.networks, image, choices, settings)
        limit = self.networks.threshold(choices)
        try:
            for step in steps:
                result = step.result
                if progress.update(step):
                    yield _everything(progress.line(), result, settings, note, limit)
                elif progress.due():
                    yield _line(progress.line())
        finally:  # Stop closes this generator: the networks' work ends with it
            steps.close()  # type: ignore[attr-defined]
        done = status("done", f"Done in {progress.seconds:.0f} s · seed {settings.seed}", 1.0)
        report = engine.report(self.networks, choices, settings, result)
        recipe = engine.recipe(self.networks, choices, settings, content)
        files = gr.update(value=downloads(path, content, result, recipe, report), visible=True)
        # Whole once more: a client of the API gets the last update only.
        yield (*_everything(done, result, settings, note, limit)[:-2], report, files)

    def attack(
        self,
        photo: str | None,
        attack: str = ATTACK,
        defense: str = DEFENSE,
        method: str | None = None,
        eps: float | None = None,
        steps: int | None = None,
        threat: str | None = None,
        objective: str | None = None,
        norm: str | None = None,
        options: str | None = None,
        sampler: str | None = None,
        noise_level: int | None = None,
        draws: int | None = None,
        restorer: str | None = None,
        purifier: str | None = None,
        seed: int | None = None,
    ) -> Iterator[Update]:
        """Attack a capture; what the restorer makes of it untouched is what the attack moves it away from.

        Args:
            photo: a capture of an under-display camera.
            attack: quick, strong or adaptive.
            defense: which an attacker who knows it attacks: off, fast, paper or best.
            method: as in /run, like all that follow.
            eps: largest change, in units of 1/255.
            steps: of the attack.
            threat: oblivious, bpda, surrogate or exact.
            objective: mse, l1, ssim or ms_ssim.
            norm: linf or l2.
            options: the attack's own.
            sampler: of the defense.
            noise_level: of the defense.
            draws: of the defense.
            restorer: embedded name or Hub id.
            purifier: embedded name or Hub id.
            seed: null draws one.

        Returns:
            Status (HTML), and the attacked capture as a PNG.
        """
        fields = {name: value for name, value in locals().items() if name not in ("self", "photo")}
        yield from guarded(self._stage(photo, fields, self._attacked), 2, photo)

    def purify(
        self,
        photo: str | None,
        defense: str = DEFENSE,
        sampler: str | None = None,
        noise_level: int | None = None,
        draws: int | None = None,
        purifier: str | None = None,
        seed: int | None = None,
    ) -> Iterator[Update]:
        """Purify a capture.

        Args:
            photo: a capture of an under-display camera, attacked or not.
            defense: fast, paper or best.
            sampler: as in /run, like all that follow.
            noise_level: forward diffusion steps, 0 to 100.
            draws: purifications that are averaged, 1 to 8.
            purifier: embedded name or Hub id.
            seed: null draws one.

        Returns:
            Status (HTML), and the purified capture as a PNG.
        """
        fields = {name: value for name, value in locals().items() if name not in ("self", "photo")}
        yield from guarded(self._stage(photo, {"attack": "off"} | fields, self._purified), 2, photo)

    def restore(self, photo: str | None, restorer: str | None = None) -> Iterator[Update]:
        """Restore a capture.

        Args:
            photo: a capture of an under-display camera, purified or not.
            restorer: embedded name or Hub id.

        Returns:
            Status (HTML), and the restored image as a PNG.
        """
        fields = {"attack": "off", "defense": "off", "restorer": restorer}
        yield from guarded(self._stage(photo, fields, self._restored), 2, photo)

    def _stage(self, photo: str | None, fields: dict[str, Any], stage: Stage) -> Iterator[Update]:
        """One stage of a capture; yields while it works, so that it can be stopped."""
        path, choices = chosen_photo(photo), choose(**fields, captured=True)
        image, note = engine.read_photo(path)
        engine.check_seconds(self.networks, image, choices)
        for picture in stage(quantize(image.to(best_device())), choices):
            if picture is None:
                yield status("running", "Working"), gr.skip()
            else:
                yield status("done", f"Done. {note}".strip(), 1.0), picture

    def _attacked(self, captured: torch.Tensor, choices: Choices) -> Iterator[Image.Image | None]:
        defense, settings = self.networks.defense(choices), choices.settings()
        result = stages.begin(defense, settings, engine.NAME, captured)
        for _ in stages.attack(defense, settings, result):
            yield None
        yield to_pil(result.images.get("attacked_input", captured))

    def _purified(self, captured: torch.Tensor, choices: Choices) -> Iterator[Image.Image | None]:
        defense, settings = self.networks.defense(choices), choices.settings()
        result = stages.begin(defense, settings, engine.NAME, captured)
        for _ in stages.defend(defense, result):
            yield None
        yield to_pil(result.images.get("purified_clean", captured))

    def _restored(self, captured: torch.Tensor, choices: Choices) -> Iterator[Image.Image | None]:
        with torch.no_grad():
            restored = self.networks.defense(choices).restorer(captured)
        yield to_pil(restored)


def _line(line: str) -> Update:
    return (line, *[gr.skip()] * (OUTPUTS - 1))


def _everything(line: str, result: Result, settings: Settings, note: str, limit: float | None) -> Update:
    words = " ".join(filter(None, (verdict(result, settings), suspicion(result, limit))))
    words += f"\n\n{note}" if note else ""
    delta = view.perturbation(result)
    shown = gr.skip() if delta is None else gr.update(value=delta[0], label=delta[1], visible=True)
    return (line, words, view.pictures(result), view.table(result), shown, gr.skip(), gr.skip())
