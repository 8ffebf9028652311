"""The published results, read from their files: what the defense is worth on many photos, not on one."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import gradio as gr
import pandas as pd  # type: ignore[import-untyped]

from udc_defense.demo.files import found
from udc_defense.demo.handlers import QUIET
from udc_defense.evaluation import (
    architecture_suite,
    attack_tables,
    certification_suite,
    detection_suite,
    ducd_tables,
    evaluation_tables,
    finetuning_tables,
    generalisation,
    publish,
    purifier_comparison,
    purifier_tables,
    spine,
)
from udc_defense.evaluation.runner import Results, read_results
from udc_defense.optics import PANELS

NOT_HERE = "This installation has no `results/`; the repository has them, with the command that measures them again."
SPLITS = [("Held-out photos, measured once", "heldout"), ("Validation photos, on which choices were made", "val")]
METRICS = [("PSNR, dB", "psnr"), ("SSIM", "ssim")]
LINES = {
    "captured": "Capture, not restored",
    "restored": "Restored, no attack",
    "noise_restored": "Random noise, restored",
    "attacked_restored": "Attacked, restored",
    "defended_clean": "Defended, no attack",
    "defended_attacked": "Attacked, defended",
}
# Told apart by people who confuse red and green: Okabe and Ito's palette, readable on white and on dark blue.
COLOURS = dict(zip(LINES.values(), ("#8b93a1", "#009e73", "#b08c00", "#d55e00", "#56a0d3", "#b66a96"), strict=True))


def add_robustness_tab() -> None:
    """Draw it from the results files that are there."""
    path = found("results/spine.json")
    if path is None:
        gr.Markdown(NOT_HERE)
        return
    results = read_results(path)
    gr.Markdown(f"### What it is worth, in one paragraph\n\n{publish.verdict(results)}", elem_id="honest")
    gr.Markdown(_made(results), elem_classes="udc-small")
    with gr.Row():
        split = gr.Radio(SPLITS, value="heldout", label="Photos", scale=3, elem_id="split")
        metric = gr.Radio(METRICS, value="psnr", label="Measured in", scale=1, elem_id="metric")
    plot = gr.LinePlot(
        frame(results, "heldout", "psnr"),
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
    table = gr.Markdown(spine.table(results, "heldout"), elem_id="numbers", elem_classes="udc-wide")
    gr.Markdown("### The attacker who knows the defense")
    adaptive = gr.Markdown(spine.adaptive_table(results, "heldout"), elem_classes="udc-wide")

    def shown(split: str, metric: str) -> tuple[object, str, str]:
        title = dict((name, words) for words, name in METRICS)[metric]
        changed = gr.LinePlot(frame(results, split, metric), y_title=title)
        return changed, spine.table(results, split, metric), spine.adaptive_table(results, split)

    gr.on([split.change, metric.change], shown, [split, metric], [plot, table, adaptive], **QUIET)
    for title, (text, names) in MORE.items():
        paths = [path for name in names if (path := found(f"results/{name}.json"))]
        if len(paths) == len(names):
            with gr.Accordion(title, open=False) as part:
                told = gr.Markdown("…", elem_classes="udc-wide")
            # Read when someone wants it: the page does not wait for thousands of rows.
            part.expand(partial(text, *paths), None, told, **QUIET)


def frame(results: Results, split: str, metric: str) -> pd.DataFrame:
    """Mean over the photos of a split for every ε of the protocol: a row per point of the plot."""
    points = [
        {"ε, of 255": eps, "image": words, "value": round(spine.mean(rows, metric, key), 3)}
        for eps in spine.EPSILONS
        if (rows := spine.defended_rows(results, split, eps))
        for key, words in LINES.items()
    ]
    return pd.DataFrame(points, columns=["ε, of 255", "image", "value"])


def _made(results: Results) -> str:
    return f"Made by `{results.command}`, seed {results.seed}, on {results.hardware}."


@cache
def _attacks(path: Path) -> str:
    suite = read_results(path)
    tables = (attack_tables.oblivious_table(suite, "heldout"), attack_tables.adaptive_table(suite, "heldout"))
    known = "\n\nThe attacker who knows the defense:\n\n".join(tables)
    return f"{attack_tables.verdict(suite)}\n\n{known}\n\n{_made(suite)}"


@cache
def _purifiers(fixed: Path, per_photo: Path, cost: Path) -> str:
    compared = read_results(fixed).joined(read_results(per_photo))
    spent = json.loads(cost.read_text(encoding="utf-8"))
    table = purifier_tables.table(compared, spent, "heldout")
    return f"{purifier_comparison.verdict(compared, spent)}\n\n{table}\n\n{_made(compared)}"


@cache
def _finetuned(path: Path) -> str:
    compared = read_results(path)
    told = f"{finetuning_tables.winner(compared)} {finetuning_tables.verdict(compared)}"
    unknowing, knowing = finetuning_tables.table(compared), finetuning_tables.adaptive_table(compared)
    tables = f"Held-out, not knowing the purifier:\n\n{unknowing}\n\nKnowing all there is:\n\n{knowing}"
    return f"{told}\n\n{tables}\n\n{_made(compared)}"


@cache
def _architectures(path: Path) -> str:
    compared = read_results(path)
    told = architecture_suite.verdict(compared), architecture_suite.table(compared), _made(compared)
    return "\n\n".join(told)


@cache
def _evaluated(*paths: Path) -> str:
    summaries = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    told = evaluation_tables.verdict(summaries), evaluation_tables.headline_table(summaries)
    transferred = "PGD-20 made on one restorer, shown to another (`axon20`, nothing defended):"
    return "\n\n".join((*told, transferred, evaluation_tables.transfer_table(summaries)))


@cache
def _detector(path: Path) -> str:
    detected = read_results(path)
    return f"{detection_suite.table(detected, 'heldout')}\n\n{_made(detected)}"


@cache
def _optics(path: Path) -> str:
    compared = json.loads(path.read_text(encoding="utf-8"))
    return f"{generalisation.verdict(compared)}\n\n{generalisation.table(compared, 'heldout')}"


@cache
def _guarantees(certificates: Path, distilled: Path) -> str:
    certified, ducd = (json.loads(path.read_text(encoding="utf-8")) for path in (certificates, distilled))
    table = certification_suite.table(certified, "l2")
    return f"{certification_suite.verdict(certified)}\n\n{table}\n\n{ducd_tables.verdict(ducd)}"


# Tables of the other protocols: what writes them, of which results files.
MORE: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    "Every attack": (_attacks, ("attacks",)),
    "Every purifier": (_purifiers, ("purifiers", "per_photo", "cost")),
    "Fine-tuned restorers": (_finetuned, ("finetuning",)),
    "Other architectures": (_architectures, ("architectures",)),
    "Every restorer": (_evaluated, tuple(f"evaluation/{panel}/summary" for panel in PANELS)),
    "Other optics": (_optics, ("generalisation",)),
    "Certified bounds": (_guarantees, ("certification", "ducd")),
    "The detector": (_detector, ("detection",)),
}
