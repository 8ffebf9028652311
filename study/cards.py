"""Model cards of the embedded checkpoints: templates in `cards/`, filled with measured numbers, and what the Hub reads.

A number comes from rows, from another results file, or from the checkpoint: its configuration, its `training.json`.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from study import tables
from study.data import HELDOUT, MODEL, Rows, about, results, rows
from study.measure import generalisation
from study.tables import ARCHITECTURES, FINETUNED, pgd
from udc_defense.checkpoints.files import EMBEDDED
from udc_defense.checkpoints.models import Details, show_models
from udc_defense.evaluation.rows import mean
from udc_defense.optics import PANELS
from udc_defense.purification import DEFAULT, DIFFUSION
from udc_defense.registry import first_line
from udc_defense.training.recipes import RECIPES
from udc_defense.training.recipes.base import shown_value

DIGITS = {"psnr": 2, "ssim": 3}
UNITS = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
UNDEFENDED = ("captured", "restored", "attacked_restored", "noise_restored")
DEFENDED = ("defended_clean", "defended_attacked")
SETTINGS = ("size", "attack", "norm", "steps", "threat")
ARXIV = "[arXiv {0}](https://arxiv.org/abs/{0})"


def card(kind: str, name: str) -> str:
    """The model card of an embedded checkpoint; a purifier is measured in the defense that it belongs to.

    Args:
        kind: restorer, purifier or guide.
        name: of the embedded one.
    """
    (details,) = show_models(str(EMBEDDED / kind / name))
    training = details.training
    family = _family(kind, name)
    pipeline = "image-feature-extraction" if kind == "guide" else "image-to-image"
    told = {
        "front": _front(kind, name, pipeline, _index(kind, name, family)),
        "kind": kind,
        "name": name,
        "family": family,
        "model": details.model,
        "training": training,
        "timesteps": details.config.get("scheduler.num_train_timesteps"),
        "panels": tables.panel_shares(training["panels"]),
        "command": _command(_trained_by(kind, name, family), name, training),
        "arxiv": ARXIV.format,
    }
    return (
        _templates().get_template(f"{kind}.md.j2").render(told | _measured(kind, name, family, details)).rstrip() + "\n"
    )


@cache
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FileSystemLoader(Path(__file__).parent / "cards")
    return Environment(loader=folder, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701


def _family(kind: str, name: str) -> str:
    """Restorers that are told alike."""
    if kind != "restorer" or name == "default":
        return "first"
    return "finetuned" if name in FINETUNED else "panel" if name in PANELS else "compared"


def _trained_by(kind: str, name: str, family: str) -> str:
    """The command's own word."""
    return "direct_purifier" if name == "direct" else name if family == "finetuned" else kind


def _measured(kind: str, name: str, family: str, details: Details) -> dict[str, str]:
    """The tables of a card, by the names that its template has for them."""
    if kind == "guide":
        return {}
    if kind == "purifier":
        return _as_a_defense(name == DIFFUSION.weights) | {"denoising": tables.denoising()}
    evaluated = {"evaluation": tables.evaluation(name)}
    if family == "finetuned":
        networks = ("default", name)
        found = {"finetuned": tables.finetuned(networks=networks), "known": tables.finetuned_known(networks)}
        return evaluated | found | {"recipe": _recipe(details.training), "made": _made("finetuning")}
    if family == "panel":
        made = f"`{results('generalisation')['command']}`."
        return evaluated | {"unlike": tables.unlike(HELDOUT, ("default", name)), "made": made}
    if family == "compared":
        compared = {"architecture": ARCHITECTURES[name], "compared": tables.architectures([name])}
        return evaluated | compared | {"made": _made("architectures")}
    return evaluated | _as_a_defense(False)


def _as_a_defense(is_model: bool) -> dict[str, str]:
    """What a card tells of the default defense, or of the diffusion model."""
    name, purification = (MODEL, DIFFUSION) if is_model else ("default", DEFAULT)
    return {
        "defense": purification.words,
        "over_radii": tables.over_radii(HELDOUT, defense=name),
        "by_knowledge": tables.by_knowledge(HELDOUT, name),
        "made": _made("default_defense"),
    }


def _made(name: str) -> str:
    found = about(name)
    return f"`{found['command']}`, seed {found['seed']}, torch {found['versions']['torch']}, on {found['hardware']}."


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


def _recipe(training: dict[str, Any]) -> str:
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


def _index(kind: str, name: str, family: str) -> list[EvalResult] | None:
    """What the Hub lists of a checkpoint."""
    if kind == "guide":
        return None
    if kind == "purifier":
        defense = MODEL if name == DIFFUSION.weights else "default"
        unaware = rows("default_defense", HELDOUT, pgd(4), defense, size=256)
        aware = rows("default_defense", HELDOUT, pgd(4, "exact"), defense)
        found = [*_restoration(unaware, DEFENDED), *_restoration(aware, DEFENDED)]
        return [*found, *(_denoising() if name == DIFFUSION.weights else [])]
    if family == "panel":
        return _panel(name)
    if family == "first":
        return _restoration(rows("default_defense", HELDOUT, pgd(4), size=256), UNDEFENDED)
    study = "finetuning" if family == "finetuned" else "architectures"
    return _restoration(rows(study, HELDOUT, pgd(4), "default", name), UNDEFENDED + DEFENDED)


def _restoration(found: Rows, stages: tuple[str, ...]) -> list[EvalResult]:
    """Means over crops that share one setting."""
    first = found[0]
    return [
        EvalResult(
            task_type="image-to-image",
            task_name="Restoration",
            dataset_type="simulated-under-display-captures",
            dataset_name=f"Simulated captures, panel {first['panel']}",
            dataset_config=f"attacker: {first['threat']}",
            dataset_split=first["split"],
            dataset_args={"crops": len(found), "eps_in_255ths": first["eps"]}
            | {key: first.get(key) for key in SETTINGS},
            metric_type=metric,
            metric_name=f"{UNITS[metric]}, {stage.replace('_', ' ')}",
            metric_value=round(mean(found, stage, metric) or 0.0, digits),
            metric_args=first["purifier"] if stage in DEFENDED else None,
        )
        for metric, digits in DIGITS.items()
        for stage in stages
    ]


def _panel(name: str) -> list[EvalResult]:
    """Numbers of the network of one panel, on captures of that panel."""
    (own,) = (condition.words for condition in generalisation.PLAIN if condition.panel == name)
    found = [row for row in results("generalisation")["rows"] if (row["split"], row["condition"]) == (HELDOUT, own)]
    scores = {"captured": [row["captured"] for row in found], "restored": [row["restored"][name] for row in found]}
    return [
        EvalResult(
            task_type="image-to-image",
            task_name="Restoration",
            dataset_type="simulated-under-display-captures",
            dataset_name=f"Simulated captures, panel {name}",
            dataset_split=HELDOUT,
            dataset_args={"crops": len(found)},
            metric_type="psnr",
            metric_name=f"{UNITS['psnr']}, {key}",
            metric_value=round(fmean(values), DIGITS["psnr"]),
        )
        for key, values in scores.items()
    ]


def _denoising() -> list[EvalResult]:
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
        for row in results("denoising")["rows"]
    ]
