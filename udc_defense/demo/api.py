"""The stages one by one, for programs: endpoints without anything on the page."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import gradio as gr

from udc_defense.demo.controls import Controls
from udc_defense.demo.handlers import COMPUTING, lent_seconds
from udc_defense.demo.networks import Networks
from udc_defense.demo.run import Runs


def add_endpoints(networks: Networks, gpu: Callable[..., Any], controls: Controls) -> None:
    """`/attack`, `/purify` and `/restore`; their inputs are described by the controls of the page."""
    runs = Runs(networks)
    line = gr.HTML(visible=False)
    picture = gr.Image(format="png", visible=False, label="Result")
    for handler in (runs.attack, runs.purify, runs.restore):
        names = list(signature(handler).parameters)[1:]
        fields = [controls.fields[name] for name in names]

        def duration(photo: str | None, *values: Any, names: list[str] = names) -> int:
            return lent_seconds(dict(zip(names, values, strict=True)))

        gr.Button(visible=False).click(
            gpu(duration=duration)(handler),
            [controls.photo, *fields],
            [line, picture],
            api_name=handler.__name__,
            **COMPUTING,
        )
