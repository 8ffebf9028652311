"""The page: what is above and below the tabs, and the tabs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from udc_defense.demo.about_tab import add_about_tab
from udc_defense.demo.api import add_endpoints
from udc_defense.demo.batch_tab import add_batch_tab
from udc_defense.demo.certify_tab import add_certify_tab
from udc_defense.demo.controls import Controls
from udc_defense.demo.door import Page
from udc_defense.demo.handlers import QUIET, for_visitors
from udc_defense.demo.networks import Networks
from udc_defense.demo.presets import choose
from udc_defense.demo.robustness_tab import add_robustness_tab
from udc_defense.demo.run_tab import add_run_tab
from udc_defense.errors import UDCDefenseError
from udc_defense.panel_file import panel_psf

INTRO = """# Attack and defend a camera under a display
A phone camera under its display sees through the pixels, and a network repairs the photo. An **attack** adds a change
too small to see that makes the repair fail. The **defense** drowns that change in noise, and a network takes the noise
out again before the photo is repaired. Press **Run** to see what either is worth."""


def build(gpu: Callable[..., Any], restorer: str = "default") -> gr.Blocks:
    """The whole page, its networks loaded.

    Args:
        gpu: decorator of the handlers that compute, such as `spaces.GPU`.
        restorer: what visitors meet who name none.

    Raises:
        CheckpointError: the restorer cannot be loaded.
    """
    networks = Networks(restorer)
    panel_psf(choose().panel)  # takes seconds, once
    with tempfile.TemporaryDirectory(prefix="udc-samples-") as folder:  # gradio copies what it shows
        return _page(networks, gpu, Path(folder))


def _page(networks: Networks, gpu: Callable[..., Any], folder: Path) -> gr.Blocks:
    with Page(title="udc-defense", analytics_enabled=False, delete_cache=(3600, 3600), fill_width=True) as demo:
        gr.Markdown(INTRO, elem_classes="udc-intro")
        with gr.Tabs():
            with gr.Tab("Try it", id="run"):
                controls = add_run_tab(demo, networks, gpu, folder)
            with gr.Tab("Robustness", id="robustness"):
                add_robustness_tab()
            with gr.Tab("Batch", id="batch"):
                add_batch_tab(networks, gpu, controls)
            with gr.Tab("Certify", id="certify"):
                add_certify_tab(networks, gpu, controls)
            with gr.Tab("About", id="about"):
                add_about_tab()
        model = gr.Markdown(networks.line(choose()), elem_classes="udc-foot", elem_id="model")
        _name_networks(networks, controls, model)
        add_endpoints(networks, gpu, controls)
    return demo


def _name_networks(networks: Networks, controls: Controls, model: gr.Markdown) -> None:
    """Say what a network is as soon as it is named, or why it cannot be had."""
    texts = [controls.fields[name] for name in ("restorer", "purifier")]
    lists = [controls.fields[name] for name in ("defense", "sampler")]

    def line(restorer: str, purifier: str, defense: str, sampler: str) -> str:
        try:
            choices = choose(restorer=restorer, purifier=purifier, defense=defense, sampler=sampler)
            return networks.line(choices)
        except UDCDefenseError as error:
            return f"⚠ {for_visitors(str(error))}"

    events = [event for field in texts for event in (field.submit, field.blur)]
    gr.on([*events, *(field.change for field in lists)], line, [*texts, *lists], model, **QUIET)
