"""Model cards: the Hub can read them, and every number comes from a results file or from the checkpoint."""

from __future__ import annotations

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

from study import cards, data, tables
from study.data import rows
from study.measure import generalisation
from udc_defense.checkpoints.files import EMBEDDED, WEIGHTS, embedded_names
from udc_defense.checkpoints.models import KINDS

ROOT = Path(__file__).parents[2]
CHECKPOINTS = [(kind, name) for kind in KINDS for name in embedded_names(kind)]
# A number of its own, not the digits of a name such as axon20, sha256, GatedUNet or PGD-20.
NUMBER = re.compile(r"(?<![\w./-])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w-])")


def published(kind: str, name: str = "default") -> str:
    return (ROOT / "weights_card" / f"{kind}-{name}.md").read_text(encoding="utf-8")


def average(metric: str, stage: str, title: str, defense: str, size: int) -> float:
    """Numbers of the held-out rows of PGD-20 at ε = 4."""
    found = rows("default_defense", "heldout", title, defense, size=size)
    return mean(row[metric][stage] for row in found)


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
        expected = average(entry.metric_type, key, "PGD-20, ε = 4", "default", 256)
        assert entry.metric_value == pytest.approx(expected, abs=0.00501 if entry.metric_type == "psnr" else 0.000501)
        assert entry.dataset_args["crops"] == 44 and entry.dataset_args["eps_in_255ths"] == 4


@pytest.mark.parametrize(("name", "defense"), [("diffusion", "one_step:draws=8"), ("direct", "default")])
def test_the_index_of_a_purifier_is_what_was_measured(name: str, defense: str) -> None:
    entries = ModelCard(published("purifier", name)).data.eval_results
    assert entries is not None
    purifier = rows("default_defense", "heldout", "PGD-20, ε = 4", defense, size=256)[0]["purifier"]
    defended = [entry for entry in entries if entry.task_name == "Restoration"]
    for entry in defended:
        key, threat = entry.metric_name.split(", ")[1].replace(" ", "_"), entry.dataset_args["threat"]
        title, size = {"oblivious": ("PGD-20, ε = 4", 256), "exact": ("PGD-20, ε = 4, exact", 128)}[threat]
        expected = average(entry.metric_type, key, title, defense, size)
        assert entry.metric_value == pytest.approx(expected, abs=0.00501 if entry.metric_type == "psnr" else 0.000501)
        assert entry.metric_args == purifier
    assert {entry.dataset_args["threat"] for entry in defended} == {"oblivious", "exact"}
    denoised = {e.metric_name.rpartition(" ")[2]: e.metric_value for e in entries if e.task_name == "Denoising"}
    measured = {str(row["noise_level"]): row["purifier"] for row in data.results("denoising")["rows"]}
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


def measure_again(monkeypatch: pytest.MonkeyPatch, more: float) -> None:
    """Other scores on fewer crops; only what was set, and not measured, is as it was."""

    def other_rows(*given: Any, **named: Any) -> list[dict[str, Any]]:
        found = [row for row in rows(*given, **named) if zlib.crc32(row["image"].encode()) % 4]
        scores = ("psnr", "ssim", "search", "kmac_per_pixel")
        own = more + zlib.crc32(str(given).encode()) % 10 / 50
        return [row | {name: moved(row[name], more=own) for name in scores} for row in found]

    def other_results(name: str) -> dict[str, Any]:
        found = data.results(name)
        if name == "denoising":
            kept = [moved(row, more=more) | {"noise_level": row["noise_level"]} for row in found["rows"]]
            return found | {"rows": kept}
        if name != "generalisation":
            return moved(found, more=more)
        quarter = round(10 * more)  # counts are small: other crops each time
        kept = [row for row in found["rows"] if zlib.crc32(row["image"].encode()) % 4 == quarter]
        added = [{"captured": row["captured"] + more, "restored": moved(row["restored"], more=more)} for row in kept]
        return found | {"rows": [row | new for row, new in zip(kept, added, strict=True)]}

    def about(name: str) -> dict[str, Any]:
        return data.about(name) | {"seed": 77, "versions": {"torch": "9.9"}, "hardware": "another machine"}

    for module in (cards, tables):
        monkeypatch.setattr(module, "rows", other_rows)
        monkeypatch.setattr(module, "results", other_results)
    monkeypatch.setattr(cards, "about", about)
    summaries = {panel: moved(summary, more=more) for panel, summary in data.summaries().items()}
    monkeypatch.setattr(tables, "summaries", lambda: summaries)


@pytest.mark.parametrize(("kind", "name"), CHECKPOINTS)
def test_no_number_is_typed_by_hand(kind: str, name: str, other_weights: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a card still says of other networks with other results was set and not measured: attack, level, defense."""
    texts = [published(kind, name)]
    for more in (0.1, 0.2):  # twice, for a number may come back by chance
        measure_again(monkeypatch, more)
        texts.append(cards.card(kind, name))
    before, *after = (set(NUMBER.findall(without_citations(text))) for text in texts)
    assert len(before) > 10 and before.intersection(*after) <= settings()


def retrained(name: str, facts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restorer of that name, trained otherwise."""
    weights = Path(shutil.copytree(EMBEDDED / "restorer", tmp_path / "restorer")).parent
    source, folder = (weights / "restorer" / one for one in ("default", name))
    shutil.copytree(source, folder, dirs_exist_ok=True)
    told = json.loads((folder / "training.json").read_text()) | {"finetuned_from": "default"} | facts
    (folder / "training.json").write_text(json.dumps(told))
    monkeypatch.setattr(cards, "EMBEDDED", weights)


def test_the_card_of_a_fine_tuned_restorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it comes from, the recipe with what differs from its defaults, and its rows beside the base network's."""
    recipe = {"recipe": "purified_adversarial", "perceptual": 0.01, "jitter": 0.05, "log": 1, "attacked": 0.5}
    recipe |= {"purified": 0.25, "noise_levels": [5, 20], "eps_in_255ths": 8.0, "attack_steps": 3, "restorer": "0" * 64}
    recipe |= {"backbone": None, "purifier": {"sampler": "one_step", "steps": 5, "draws": 1, "weights": "direct"}}
    retrained("purified_adversarial", {"crop": 128, "finetuning": recipe}, tmp_path, monkeypatch)
    text = cards.card("restorer", "purified_adversarial")
    assert "udc-defense finetune default --recipe purified_adversarial --scenes DIR --crops FILE " in text
    assert "--option log=1 --option noise_levels=5,20 --option attack_steps=3 --defense " in text
    assert " --defense one_step:weights=direct " in text
    own = rows("finetuning", "heldout", "PGD-20, ε = 4", "none", "purified_adversarial")
    attacked = mean(row["psnr"]["attacked_restored"] for row in own)
    assert "| adversarially fine-tuned through the purifier |" in text and f"| {attacked:.2f} |" in text
    assert "| base network |" in text and "L2 alone, without VGG19" in text and "noise_levels 5,20" in text
    assert "{{" not in text and "{%" not in text
    index = ModelCard(text).data.eval_results
    assert index is not None and round(attacked, 2) in [entry.metric_value for entry in index]


def test_the_card_of_a_restorer_of_one_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the one of all panels on every kind of capture; the index is of its own panel."""
    recipe = {"recipe": "noisy", "perceptual": 0.01, "jitter": 0.05, "log": 1, "noisy": 0.0, "eps_in_255ths": 8.0}
    recipe |= {"backbone": None, "purifier": None}
    retrained("toled", {"crop": 256, "panels": ["toled"], "finetuning": recipe}, tmp_path, monkeypatch)
    found = [
        {"split": "heldout", "condition": c.words, "captured": 20.0, "restored": {"default": 22.0, "toled": value}}
        for c in generalisation.CONDITIONS
        for value in ((25.5, 26.5) if c.panel == "toled" else (19.0, 18.0))
    ]
    for module in (cards, tables):
        monkeypatch.setattr(module, "results", lambda _: {"command": "udc-defense again", "rows": found})
    text = cards.card("restorer", "toled")
    assert "| toled | 20.00 | +2.00 | +6.00 | 2 |" in text and "| poled | 20.00 | +2.00 | -1.50 (2) | 2 |" in text
    command = re.findall("`(udc-defense finetune .*)`", text)[0]
    assert "finetune default --recipe noisy --scenes DIR --crops FILE --option log=1 --option noisy=0 --size" in command
    assert "--panel toled" in command and command.endswith("--out runs/toled")
    index = ModelCard(text).data.eval_results
    assert index is not None and [(e.metric_name, e.metric_value) for e in index] == [
        ("PSNR (dB), captured", 20.0),
        ("PSNR (dB), restored", 26.0),
    ]


@cache
def settings() -> set[str]:
    """Numbers that results name as the settings of their rows, and templates as those of a table."""
    names = ("default_defense", "finetuning", "architectures")
    chosen = [
        {name: row.get(name) for name in ("size", "eps", "steps", "purifier")} | {"title": row["title"]}
        for study in names
        for row in data.every_row(study)
    ]
    levels = [row["noise_level"] for row in data.results("denoising")["rows"]]
    conditions = [condition.words for condition in generalisation.CONDITIONS]
    named = [(e["title"], e["defense"]) for summary in data.summaries().values() for e in summary["settings"]]
    found = set(NUMBER.findall(json.dumps([chosen, levels, conditions, named], ensure_ascii=False)))
    found.add("0")  # of the recipe's random noise, for restorers of one panel
    return found | {f"{eps}" for eps in tables.EPSILONS}


def without_citations(text: str) -> str:
    return re.sub(r"arXiv \d{4}\.\d{5}|arxiv\.org/abs/\d{4}\.\d{5}", "", text)
