"""The published results, read from RESULTS.md: what the defense is worth on many photos, not on one."""

from __future__ import annotations

import re
from functools import cache, partial

import gradio as gr
import pandas as pd  # type: ignore[import-untyped]

from udc_defense.demo.files import found
from udc_defense.demo.handlers import QUIET

NOT_HERE = "This installation has no RESULTS.md; the repository has it, with the commands that measure again."
SPLITS = [("Held-out photos, measured once", "heldout"), ("Validation photos, on which choices were made", "val")]
METRICS = [("PSNR, dB", "psnr"), ("SSIM", "ssim")]
# Columns of the table over ε, and what they are called in the plot.
LINES = {
    "capture": "Capture, not restored",
    "restored": "Restored, no attack",
    "random noise, restored": "Random noise, restored",
    "attacked, restored": "Attacked, restored",
    "purified clean, restored": "Defended, no attack",
    "purified attacked, restored": "Attacked, defended",
}
# Told apart by people who confuse red and green: Okabe and Ito's palette, readable on white and on dark blue.
COLOURS = dict(zip(LINES.values(), ("#8b93a1", "#009e73", "#b08c00", "#d55e00", "#56a0d3", "#b66a96"), strict=True))
# Headings of RESULTS.md, read when someone wants them.
MORE = (
    "Every attack",
    "Every purifier, and the plain transforms",
    "Fine-tuning",
    "Architectures",
    "Every restorer",
    "Captures unlike those of training",
    "Guarantees",
    "Detecting an attack",
)
MARK = re.compile(r"<!--.*?-->\n?", re.DOTALL)


def add_robustness_tab() -> None:
    """Draw it from what is published."""
    if found("RESULTS.md") is None:
        gr.Markdown(NOT_HERE)
        return
    gr.Markdown(f"### What it is worth, in one paragraph\n\n{paragraph()}", elem_id="honest")
    gr.Markdown(f"Made by {made()}", elem_classes="udc-small")
    with gr.Row():
        split = gr.Radio(SPLITS, value="heldout", label="Photos", scale=3, elem_id="split")
        metric = gr.Radio(METRICS, value="psnr", label="Measured in", scale=1, elem_id="metric")
    plot = gr.LinePlot(
        frame("heldout", "psnr"),
        x="ε, of 255",
        y="value",
        color="image",
        color_map=COLOURS,
        color_title=" ",
        y_title="PSNR, dB",
        title="The attacker does not know the defense (PGD, 20 steps)",
        height=380,
        elem_id="plot",
    )
    table = gr.Markdown(place("psnr-heldout"), elem_id="numbers", elem_classes="udc-wide")
    gr.Markdown("### The attacker who knows the defense")
    adaptive = gr.Markdown(place("adaptive-heldout"), elem_classes="udc-wide")

    def shown(split: str, metric: str) -> tuple[object, str, str]:
        title = dict((name, words) for words, name in METRICS)[metric]
        changed = gr.LinePlot(frame(split, metric), y_title=title)
        return changed, place(f"{metric}-{split}"), place(f"adaptive-{split}")

    gr.on([split.change, metric.change], shown, [split, metric], [plot, table, adaptive], **QUIET)
    for title in MORE:
        with gr.Accordion(title, open=False) as part:
            told = gr.Markdown("…", elem_classes="udc-wide")
        part.expand(partial(section, title), None, told, **QUIET)


@cache
def _text(name: str) -> str:
    path = found(name)
    return path.read_text(encoding="utf-8") if path else ""


def place(name: str) -> str:
    """What stands between the marks of a name in RESULTS.md."""
    inside = re.search(
        rf"<!-- {re.escape(name)} -->\n(.*?)\n<!-- /{re.escape(name)} -->", _text("RESULTS.md"), re.DOTALL
    )
    return MARK.sub("", inside[1]) if inside else ""


def section(title: str) -> str:
    """All that stands under a heading of RESULTS.md."""
    inside = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", _text("RESULTS.md"), re.DOTALL | re.MULTILINE)
    return MARK.sub("", inside[1]).strip() if inside else ""


def paragraph() -> str:
    """What the default defense is worth."""
    return section("The default defense").split("\n\n")[0]


def made() -> str:
    """The command behind the default defense's numbers, and what it ran on."""
    told = re.search(r"^`python -m study measure .*?(?=\n\n)", _text("RESULTS.md"), re.DOTALL | re.MULTILINE)
    return MARK.sub("", told[0]) if told else ""


def frame(split: str, metric: str) -> pd.DataFrame:
    """The table over ε: a row per point of the plot."""
    head, _, *lines = (line.strip("| ").split(" | ") for line in place(f"{metric}-{split}").splitlines())
    rows = [dict(zip(head, cells, strict=True)) for cells in lines]
    points = [
        {"ε, of 255": float(row[head[0]]), "image": words, "value": float(row[column])}
        for row in rows
        for column, words in LINES.items()
    ]
    return pd.DataFrame(points, columns=["ε, of 255", "image", "value"])
