"""Model cards of the embedded checkpoints: front matter that the Hub reads, and prose around measured numbers.

A number comes from a results file, or from the checkpoint: its files, its configuration, its `training.json`.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections import Counter
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from udc_defense.checkpoints.files import EMBEDDED
from udc_defense.checkpoints.models import show_models
from udc_defense.evaluation import (
    architecture_suite,
    evaluation_tables,
    finetuning_suite,
    finetuning_tables,
    generalisation,
    spine,
)
from udc_defense.evaluation.card_texts import CARD, COMPARED, EVALUATED, FINETUNED, OTHERS, TEXTS
from udc_defense.evaluation.entry import rows_of
from udc_defense.evaluation.runner import CENTRE, Results
from udc_defense.optics import PANELS
from udc_defense.purification import DEFAULT, DIFFUSION, Purification
from udc_defense.registry import first_line
from udc_defense.training.recipes import RECIPES
from udc_defense.training.recipes.base import shown_value

DIGITS = {"psnr": 2, "ssim": 3}
UNITS = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
UNDEFENDED = ("captured", "restored", "attacked_restored", "noise_restored")
DEFENDED = ("defended_clean", "defended_attacked")
SETTINGS = ("size", "attack", "norm", "steps", "threat")


@dataclass(frozen=True)
class Measured:
    """What cards show.

    Attributes:
        spine: results of that protocol.
        denoising: what `results/denoising.json` holds.
        architectures: results of that protocol.
        generalisation: what `results/generalisation.json` holds.
        finetuning: results of that protocol.
        evaluation: summaries of `evaluate --preset paper`, by panel.
    """

    spine: Results
    denoising: dict[str, Any]
    architectures: Results
    generalisation: dict[str, Any]
    finetuning: Results
    evaluation: evaluation_tables.Summaries


def card(kind: str, name: str, measured: Measured) -> str:
    """The model card of an embedded checkpoint; a purifier is measured in the defense that it belongs to.

    Args:
        kind: restorer, purifier or guide.
        name: of the embedded one.
        measured: what there is to show.
    """
    (details,) = show_models(str(EMBEDDED / kind / name))
    model, training = details.model, details.training
    defense = DIFFUSION if (kind, name) == ("purifier", DIFFUSION.weights) else DEFAULT
    facts = tables(measured, defense) | training
    index = scores(measured, defense).get(f"{kind}/{name}")
    if kind == "restorer" and name in COMPARED:
        facts |= _compared_tables(measured.architectures, name)
        rows = architecture_suite.unknowing_rows(measured.architectures, name)
        index = _restoration(rows, UNDEFENDED + DEFENDED)
    if kind == "restorer" and name in FINETUNED:
        facts |= _finetuned_tables(measured.finetuning, name) | {"recipe_loss": _loss_words(training)}
        rows = rows_of(measured.finetuning, finetuning_suite.unknowing(name, finetuning_suite.CHOICE_EPS), "heldout")
        index = _restoration(rows, UNDEFENDED + DEFENDED)
    if kind == "restorer" and name in PANELS:
        facts["made"] = f"`{measured.generalisation['command']}`."
        facts["unlike"] = generalisation.table(measured.generalisation, "heldout", networks=("default", name))
        index = _panel_scores(measured.generalisation, name)
    facts["timesteps"] = details.config.get("scheduler.num_train_timesteps")
    own = OTHERS.get(f"{kind}/{name}", {})
    texts = {key: text.format_map(facts) for key, text in ({"trained_by": kind} | TEXTS[kind] | own).items()}
    if kind == "restorer":
        texts["measured"] += EVALUATED.format(evaluation_tables.headline_table(measured.evaluation, name))
    told = {
        "front": _front(kind, name, texts["pipeline"], index),
        "kind": kind,
        "name": name,
        "minutes": training["seconds"] / 60,
        "panels": panel_shares(training["panels"]),
        "remark": f" {training['remark']}" if "remark" in training else "",
        "command": _command(texts["trained_by"], name, training),
    }
    return CARD.format_map(facts | texts | vars(model) | told)


def panel_shares(panels: list[str]) -> str:
    """`axon20 (50%), toled (25%)`, of a list in which a panel that was drawn twice as often stands twice."""
    return ", ".join(f"{panel} ({count / len(panels):.0%})" for panel, count in Counter(panels).items())


def _command(trained_by: str, name: str, training: dict[str, Any]) -> str:
    """What trains such a network again."""
    settings = {key: training[key] for key in ("steps", "batch", "learning_rate", "precision", "seed")}
    flags = [("panel", panel) for panel in training["panels"]] + list(settings.items())
    run, command = trained_by, f"train {trained_by}"
    if "finetuning" in training:
        run, command = name, f"finetune {training['finetuned_from']} --recipe {training['finetuning']['recipe']}"
        flags = [*_recipe_flags(training["finetuning"]), ("size", training["crop"]), *flags]
    if "architecture" in training:
        run = name
        texts = (f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in training["options"].items())
        flags += [("architecture", training["architecture"]), *(("option", shlex.quote(text)) for text in texts)]
    given = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in flags)
    return f"udc-defense {command} --scenes DIR --crops FILE {given} --out runs/{run}"


def _recipe_flags(settled: dict[str, Any]) -> list[tuple[str, str]]:
    """What differs from a recipe's defaults, and what it purifies with."""
    defaults = {field.name: shown_value(field.default) for field in dataclasses.fields(RECIPES.get(settled["recipe"]))}
    flags = [
        ("option", f"{name}={_shown(settled[name])}")
        for name, default in defaults.items()
        if _shown(settled[name]) != default
    ]
    if purifier := settled["purifier"]:
        weights = purifier.get("weights", "diffusion")
        flags.append(("defense", purifier["sampler"] + (f":weights={weights}" if weights != "diffusion" else "")))
    return flags


def _loss_words(training: dict[str, Any]) -> str:
    """The recipe in its own words, with its settings, and whether VGG19 was there."""
    settled = training["finetuning"]
    recipe = RECIPES.get(settled["recipe"])
    names = [field.name for field in dataclasses.fields(recipe) if field.name != "perceptual" or settled["backbone"]]
    chosen = ", ".join(f"{name} {_shown(settled[name])}" for name in names)
    without = "" if settled["backbone"] else "; L2 alone, without VGG19's perceptual part"
    return f"{first_line(recipe).rstrip('.')} ({chosen}){without}"


def _shown(value: Any) -> str:
    """JSON knows no pairs."""
    return shown_value(tuple(value) if isinstance(value, list) else value)


def _front(kind: str, name: str, pipeline: str, index: list[EvalResult] | None) -> str:
    """What the Hub reads, as YAML."""
    return ModelCardData(
        license="apache-2.0",
        library_name="diffusers",
        pipeline_tag=pipeline,
        tags=["under-display-camera", "adversarial-robustness", kind],
        model_name=f"{kind} {name}",
        eval_results=index,
    ).to_yaml()


def tables(measured: Measured, defense: Purification = DEFAULT) -> dict[str, str]:
    """Markdown of what the cards show, by name; `defense` is whose numbers are shown."""
    results = measured.spine
    set_to = results.protocol
    return {
        "made": _made(results),
        "protocol": f"Panel {set_to['panel']}; {set_to['attack']}; random noise: {set_to['control']}; "
        f"the attacker who knows the defense: {set_to['adaptive']}.",
        "denoising": _denoising_table(measured.denoising),
        "defense": defense.words,
        "psnr-heldout": spine.table(results, "heldout", purification=defense),
        "adaptive-heldout": spine.adaptive_table(results, "heldout", defense),
    }


def _compared_tables(results: Results, name: str) -> dict[str, str]:
    """What the card of a compared architecture shows, as `tables`."""
    images = str(results.protocol["images"])
    return {"made": _made(results), "images": images, "compared": architecture_suite.table(results, [name])}


def _finetuned_tables(results: Results, name: str) -> dict[str, str]:
    """What the card of a fine-tuned restorer shows, beside the one that it comes from."""
    networks = (finetuning_suite.BASE, name)
    return {
        "made": _made(results),
        "images": str(results.protocol["images"]),
        "finetuned": finetuning_tables.table(results, networks=networks),
        "finetuned-known": finetuning_tables.adaptive_table(results, networks),
    }


def _made(results: Results) -> str:
    return f"`{results.command}`, seed {results.seed}, torch {results.versions['torch']}, on {results.hardware}."


def _denoising_table(denoising: dict[str, Any]) -> str:
    lines = ["| t* | σ (1/255) | noisy | non-local means | purifier, one step |", "|---" * 5 + "|"]
    for row in denoising["rows"]:
        values = [row[key] for key in ("sigma_in_255ths", "noisy", "non_local_means", "purifier")]
        lines.append(f"| {row['noise_level']} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def scores(measured: Measured, defense: Purification) -> dict[str, list[EvalResult]]:
    """What the `model-index` of each checkpoint lists; the arguments are those of `tables`."""
    unaware = spine.defended_rows(measured.spine, "heldout", spine.CHOICE_EPS, defense)
    aware = spine.defended_rows(measured.spine, "heldout", spine.CHOICE_EPS, defense, size=CENTRE, threat="exact")
    defended = [*_restoration(unaware, DEFENDED), *_restoration(aware, DEFENDED)]
    return {
        "restorer/default": _restoration(unaware, UNDEFENDED),
        f"purifier/{DEFAULT.weights}": defended,
        f"purifier/{DIFFUSION.weights}": [*defended, *_denoising_scores(measured.denoising)],
    }


def _restoration(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> list[EvalResult]:
    """Means over crops that share one setting."""
    first = rows[0]
    return [
        EvalResult(
            task_type="image-to-image",
            task_name="Restoration",
            dataset_type="simulated-under-display-captures",
            dataset_name=f"Simulated captures, panel {first['panel']}",
            dataset_config=f"attacker: {first['threat']}",
            dataset_split=first["split"],
            dataset_args={"crops": len(rows), "eps_in_255ths": first["eps"]} | {key: first[key] for key in SETTINGS},
            metric_type=metric,
            metric_name=f"{UNITS[metric]}, {key.replace('_', ' ')}",
            metric_value=round(spine.mean(rows, metric, key), digits),
            metric_args=first["purifier"] if key in DEFENDED else None,
        )
        for metric, digits in DIGITS.items()
        for key in keys
    ]


def _panel_scores(results: dict[str, Any], name: str) -> list[EvalResult]:
    """Of the network of one panel, on captures of that panel."""
    (own,) = (condition.words for condition in generalisation.PLAIN if condition.panel == name)
    rows = [row for row in results["rows"] if (row["split"], row["condition"]) == ("heldout", own)]
    scores = {"captured": [row["captured"] for row in rows], "restored": [row["restored"][name] for row in rows]}
    return [
        EvalResult(
            task_type="image-to-image",
            task_name="Restoration",
            dataset_type="simulated-under-display-captures",
            dataset_name=f"Simulated captures, panel {name}",
            dataset_split="heldout",
            dataset_args={"crops": len(rows)},
            metric_type="psnr",
            metric_name=f"{UNITS['psnr']}, {key}",
            metric_value=round(fmean(values), DIGITS["psnr"]),
        )
        for key, values in scores.items()
    ]


def _denoising_scores(denoising: dict[str, Any]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="image-to-image",
            task_name="Denoising",
            dataset_type="simulated-under-display-captures",
            dataset_name="Simulated captures and Gaussian noise",
            dataset_split="val",
            metric_type="psnr",
            metric_name=f"{UNITS['psnr']}, one step from t* = {row['noise_level']}",
            metric_value=row["purifier"],
        )
        for row in denoising["rows"]
    ]
