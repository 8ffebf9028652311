"""Numbers from the results files into prose: README.md, weights_card/, and the detector's threshold.

`python -m udc_defense.evaluation.publish` rewrites; with `--check` it only says whether anything would change.
A marked place is `<!-- name -->…<!-- /name -->`; nothing inside is typed by hand.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from udc_defense.checkpoints import EMBEDDED, checksum, embedded_names, training_facts
from udc_defense.detection import CALIBRATION
from udc_defense.evaluation import attack_tables, detection_suite, spine
from udc_defense.evaluation.runner import Results, read_results

ROOT = Path(__file__).parents[2]
KINDS = ("restorer", "purifier")


def places() -> dict[str, str]:
    """Name of a marked place -> its Markdown."""
    results = read_results(ROOT / "results" / "spine.json")
    suite = read_results(ROOT / "results" / "attacks.json")
    detection = read_results(ROOT / "results" / "detection.json")
    denoising = json.loads((ROOT / "results" / "denoising.json").read_text(encoding="utf-8"))
    found = {
        "grid": spine.grid_table(results),
        "denoising": _denoising(denoising),
        "checkpoints": _checkpoints(),
        "verdict": verdict(results),
        "attacks-verdict": attack_tables.verdict(suite),
        "made": f"`{results.command}`, seed {results.seed}, torch {results.versions['torch']}, on {results.hardware}.",
    }
    for split in ("val", "heldout"):
        found[f"psnr-{split}"] = spine.table(results, split)
        found[f"ssim-{split}"] = spine.table(results, split, "ssim")
        found[f"adaptive-{split}"] = spine.adaptive_table(results, split)
        found[f"attacks-{split}"] = attack_tables.oblivious_table(suite, split)
        found[f"known-{split}"] = attack_tables.adaptive_table(suite, split)
        found[f"smallest-{split}"] = attack_tables.smallest_table(suite, split)
        found[f"detection-{split}"] = detection_suite.table(detection, split)
        found[f"flags-{split}"] = attack_tables.flags_table(suite, split)
    return found


def verdict(results: Results) -> str:
    """The result in one paragraph, in whatever direction it points."""
    rows = spine.default_rows(results, "heldout", spine.CHOICE_EPS)
    score = {key: spine.mean(rows, "psnr", key) for key in spine.KEYS}
    taken, control = score["restored"] - score["attacked_restored"], score["restored"] - score["noise_restored"]
    back, cost = score["defended_attacked"] - score["attacked_restored"], score["restored"] - score["defended_clean"]
    exact = spine.default_rows(results, "heldout", spine.CHOICE_EPS, size=spine.CENTRE, threat="exact")
    same = spine.default_rows(results, "heldout", spine.CHOICE_EPS, size=spine.CENTRE, threat="oblivious")
    known = spine.mean(exact, "psnr", "defended_attacked")
    unknown = spine.mean(same, "psnr", "defended_attacked")
    bare = spine.mean(same, "psnr", "attacked_restored")
    return (
        f"On {len(rows)} held-out crops the restorer gains {score['restored'] - score['captured']:.1f} dB over the "
        f"capture. PGD-20 at ε = 4/255 takes {taken:.1f} dB from it (random noise of the same norm: {control:.1f} dB). "
        f"Purification gives {back:.1f} dB back, a share of {spine.recovered(rows):.0%}, and costs {cost:.1f} dB on "
        f"clean captures. The attacker who knows the defence is the one who counts: on {len(exact)} crops of 128², the "
        f"defended restorer reaches {unknown:.1f} dB against the attacker who does not know it and {known:.1f} dB "
        f"against the one who does; undefended it has {bare:.1f} dB."
    )


def _denoising(table: dict[str, Any]) -> str:
    lines = ["| t* | σ (1/255) | noisy | non-local means | purifier, one step |", "|---" * 5 + "|"]
    for row in table["rows"]:
        values = [row[key] for key in ("sigma_in_255ths", "noisy", "non_local_means", "purifier")]
        lines.append(f"| {row['noise_level']} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def _checkpoints() -> str:
    lines = ["| checkpoint | bytes | parameters | steps | training time | trained on |", "|---" * 6 + "|"]
    for kind in KINDS:
        for name in embedded_names(kind):
            folder = EMBEDDED / kind / name
            facts, (weights,) = training_facts(folder), folder.rglob("*.safetensors")
            size = weights.stat().st_size
            lines.append(
                f"| {kind} `{name}` | {size:,} | {size / 2e6:.1f} M | {facts['steps']:,} "
                f"| {facts['seconds'] / 60:.0f} min, {facts['threads']} thread "
                f"| {facts['scenes']} scenes, panels {', '.join(facts['panels'])} |"
            )
    return "\n".join(lines)


CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: image-to-image
tags: [under-display-camera, adversarial-robustness, {kind}]
---

# {kind} `{name}`

{purpose}

- **Weights**: sha256 `{sha}`, {size:,} bytes, float16 safetensors.
- **Training data**: {scenes} scenes (Poly Haven panoramas, CC0; photos under CC0 and the Unsplash licence) as simulated
  captures of the panels {panels}; none of the scenes that are measured below.
- **Training**: {steps:,} steps of {batch} captures × 4 crops, {minutes:.0f} minutes on {threads} thread of {device},
  {precision} precision, seed {seed}.{remark}
- **Source**: arXiv {paper}; made by `{command}`.

## Measured

{tables}

## Limits

{limits}

## Licence and citation

Apache-2.0, see the repository's LICENSE. Cite the repository and the paper above.
"""

TEXTS = {
    "restorer": {
        "purpose": "A small gated U-Net: captures of under-display cameras to clean images, in the tone-mapped domain.",
        "paper": "2204.04676 (the family of networks)",
        "limits": "Trained on simulated optics only. Its output under attack is what this project measures: do not "
        "rely on it where an adversary chooses the input. Colours of real phones differ from the simulation's.",
    },
    "purifier": {
        "purpose": "A diffusion model of captures for t < 150 of 1000: a denoiser for purification, not a generator.",
        "paper": "2006.11239 (DDPM), 2402.13629 (purification of under-display captures)",
        "limits": "Samples drawn from pure noise are meaningless. It keeps the sensor noise of captures, by design. An "
        "attacker who differentiates through it gets further than one who does not; the README has both numbers.",
    },
}


def card(kind: str, name: str, found: dict[str, str]) -> str:
    """The model card of an embedded checkpoint."""
    folder = EMBEDDED / kind / name
    facts, (weights,) = training_facts(folder), folder.rglob("*.safetensors")
    remark = f" {facts['remark']}" if facts.get("remark") else ""
    tables = {
        "restorer": "PSNR (dB), held-out crops, with and without attack and defence:\n\n" + found["psnr-heldout"],
        "purifier": "PSNR (dB) on captures of the validation crops:\n\n" + found["denoising"],
    }
    return CARD.format(
        kind=kind,
        name=name,
        sha=checksum(folder),
        size=weights.stat().st_size,
        minutes=facts["seconds"] / 60,
        command="make train-all SCENES=DIR CROPS=FILE",
        remark=remark,
        tables=tables[kind],
        **TEXTS[kind],
        **{key: facts[key] for key in ("scenes", "steps", "batch", "threads", "device", "precision", "seed")},
        panels=", ".join(facts["panels"]),
    )


def fill(text: str, found: dict[str, str]) -> str:
    """Replace what stands in the marked places.

    Raises:
        KeyError: a place has no content.
    """
    pattern = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)
    return pattern.sub(
        lambda match: f"<!-- {match['name']} -->\n{found[match['name']]}\n<!-- /{match['name']} -->", text
    )


def documents() -> dict[Path, str]:
    """Every file that holds published numbers, as it should be."""
    found = places()
    readme = ROOT / "README.md"
    texts = {readme: fill(readme.read_text(encoding="utf-8"), found)}
    calibration = detection_suite.calibration(read_results(ROOT / "results" / "detection.json"))
    texts[CALIBRATION] = json.dumps(calibration, indent=1) + "\n"
    for kind in KINDS:
        for name in embedded_names(kind):
            texts[ROOT / "weights_card" / f"{kind}-{name}.md"] = card(kind, name, found)
    return texts


def main(arguments: list[str]) -> int:
    """Write the documents, or with `--check` report the stale ones; exit status 1 then."""
    stale = {path: text for path, text in documents().items() if not path.is_file() or path.read_text("utf-8") != text}
    for path, text in stale.items():
        if "--check" in arguments:
            sys.stderr.write(f"{path.name}: stale; run python -m udc_defense.evaluation.publish\n")
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
