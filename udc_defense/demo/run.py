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
from udc_defense.demo.fields import FIELDS, details, endpoint
from udc_defense.demo.handlers import Update, chosen_photo, guarded
from udc_defense.demo.networks import Networks
from udc_defense.demo.presets import choose
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

    @endpoint(*FIELDS)
    def run(self, photo: str | None, fields: dict[str, Any]) -> Iterator[Update]:
        """Attack, purify and restore one photo; every stage is sent as soon as it is there.

        What is null or empty is as the presets `attack` and `defense` say. What an attack does not take is ignored.

        Args:
            photo: any image; large ones are scaled down.

        Returns:
            Status (HTML), verdict (Markdown), all stages, table (HTML), amplified perturbation, report.json, and files:
            a zip of everything, recipe.json for `udc-defense run --recipe`, and every stage as a PNG of 16 bit.
        """
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

    @endpoint(*(name for name in FIELDS if name not in ("captured", "panel")))
    def attack(self, photo: str | None, fields: dict[str, Any]) -> Iterator[Update]:
        """Attack a capture; what the restorer makes of it untouched is what the attack moves it away from.

        Args:
            photo: a capture of an under-display camera.

        Returns:
            Status (HTML), and the attacked capture as a PNG.
        """
        yield from guarded(self._stage(photo, fields, self._attacked), 2, photo)

    @endpoint("defense", *details("defense"), "purifier", "seed")
    def purify(self, photo: str | None, fields: dict[str, Any]) -> Iterator[Update]:
        """Purify a capture.

        Args:
            photo: a capture of an under-display camera, attacked or not.

        Returns:
            Status (HTML), and the purified capture as a PNG.
        """
        yield from guarded(self._stage(photo, {"attack": "off"} | fields, self._purified), 2, photo)

    @endpoint("restorer")
    def restore(self, photo: str | None, fields: dict[str, Any]) -> Iterator[Update]:
        """Restore a capture.

        Args:
            photo: a capture of an under-display camera, purified or not.

        Returns:
            Status (HTML), and the restored image as a PNG.
        """
        off = {"attack": "off", "defense": "off"}
        yield from guarded(self._stage(photo, off | fields, self._restored), 2, photo)

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
