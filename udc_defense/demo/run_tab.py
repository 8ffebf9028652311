"""The first tab: a photo is fooled and saved."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from udc_defense.demo.controls import Controls, add_controls
from udc_defense.demo.fields import FIELDS
from udc_defense.demo.handlers import COMPUTING, QUIET, for_visitors, lent_seconds, session_of, working
from udc_defense.demo.link import named, query, read_query
from udc_defense.demo.networks import Networks
from udc_defense.demo.progress import status, stopped, stopping
from udc_defense.demo.results import Results, add_results
from udc_defense.demo.run import Runs
from udc_defense.errors import UDCDefenseError

POLL = 0.1  # s
# On a phone the results lie a screen below the button. The line says at once that others may come first.
CLICKED = """() => {
    if (innerWidth < 768) document.querySelector('#status').scrollIntoView({behavior: 'smooth'});
    return %s;
}"""
# The address of the page is that of its choices; a Space shows it only where its frame is told.
SHOW_LINK = """(query) => {
    const address = new URL(location);
    const theme = address.searchParams.get('__theme');
    address.search = query;
    if (theme) address.searchParams.set('__theme', theme);
    history.replaceState(null, '', address);
    if (parent !== window) parent.postMessage({queryString: address.search}, 'https://huggingface.co');
    return address.href;
}"""

# A click like a visitor's: an answer of the server might come after one, and take the photo back.
PICK_SAMPLE = """() => {
    const title = new URLSearchParams(location.search).get('sample');
    const samples = [...document.querySelectorAll('#samples button')];
    samples.find(sample => sample.textContent.trim() === title)?.click();
}"""


def add_run_tab(demo: gr.Blocks, networks: Networks, gpu: Callable[..., Any], folder: Path) -> Controls:
    """Draw and connect it; its controls are those of other tabs, too."""
    with gr.Row(elem_classes="udc-page"):
        with gr.Column(scale=4, min_width=300):
            controls = add_controls(networks, folder)
        with gr.Column(scale=7, min_width=300):
            results = add_results()
    handler = gpu(duration=lambda photo, *values: lent_seconds(named(values)))(Runs(networks).run)
    _connect(demo, handler, controls, results)
    return controls


def _connect(demo: gr.Blocks, handler: Callable[..., Any], controls: Controls, results: Results) -> None:
    line = results.line
    controls.run.click(None, None, line, js=CLICKED % json.dumps(status("running", "Waiting for your turn")), **QUIET)
    running = controls.run.click(handler, controls.inputs, results.outputs, api_name="run", **COMPUTING)
    titles = {path: title for title, path in controls.samples.items()}

    def link(photo: str | None, *values: Any) -> str:
        return query(named(values), titles.get(photo or ""))

    linked = controls.run.click(link, controls.inputs, results.link, queue=False, **QUIET)
    linked.then(None, results.link, results.link, js=SHOW_LINK, **QUIET)
    stop_by(controls.stop, controls.run, running, line)

    demo.load(open_link, None, [line, *controls.fields.values()], **QUIET)
    demo.load(None, None, None, js=PICK_SAMPLE, **QUIET)


def stop_by(stop: gr.Button, run: gr.Button, running: Any, line: gr.HTML) -> None:
    """First the cancellation, then the word: sent together, a last update of the run could overwrite it."""
    quietly: dict[str, Any] = {"queue": False} | QUIET
    cancelled = stop.click(None, cancels=[running], **quietly)
    stopping = cancelled.then(begin_stop, line, [line, run], **quietly)
    stopping.then(end_stop, line, [line, run], **quietly)


def begin_stop(line: str) -> tuple[str, Any]:
    """A step may take its time; until it is over another run cannot begin."""
    return stopping(line), gr.update(interactive=False)


async def end_stop(line: str, request: gr.Request) -> tuple[str, Any]:
    """When the step is over."""
    while session_of(request) in working:
        await asyncio.sleep(POLL)
    return stopped(line), gr.update(interactive=True)


def open_link(request: gr.Request) -> tuple[Any, ...]:
    """Updates of the status line and the choices to what the page's address names."""
    try:
        fields = read_query(dict(request.query_params))
    except UDCDefenseError as error:
        words = f"This link cannot be followed. {for_visitors(str(error))}"
        return (status("failed", words), *[gr.skip()] * len(FIELDS))
    return (gr.skip(), *(fields.get(name, gr.skip()) for name in FIELDS))
