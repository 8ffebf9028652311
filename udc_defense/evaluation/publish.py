"""Numbers from the results files into prose: README.md, RESULTS.md, weights_card/, and the thresholds in weights/.

`python -m udc_defense.evaluation.publish` rewrites; with `--check` it only says whether anything would change.
A marked place is `<!-- name -->…<!-- /name -->`; nothing inside is typed by hand.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from udc_defense import detection, noise_level
from udc_defense.checkpoints.files import EMBEDDED, embedded_names
from udc_defense.checkpoints.models import KINDS, show_models
from udc_defense.evaluation import (
    architecture_suite,
    attack_tables,
    cards,
    certification_suite,
    detection_suite,
    ducd_tables,
    evaluation_tables,
    finetuning_tables,
    generalisation,
    panels,
    purifier_comparison,
    purifier_tables,
    selection,
    spine,
)
from udc_defense.evaluation.runner import Results, read_results
from udc_defense.optics import PANELS

ROOT = Path(__file__).parents[2]
SPLITS = ("val", "heldout")


def places() -> dict[str, str]:
    """Name of a marked place -> its Markdown."""
    results = _results("spine")
    suite = _results("attacks")
    detected = _results("detection")
    found = cards.tables(_measured()) | {
        "grid": spine.grid_table(results),
        "checkpoints": _checkpoints(),
        "verdict": verdict(results),
        "attacks-verdict": attack_tables.verdict(suite),
        "architectures": architecture_suite.table(_results("architectures")),
        "architectures-verdict": architecture_suite.verdict(_results("architectures")),
    }
    for split in SPLITS:
        found[f"psnr-{split}"] = spine.table(results, split)
        found[f"ssim-{split}"] = spine.table(results, split, "ssim")
        found[f"adaptive-{split}"] = spine.adaptive_table(results, split)
        found[f"attacks-{split}"] = attack_tables.oblivious_table(suite, split)
        found[f"known-{split}"] = attack_tables.adaptive_table(suite, split)
        found[f"smallest-{split}"] = attack_tables.smallest_table(suite, split)
        found[f"detection-{split}"] = detection_suite.table(detected, split)
        found[f"flags-{split}"] = attack_tables.flags_table(suite, split)
    return found | _finetuning() | _evaluation() | _purifiers() | _guarantees() | _generalisation()


@cache
def _results(name: str) -> Results:
    """A results file, read once."""
    return read_results(ROOT / "results" / f"{name}.json")


@cache
def _json(name: str) -> dict[str, Any]:
    """A results file without rows of photos, read once."""
    found: dict[str, Any] = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _purifiers() -> dict[str, str]:
    """Of the purifiers."""
    measured, everything, cost = _purifier_results()
    found = {
        "purifiers-grid": purifier_tables.grid_table(measured),
        "level": selection.published_table(_json("noise_level")),
    }
    picture = "![Robustness against cost of every purifier](results/purifiers.svg)"
    told = purifier_comparison.verdict(everything, cost), selection.gain_words(measured, "heldout")
    found["purifiers-verdict"] = f"{' '.join(told)}\n\n{picture}"
    found["purifiers-heldout"] = purifier_tables.table(everything, cost, "heldout")
    for split in SPLITS:
        found[f"per-photo-{split}"] = selection.table(measured, split) + "\n\n" + selection.gain_words(measured, split)
    return found


@cache
def _purifier_results() -> tuple[Results, Results, dict[str, Any]]:
    """Of fixed purifiers, with the one that chooses, and the cost."""
    measured = _results("purifiers")
    return measured, measured.joined(_results("per_photo")), _json("cost")


def _guarantees() -> dict[str, str]:
    """Of the black-box distillation and the certificates."""
    ducd, certified = _json("ducd"), _json("certification")
    found = {
        "ducd-verdict": ducd_tables.verdict(ducd),
        "ducd-membership": ducd_tables.membership_table(ducd),
        "ducd-digits": ducd_tables.digits_table(ducd),
        "certification-verdict": certification_suite.verdict(certified),
    }
    return found | {f"certification-{norm}": certification_suite.table(certified, norm) for norm in ("l2", "l1")}


def _finetuning() -> dict[str, str]:
    """Of the fine-tuned restorers."""
    results = _results("finetuning")
    return {
        "finetuning-verdict": finetuning_tables.verdict(results),
        "finetuning-winner": finetuning_tables.winner(results),
        "finetuning-goals": finetuning_tables.goals(results),
        "finetuning-heldout": finetuning_tables.table(results),
        "finetuning-ssim-heldout": finetuning_tables.table(results, "ssim"),
        "finetuning-known-heldout": finetuning_tables.adaptive_table(results),
        "finetuning-val": finetuning_tables.choice_table(results),
    }


def _evaluation() -> dict[str, str]:
    """Of the preset `paper` on embedded restorers."""
    summaries = _summaries()
    return {
        "evaluation-verdict": evaluation_tables.verdict(summaries),
        "evaluation": evaluation_tables.headline_table(summaries),
        "evaluation-transfer": evaluation_tables.transfer_table(summaries),
        "evaluation-flags": evaluation_tables.flags_table(summaries),
    }


def _summaries() -> evaluation_tables.Summaries:
    """Of the runs of that preset, each on captures of one panel."""
    return {panel: _json(f"evaluation/{panel}/summary") for panel in PANELS}


def _generalisation() -> dict[str, str]:
    """Of captures that training never drew."""
    results = _json("generalisation")
    found = {f"generalisation-{split}": generalisation.table(results, split) for split in SPLITS}
    return found | {
        "generalisation-verdict": generalisation.verdict(results),
        "panels": panels.table(_json("panels")),
    }


def verdict(results: Results) -> str:
    """The result in one paragraph, in whatever direction it points."""
    rows = spine.defended_rows(results, "heldout", spine.CHOICE_EPS)
    score = {key: spine.mean(rows, "psnr", key) for key in spine.KEYS}
    taken, control = score["restored"] - score["attacked_restored"], score["restored"] - score["noise_restored"]
    back, cost = score["defended_attacked"] - score["attacked_restored"], score["restored"] - score["defended_clean"]
    exact = spine.defended_rows(results, "heldout", spine.CHOICE_EPS, size=spine.CENTRE, threat="exact")
    same = spine.defended_rows(results, "heldout", spine.CHOICE_EPS, size=spine.CENTRE, threat="oblivious")
    known = spine.mean(exact, "psnr", "defended_attacked")
    unknown = spine.mean(same, "psnr", "defended_attacked")
    bare = spine.mean(same, "psnr", "attacked_restored")
    return (
        f"On {len(rows)} held-out crops the restorer gains {score['restored'] - score['captured']:.1f} dB over the "
        f"capture. PGD-20 at ε = 4/255 takes {taken:.1f} dB from it (random noise of the same norm: {control:.1f} dB). "
        f"Purification gives {back:.1f} dB back, a share of {spine.recovered(rows):.0%}, and costs {cost:.1f} dB on "
        f"clean captures. The attacker who knows the defense is the one who counts: on {len(exact)} crops of 128², the "
        f"defended restorer reaches {unknown:.1f} dB against the attacker who does not know it and {known:.1f} dB "
        f"against the one who does; undefended it has {bare:.1f} dB."
    )


def _measured() -> cards.Measured:
    others = _json("denoising"), _results("architectures"), _json("generalisation"), _results("finetuning")
    return cards.Measured(_results("spine"), *others, _summaries())


def _checkpoints() -> str:
    lines = ["| checkpoint | bytes | parameters | steps | training time | trained on |", "|---" * 6 + "|"]
    for kind in KINDS:
        for name in embedded_names(kind):
            (details,) = show_models(str(EMBEDDED / kind / name))
            model, facts = details.model, details.training
            origin = f"from `{facts['finetuned_from']}` on: " if "finetuned_from" in facts else ""
            lines.append(
                f"| {kind} `{name}` | {model.bytes:,} | {model.parameters / 1e6:.1f} M | {facts['steps']:,} "
                f"| {facts['seconds'] / 60:.0f} min, {facts['threads']} thread "
                f"| {origin}{facts['scenes']} scenes, {cards.panel_shares(facts['panels'])} |"
            )
    return "\n".join(lines)


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
    texts = {path: fill(path.read_text(encoding="utf-8"), found) for path in (ROOT / "README.md", ROOT / "RESULTS.md")}
    calibrations = {
        detection.CALIBRATION: detection_suite.calibration(_results("detection")),
        noise_level.CALIBRATION: selection.calibration(_results("purifiers")),
    }
    _, everything, cost = _purifier_results()
    texts[ROOT / "results" / "purifiers.svg"] = purifier_tables.figure(everything, cost, "heldout")
    texts |= {path: json.dumps(facts, indent=1) + "\n" for path, facts in calibrations.items()}
    measured = _measured()
    for kind in KINDS:
        for name in embedded_names(kind):
            texts[ROOT / "weights_card" / f"{kind}-{name}.md"] = cards.card(kind, name, measured)
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
