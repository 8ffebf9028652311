"""Model cards: the Hub can read them, and every number comes from a results file or from the checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import zlib
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.numpy import load_file, save_file
from test_finetuning_suite import results as finetuned_results

from udc_defense.checkpoints.files import EMBEDDED, WEIGHTS, embedded_names
from udc_defense.checkpoints.models import KINDS
from udc_defense.evaluation import cards, finetuning_suite, generalisation
from udc_defense.evaluation.runner import Results
from udc_defense.optics import PANELS

ROOT = Path(__file__).parents[2]
CHECKPOINTS = [(kind, name) for kind in KINDS for name in embedded_names(kind)]
# A number of its own, not the digits of a name such as axon20, sha256, GatedUNet or PGD-20.
NUMBER = re.compile(r"(?<![\w./-])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w-])")


def published(kind: str, name: str = "default") -> str:
    return (ROOT / "weights_card" / f"{kind}-{name}.md").read_text(encoding="utf-8")


@cache
def results(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


def summaries() -> dict[str, dict[str, Any]]:
    """Of the runs of `evaluate`, by panel."""
    return {panel: results(f"evaluation/{panel}/summary") for panel in PANELS}


def average(metric: str, key: str, **wanted: object) -> float:
    """Of the held-out rows of PGD-20 at ε = 4, by default against the default defense."""
    spine = results("spine")
    fields = {"split": "heldout", "eps": 4.0, "purifier": spine["protocol"]["default"]} | wanted
    rows = [row for row in spine["rows"] if all(row[name] == value for name, value in fields.items())]
    return mean(row[metric][key] for row in rows)


@pytest.mark.parametrize(("kind", "name"), CHECKPOINTS)
def test_a_card_is_what_the_hub_takes(kind: str, name: str) -> None:
    card = ModelCard(published(kind, name))
    front = yaml.safe_load(published(kind, name).split("---")[1])
    assert card.data.to_dict().keys() == front.keys()
    assert (front["license"], front["library_name"]) == ("apache-2.0", "diffusers")
    assert kind in front["tags"] and front["pipeline_tag"]
    titles = re.findall(r"^## (.*)$", card.text, re.MULTILINE)
    assert titles == ["Intended use", "Training", "Measured", "Limits", "Licence and citation"]
    assert all(licence in card.text for licence in ("CC0", "Unsplash", "Apache-2.0"))
    assert "minutes" in card.text and "torch" in card.text and "arxiv.org/abs/2402.13629" in card.text


def test_the_index_of_the_restorer_is_what_was_measured() -> None:
    entries = ModelCard(published("restorer")).data.eval_results
    assert entries is not None and len({(e.metric_type, e.metric_name) for e in entries}) == len(entries) == 8
    for entry in entries:
        key = entry.metric_name.split(", ")[1].replace(" ", "_")
        expected = average(entry.metric_type, key, size=256, threat="oblivious")
        assert entry.metric_value == pytest.approx(expected, abs=0.00501 if entry.metric_type == "psnr" else 0.000501)
        assert entry.dataset_args["crops"] == 44 and entry.dataset_args["eps_in_255ths"] == 4


@pytest.mark.parametrize(("name", "defense"), [("diffusion", "diffusion"), ("direct", "default")])
def test_the_index_of_a_purifier_is_what_was_measured(name: str, defense: str) -> None:
    entries = ModelCard(published("purifier", name)).data.eval_results
    assert entries is not None
    purifier = results("spine")["protocol"][defense]
    defended = [entry for entry in entries if entry.task_name == "Restoration"]
    for entry in defended:
        key, threat = entry.metric_name.split(", ")[1].replace(" ", "_"), entry.dataset_args["threat"]
        size = {"oblivious": 256, "exact": 128}[threat]
        expected = average(entry.metric_type, key, size=size, threat=threat, purifier=purifier)
        assert entry.metric_value == pytest.approx(expected, abs=0.00501 if entry.metric_type == "psnr" else 0.000501)
        assert entry.metric_args == purifier
    assert {entry.dataset_args["threat"] for entry in defended} == {"oblivious", "exact"}
    denoised = {e.metric_name.rpartition(" ")[2]: e.metric_value for e in entries if e.task_name == "Denoising"}
    measured = {str(row["noise_level"]): row["purifier"] for row in results("denoising")["rows"]}
    assert denoised == (measured if name == "diffusion" else {})


def test_a_checkpoint_without_scores_claims_none() -> None:
    assert "model-index" not in published("guide") and ModelCard(published("guide")).data.eval_results is None


@pytest.mark.parametrize(("kind", "name"), CHECKPOINTS)
def test_a_card_describes_its_weights(kind: str, name: str) -> None:
    (weights,) = (EMBEDDED / kind / name).rglob(WEIGHTS)
    # An index is no parameter.
    parameters = sum(tensor.size for tensor in load_file(weights).values() if tensor.dtype.kind == "f")
    card, data = published(kind, name), weights.read_bytes()
    assert f"{parameters:,} parameters" in card and f"{len(data):,} bytes" in card
    assert hashlib.sha256(data).hexdigest() in card


def moved(value: Any, name: str = "", more: float = 0.1) -> Any:
    """The same with other numbers; each field moves by a factor of its own, so that shares move too."""
    match value:
        case bool() | str() | None:
            return value
        case int():
            return value * 3 + round(10 * more)
        case float():
            return value * (1 + more + zlib.crc32(name.encode()) % 100 / 300)
        case list():
            return [moved(entry, name, more) for entry in value]
    return {key: moved(entry, key, more) for key, entry in value.items()}


@pytest.fixture
def other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other networks, trained otherwise."""
    weights = Path(shutil.copytree(EMBEDDED, tmp_path / "weights"))
    for path in weights.rglob(WEIGHTS):
        save_file({"layer": np.zeros((7, len(path.parts)), np.float16)}, path)
    words = {"remark": "Nothing.", "torch": "9.9", "panels": ["poled"] * 9 + ["toled"] * 2 + ["axon20"]}
    for path in (*weights.rglob("training.json"), *weights.rglob("scheduler_config.json")):
        facts = json.loads(path.read_text())
        path.write_text(json.dumps(moved(facts) | {key: words[key] for key in facts.keys() & words.keys()}))
    monkeypatch.setattr(cards, "EMBEDDED", weights)


def other_results(more: float) -> cards.Measured:
    """Other scores on fewer crops; only what was set, and not measured, is as it was."""
    denoised = [moved(row, more=more) | {"noise_level": row["noise_level"]} for row in results("denoising")["rows"]]
    unlike, quarter = results("generalisation"), round(10 * more)  # counts are small: other crops each time
    rows = [
        row | {"captured": row["captured"] + more, "restored": moved(row["restored"], more=more)}
        for row in unlike["rows"]
        if zlib.crc32(row["image"].encode()) % 4 == quarter
    ]
    spine, architectures, finetuned = (other_rows(name, more) for name in ("spine", "architectures", "finetuning"))
    evaluation = {panel: moved(summary, more=more) for panel, summary in summaries().items()}
    return cards.Measured(spine, {"rows": denoised}, architectures, unlike | {"rows": rows}, finetuned, evaluation)


def other_rows(file: str, more: float) -> Results:
    """Of another run of a protocol, in which each restorer has changed by a factor of its own."""
    rows = []
    for row in results(file)["rows"]:
        if zlib.crc32(row["image"].encode()) % 4:
            own = more + zlib.crc32(row.get("restorer", "").encode()) % 10 / 50
            scores = ("psnr", "ssim", "search")
            rows.append(row | {name: moved(row[name], more=own) for name in scores if name in row})
    made = {"seed": 77, "versions": {"torch": "9.9"}, "hardware": "another machine", "rows": rows}
    return Results(**results(file) | made)


@pytest.mark.parametrize(("kind", "name"), CHECKPOINTS)
def test_no_number_is_typed_by_hand(kind: str, name: str, other_weights: None) -> None:
    """What a card still says of other networks with other results was set and not measured: attack, level, defense."""
    # Twice, for a number may come back by chance.
    texts = [published(kind, name), *(cards.card(kind, name, other_results(more)) for more in (0.1, 0.2))]
    before, *after = (set(NUMBER.findall(without_citations(text))) for text in texts)
    assert len(before) > 10 and before.intersection(*after) <= settings()


def test_the_card_of_a_fine_tuned_restorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it comes from, the recipe with what differs from its defaults, and its rows beside the base network's."""
    weights = Path(shutil.copytree(EMBEDDED / "restorer", tmp_path / "restorer")).parent
    folder = Path(
        shutil.copytree(weights / "restorer/default", weights / "restorer/purified_adversarial", dirs_exist_ok=True)
    )
    facts = json.loads((folder / "training.json").read_text())
    recipe = {"recipe": "purified_adversarial", "perceptual": 0.01, "jitter": 0.05, "log": 1, "attacked": 0.5}
    recipe |= {"purified": 0.25, "noise_levels": [5, 20], "eps_in_255ths": 8.0, "attack_steps": 3, "restorer": "0" * 64}
    recipe |= {"backbone": None, "purifier": {"sampler": "one_step", "steps": 5, "draws": 1, "weights": "direct"}}
    facts |= {"finetuned_from": "default", "crop": 128, "finetuning": recipe}
    (folder / "training.json").write_text(json.dumps(facts))
    monkeypatch.setattr(cards, "EMBEDDED", weights)
    found = finetuned_results({"purified_adversarial": 22.25}, {})
    found = dataclasses.replace(found, protocol=finetuning_suite.describe(), versions={"torch": "9.9"})
    measured = dataclasses.replace(other_results(0.1), finetuning=found)
    text = cards.card("restorer", "purified_adversarial", measured)
    assert "udc-defense finetune default --recipe purified_adversarial --scenes DIR --crops FILE " in text
    assert "--option log=1 --option noise_levels=5,20 --option attack_steps=3 --defense " in text
    assert " --defense one_step:weights=direct " in text
    assert "| adversarially fine-tuned through the purifier | 28.00 | 22.25 |" in text and "| base network |" in text
    assert "L2 alone, without VGG19" in text and "noise_levels 5,20" in text and "{" not in text.split("---", 2)[2]
    index = ModelCard(text).data.eval_results
    assert index is not None and 22.25 in [entry.metric_value for entry in index]


def test_the_card_of_a_restorer_of_one_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the one of all panels on every kind of capture; the index is of its own panel."""
    weights = Path(shutil.copytree(EMBEDDED / "restorer", tmp_path / "restorer")).parent
    folder = Path(shutil.copytree(weights / "restorer/default", weights / "restorer/toled", dirs_exist_ok=True))
    facts = json.loads((folder / "training.json").read_text()) | {"finetuned_from": "default", "crop": 256}
    recipe = {"recipe": "noisy", "perceptual": 0.01, "jitter": 0.05, "log": 1, "noisy": 0.0, "eps_in_255ths": 8.0}
    facts |= {"panels": ["toled"], "finetuning": recipe | {"backbone": None, "purifier": None}}
    (folder / "training.json").write_text(json.dumps(facts))
    monkeypatch.setattr(cards, "EMBEDDED", weights)
    rows = [
        {"split": "heldout", "condition": c.words, "captured": 20.0, "restored": {"default": 22.0, "toled": value}}
        for c in generalisation.CONDITIONS
        for value in ((25.5, 26.5) if c.panel == "toled" else (19.0, 18.0))
    ]
    measured = dataclasses.replace(other_results(0.1), generalisation={"command": "udc-defense again", "rows": rows})
    text = cards.card("restorer", "toled", measured)
    assert "| toled | 20.00 | +2.00 | +6.00 |" in text and "| poled | 20.00 | +2.00 | -1.50 (2) |" in text
    command = re.findall("`(udc-defense finetune .*)`", text)[0]
    assert "finetune default --recipe noisy --scenes DIR --crops FILE --option log=1 --option noisy=0 --size" in command
    assert "--panel toled" in command and command.endswith("--out runs/toled")
    index = ModelCard(text).data.eval_results
    assert index is not None and [(e.metric_name, e.metric_value) for e in index] == [
        ("PSNR (dB), captured", 20.0),
        ("PSNR (dB), restored", 26.0),
    ]


def settings() -> set[str]:
    """Numbers that results name as the settings of their rows."""
    spine = results("spine")
    chosen = [{name: row[name] for name in ("size", "eps", "steps", "purifier")} for row in spine["rows"]]
    levels = [row["noise_level"] for row in results("denoising")["rows"]]
    conditions = [condition.words for condition in generalisation.CONDITIONS]
    named = [(e["title"], e["defense"]) for summary in summaries().values() for e in summary["settings"]]
    found = set(NUMBER.findall(json.dumps([spine["protocol"], chosen, levels, conditions, named], ensure_ascii=False)))
    found.add("0")  # of the recipe's random noise, for restorers of one panel
    return found | {f"{eps:g}" for eps in spine["protocol"]["eps_in_255ths"]}


def without_citations(text: str) -> str:
    return re.sub(r"arXiv \d{4}\.\d{5}|arxiv\.org/abs/\d{4}\.\d{5}", "", text)
