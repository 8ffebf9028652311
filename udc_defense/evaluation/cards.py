"""Model cards of the embedded checkpoints: front matter that the Hub reads, and prose around measured numbers.

A number comes from a results file, or from the checkpoint: its files, its configuration, its `training.json`.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from udc_defense.checkpoints import EMBEDDED
from udc_defense.evaluation import architecture_suite, spine
from udc_defense.evaluation.purification import DEFAULT, DIFFUSION, Purification
from udc_defense.evaluation.runner import CENTRE, Results
from udc_defense.models import show_models

DIGITS = {"psnr": 2, "ssim": 3}
UNITS = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
UNDEFENDED = ("captured", "restored", "attacked_restored", "noise_restored")
DEFENDED = ("defended_clean", "defended_attacked")
SETTINGS = ("size", "attack", "norm", "steps", "threat")

CARD = """---
{front}
---

# {kind} `{name}`

{purpose}

- **Architecture**: {architecture}, {parameters:,} parameters.
- **Weights**: sha256 `{sha256}`, {bytes:,} bytes, safetensors.
- **Load**: `udc_defense.load_{kind}("{name}")`; `load_{kind}("OWNER/NAME@REVISION")` from the Hub.

## Intended use

{use}

## Training

- **Data**: {scenes} scenes (Poly Haven panoramas, CC0; photos under CC0 and the Unsplash licence) as simulated captures
  of the panels {panels}; none of the scenes that are measured below.
- **Loss**: {loss}
- **Steps**: {steps:,} of {batch} captures; learning rate {learning_rate}, mixed precision {precision},
  seed {seed}.{remark}
- **Time and hardware**: {minutes:.0f} minutes, {processes} process, {threads} thread, {device}, torch {torch}.
- **Command**: `{command}`

## Measured

{measured}

## Limits

{limits}

## Licence and citation

Apache-2.0. Cite the repository and {citation}.
"""

ARXIV = "[arXiv {0}](https://arxiv.org/abs/{0})"
PURIFICATION = "the paper on purifying under-display captures, " + ARXIV.format("2402.13629")

AS_A_DEFENCE = (
    "As a defence ({defence}): mean PSNR in dB of the restored held-out crops. {protocol} Made by {made}\n\n"
    "The attacker does not know it:\n\n{psnr-heldout}\n\n"
    "The attacker who knows it, held-out adaptive crops:\n\n{adaptive-heldout}"
)

# In braces: a fact of the training, `timesteps` of the scheduler, or the name of a table.
TEXTS = {
    "restorer": {
        "pipeline": "image-to-image",
        "purpose": "A small gated U-Net: captures of under-display cameras to clean images, in the tone-mapped domain.",
        "use": "Research on attacks and defences of image restoration: a network of which the damage can be measured. "
        "Not for photos that matter, and not where an adversary chooses the input.",
        "loss": "mean log squared error per crop, as in NAFNet.",
        "measured": "Mean PSNR in dB against the clean image. {protocol} Made by {made}\n\n"
        "The attacker does not know the defence ({defence}), held-out crops:\n\n{psnr-heldout}\n\n"
        "The attacker who knows it, held-out adaptive crops:\n\n{adaptive-heldout}",
        "limits": "Trained on simulated optics only; colours and noise of real phones differ from the simulation's. "
        "Its output under attack is what this project measures.",
        "citation": f"{PURIFICATION}, and NAFNet, {ARXIV.format('2204.04676')}",
    },
    "purifier": {
        "pipeline": "image-to-image",
        "purpose": "A diffusion model of captures for t < {last_timestep} of {timesteps}: a denoiser for purification, "
        "not a generator.",
        "use": "Adversarial purification before a restorer: a few steps of forward diffusion drown the perturbation, "
        "the reverse takes the noise out. It loads in stock diffusers, but samples from pure noise are meaningless.",
        "loss": "DDPM's simple loss over t < {last_timestep}.",
        "measured": "As a denoiser: PSNR in dB on captures of the validation crops.\n\n{denoising}\n\n" + AS_A_DEFENCE,
        "limits": "An attacker who differentiates through it gets further than one who does not, and it costs quality "
        "on clean captures: see the tables. It keeps the sensor noise of captures, by design.",
        "citation": f"{PURIFICATION}, and DDPM, {ARXIV.format('2006.11239')}",
    },
    "guide": {
        "pipeline": "image-feature-extraction",
        "purpose": "A small encoder whose latent of a capture an attack moves little, for the guide `feature`.",
        "use": "Steering the reverse steps of a purifier towards its input, in a latent instead of in pixels. "
        "It restores nothing: its head was needed for training alone.",
        "loss": "restoration from the latent of clean and attacked captures, and a latent that the attack leaves where "
        "it was, as TRADES does (ε = {attack_eps_in_255ths:g}/255).",
        "measured": "It has no score of its own. What it does for a purifier is in the table of purifiers among the "
        "repository's results.",
        "limits": "Trained on simulated optics only, against one attack on itself. An adaptation to regression of a "
        "method for classifiers that has no public code; a pull towards an attacked input may keep the attack.",
        "citation": f"{PURIFICATION}, and AGDM, {ARXIV.format('2403.16067')}",
    },
}
# What differs for a checkpoint of another name than `default`.
OTHERS = {
    "purifier/robust": {
        "trained_by": "robust_purifier",
        "purpose": "A denoiser of captures that was trained against attacks: one evaluation purifies, at "
        "t < {last_timestep} of {timesteps}.",
        "use": "Adversarial purification before a restorer in one evaluation. It was trained for the embedded restorer "
        "and against attacks on it; it is no generator.",
        "loss": "log squared error of the restored and of the purified capture, under an attack through the purifier "
        "up to ε = {attack_eps_in_255ths:g}/255, under random noise or under none.",
        "measured": AS_A_DEFENCE
        + "\n\nWhat it saves and costs beside every other purifier is in the table of purifiers "
        "among the repository's results.",
    },
}
# Restorers that are there to be compared, by the paper of their architecture.
COMPARED = {"nafnet": "2204.04676", "de_unet": "2003.04857", "udc_unet": "2209.01809", "uformer": "2106.03106"}
for _name, _paper in COMPARED.items():
    OTHERS[f"restorer/{_name}"] = {
        "purpose": f"A small {architecture_suite.NETWORKS[_name]} that was trained for about half an hour, to compare "
        "architectures under attack. The restorer `default` is the better one.",
        "measured": "Mean PSNR in dB against the clean image, {images}. Made by {made}\n\n{compared}\n\n"
        "The other architectures stand in the same table among the repository's results.",
        "citation": f"{PURIFICATION}, and {ARXIV.format(_paper)}",
    }


def card(kind: str, name: str, results: Results, denoising: dict[str, Any], architectures: Results) -> str:
    """The model card of an embedded checkpoint; a purifier is measured in the defence that it belongs to.

    Args:
        kind: restorer, purifier or guide.
        name: of the embedded one.
        results: of the protocol `spine`.
        denoising: what `results/denoising.json` holds.
        architectures: results of that protocol.
    """
    (details,) = show_models(str(EMBEDDED / kind / name))
    model, training = details.model, details.training
    defence = DIFFUSION if (kind, name) == ("purifier", DIFFUSION.weights) else DEFAULT
    facts = tables(results, denoising, defence) | training
    measured = scores(results, denoising, defence).get(f"{kind}/{name}")
    if kind == "restorer" and name in COMPARED:
        facts |= _compared_tables(architectures, name)
        measured = _restoration(architecture_suite.unknowing_rows(architectures, name), UNDEFENDED + DEFENDED)
    facts["timesteps"] = details.config.get("scheduler.num_train_timesteps")
    own = OTHERS.get(f"{kind}/{name}", {})
    texts = {key: text.format_map(facts) for key, text in ({"trained_by": kind} | TEXTS[kind] | own).items()}
    told = {
        "front": _front(kind, name, texts["pipeline"], measured),
        "kind": kind,
        "name": name,
        "minutes": training["seconds"] / 60,
        "panels": panel_shares(training["panels"]),
        "remark": f" {training['remark']}" if "remark" in training else "",
        "command": _command(texts["trained_by"], training),
    }
    return CARD.format_map(facts | texts | vars(model) | told)


def panel_shares(panels: list[str]) -> str:
    """`axon20 (50%), toled (25%)`, of a list in which a panel that was drawn twice as often stands twice."""
    return ", ".join(f"{panel} ({count / len(panels):.0%})" for panel, count in Counter(panels).items())


def _command(trained_by: str, training: dict[str, Any]) -> str:
    """What trains such a network again."""
    settings = {key: training[key] for key in ("steps", "batch", "learning_rate", "precision", "seed")}
    flags = [("panel", panel) for panel in training["panels"]] + list(settings.items())
    if "architecture" in training:
        texts = (f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in training["options"].items())
        flags += [("architecture", training["architecture"]), *(("option", shlex.quote(text)) for text in texts)]
    given = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in flags)
    return f"udc-defense train {trained_by} --scenes DIR --crops FILE {given} --out runs/{trained_by}"


def _front(kind: str, name: str, pipeline: str, measured: list[EvalResult] | None) -> str:
    """What the Hub reads, as YAML."""
    return ModelCardData(
        license="apache-2.0",
        library_name="diffusers",
        pipeline_tag=pipeline,
        tags=["under-display-camera", "adversarial-robustness", kind],
        model_name=f"{kind} {name}",
        eval_results=measured,
    ).to_yaml()


def tables(results: Results, denoising: dict[str, Any], defence: Purification = DEFAULT) -> dict[str, str]:
    """Markdown of what the cards show, by name; the arguments are those of `card`, and whose numbers are shown."""
    set_to = results.protocol
    return {
        "made": _made(results),
        "protocol": f"Panel {set_to['panel']}; {set_to['attack']}; random noise: {set_to['control']}; "
        f"the attacker who knows the defence: {set_to['adaptive']}.",
        "denoising": _denoising_table(denoising),
        "defence": defence.words,
        "psnr-heldout": spine.table(results, "heldout", purification=defence),
        "adaptive-heldout": spine.adaptive_table(results, "heldout", defence),
    }


def _compared_tables(results: Results, name: str) -> dict[str, str]:
    """What the card of a compared architecture shows, as `tables`."""
    images = str(results.protocol["images"])
    return {"made": _made(results), "images": images, "compared": architecture_suite.table(results, [name])}


def _made(results: Results) -> str:
    return f"`{results.command}`, seed {results.seed}, torch {results.versions['torch']}, on {results.hardware}."


def _denoising_table(denoising: dict[str, Any]) -> str:
    lines = ["| t* | σ (1/255) | noisy | non-local means | purifier, one step |", "|---" * 5 + "|"]
    for row in denoising["rows"]:
        values = [row[key] for key in ("sigma_in_255ths", "noisy", "non_local_means", "purifier")]
        lines.append(f"| {row['noise_level']} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def scores(results: Results, denoising: dict[str, Any], defence: Purification) -> dict[str, list[EvalResult]]:
    """What the `model-index` of each checkpoint lists; the arguments are those of `tables`."""
    unaware = spine.defended_rows(results, "heldout", spine.CHOICE_EPS, defence)
    aware = spine.defended_rows(results, "heldout", spine.CHOICE_EPS, defence, size=CENTRE, threat="exact")
    defended = [*_restoration(unaware, DEFENDED), *_restoration(aware, DEFENDED)]
    return {
        "restorer/default": _restoration(unaware, UNDEFENDED),
        f"purifier/{DEFAULT.weights}": defended,
        f"purifier/{DIFFUSION.weights}": [*defended, *_denoising_scores(denoising)],
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
