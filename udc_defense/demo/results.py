"""The right side: what a run gives, and the tools to look at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gradio as gr
from torch import Tensor

from udc_defense.demo import view
from udc_defense.demo.gallery import add_gallery
from udc_defense.demo.handlers import QUIET
from udc_defense.demo.progress import status
from udc_defense.errors import ImageError
from udc_defense.images import read_image
from udc_defense.photo.result import STAGES

LEFT, RIGHT = "attacked_restored", "defended_attacked"
READY = status("idle", "Ready. Choose a photo and press Run.")
WELCOME = (
    "The photo's capture through the display is simulated, attacked, purified and restored. "
    "Every stage appears here as soon as it is ready, with what the attack took and what the defense gave back."
)
AGAIN = (
    "The zip holds the photo, every stage in 8 and in 16 bit, `report.json` and `recipe.json`. The same pixels on your "
    "machine: `udc-defense run --recipe recipe.json photo.png --out again`"
)
NOTHING = "Drag to compare"
ZOOMS = (2, 4, 8)

Strip = list[tuple[str, str]] | None


@dataclass(frozen=True)
class Results:
    """What a run fills, in the order of its updates; and the address of the page."""

    outputs: list[gr.components.Component]
    line: gr.HTML
    link: gr.Textbox


def add_results() -> Results:
    """Draw them."""
    line = gr.HTML(READY, elem_id="status", elem_classes="udc-flush")
    verdict = gr.Markdown(WELCOME, elem_id="verdict")
    stages = [(words, key) for key, words in STAGES.items()]
    with gr.Row(elem_classes="udc-choose"):
        left = gr.Dropdown(stages, value=LEFT, label="Left", filterable=False, min_width=130, elem_id="left")
        right = gr.Dropdown(stages, value=RIGHT, label="Right", filterable=False, min_width=130, elem_id="right")
    wipe = gr.ImageSlider(
        label=NOTHING, format="png", interactive=False, max_height=480, elem_id="wipe", buttons=["fullscreen"]
    )
    strip = add_gallery("All stages", "strip")
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            table = gr.HTML("", elem_id="table", elem_classes="udc-flush")
        with gr.Column(scale=2, min_width=200):
            delta = gr.Image(
                label="Perturbation",
                format="png",
                interactive=False,
                visible=False,
                buttons=["download"],
                alt_text="What the attack added, amplified around grey",
                elem_id="delta",
            )
    _lens(strip, delta)
    with gr.Accordion("Downloads, link, report", open=False, elem_id="downloads"):
        gr.Markdown(AGAIN, elem_classes="udc-small")
        files = gr.File(label="Files", file_count="multiple", interactive=False, visible=False, elem_id="files")
        link = gr.Textbox(
            "", label="Link to these choices (never to the photo)", interactive=False, buttons=["copy"], elem_id="link"
        )
        report = gr.JSON(label="report.json", elem_id="report")
    # The wipe is fed from the film strip and not by the run: a visitor may switch stages while it goes on.
    gr.on(
        [strip.change, left.change, right.change],
        compare,
        [strip, left, right],
        wipe,
        trigger_mode="always_last",
        **QUIET,
    )
    return Results([line, verdict, strip, table, delta, report, files], line, link)


def _lens(strip: gr.Gallery, delta: gr.Image) -> None:
    """The same crop of every stage; where, by sliders or a click into the perturbation."""
    with gr.Accordion("Zoom lens: the same spot of every stage", open=True, elem_id="lens"):
        with gr.Row():
            zoom = gr.Radio(
                [(f"× {zoom}", zoom) for zoom in ZOOMS], value=4, label="Zoom", min_width=140, elem_id="zoom"
            )
            across = gr.Slider(0, 100, 50, step=1, label="From the left, %", min_width=200, elem_id="across")
            down = gr.Slider(0, 100, 50, step=1, label="From the top, %", min_width=200, elem_id="down")
        crops = add_gallery("Under the lens", "crops")
    gr.on(
        [strip.change, zoom.change, across.change, down.change],
        magnify,
        [strip, zoom, across, down],
        crops,
        trigger_mode="always_last",
        **QUIET,
    )
    delta.select(spot, strip, [across, down], **QUIET)


def compare(strip: Strip, left: str, right: str) -> Any:
    """Two stages of the film strip for the wipe."""
    files = {caption: path for path, caption in strip or []}
    pair = view.pair(list(files), left, right)
    if pair is None:
        return gr.update(value=None, label=NOTHING)
    return gr.update(value=(files[pair[0]], files[pair[1]]), label=f"{pair[0]}  |  {pair[1]}")


def magnify(strip: Strip, zoom: int, across: float, down: float) -> list[tuple[Any, str]]:
    """Every stage of the film strip under the lens."""
    return [(view.lens(image, zoom, across / 100, down / 100), caption) for image, caption in _readable(strip)]


def _readable(strip: Strip) -> Iterator[tuple[Tensor, str]]:
    """What the browser sends back is a stranger's file again."""
    for path, caption in (strip or [])[: len(STAGES)]:
        with suppress(ImageError):
            yield read_image(path), caption


def spot(strip: Strip, event: gr.SelectData) -> tuple[Any, Any]:
    """Where in the picture, in percent, somebody clicked."""
    first = next(_readable(strip), None)
    if first is None:
        return gr.skip(), gr.skip()
    height, width = first[0].shape[-2:]
    x, y = event.index
    return round(100 * x / width), round(100 * y / height)
