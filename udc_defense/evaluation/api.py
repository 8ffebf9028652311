"""`udc_defense.evaluate`: is this restorer robust, and what does the defense cost? The command line opens the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from udc_defense.errors import SettingError, UDCDefenseError
from udc_defense.evaluation.degradations import RESTORERS
from udc_defense.evaluation.evaluate import SUMMARY, Team, facts, finish, run
from udc_defense.evaluation.jobs import PAIRS, UDC
from udc_defense.evaluation.study import Plan, defenses_of, read_study
from udc_defense.photo.source import Photo, from_crop, from_pair, from_title
from udc_defense.precision import Precision
from udc_defense.samples import scene_titles
from udc_defense.scenes import Domain, read_crops, read_pairs


@dataclass(frozen=True)
class Summary:
    """What an evaluation found.

    Attributes:
        folder: the run folder, which `udc-defense report` opens.
        facts: what its summary.json holds.
    """

    folder: Path
    facts: dict[str, Any]

    @property
    def headline(self) -> list[dict[str, Any]]:
        """The worst attack on each restorer and defense, with its PSNR in dB and what it gains over no defense."""
        return self.facts["headline"]

    @property
    def flags(self) -> list[dict[str, Any]]:
        """Checks of whether the evaluation was too kind: `check`, whether it `raised` a doubt, and its `words`."""
        return self.facts["flags"]


@dataclass(frozen=True)
class Images:
    """The photos of an evaluation: pairs of captures and clean images, crops of scenes, or what is bundled.

    Attributes:
        pairs: folders of captures and of clean images.
        domain: what the values of pairs mean.
        scenes: the folder that the crop list's paths start from.
        crops: the crop list, a CSV file.
        split: `val` or `heldout` alone.
    """

    pairs: tuple[Path, Path] | None = None
    domain: Domain = "tonemapped"
    scenes: Path | None = None
    crops: Path | None = None
    split: str | None = None

    @property
    def are_bundled(self) -> bool:
        """Drawn scenes and bundled photos, which are no benchmark."""
        return not (self.pairs or self.scenes or self.crops)

    def photos(self) -> list[Photo]:
        """All that are there, of every split.

        Raises:
            UDCDefenseError: they cannot be found or read, or are named in two ways.
        """
        if self.pairs:
            if self.scenes or self.crops:
                raise SettingError("--pairs stands alone: it brings captures and their ground truth.")
            return [from_pair(pair) for pair in read_pairs(*self.pairs, self.domain)]
        if self.scenes and self.crops:
            return [from_crop(crop, self.scenes) for crop in read_crops(self.crops)]
        if self.scenes or self.crops:
            raise SettingError("--scenes DIR and --crops FILE go together.")
        return [from_title(title) for title in scene_titles()]


def evaluate(
    restorer: str | Sequence[str] = "default",
    *,
    defenses: Sequence[str] = ("default",),
    preset: str = "quick",
    out: str | Path,
    images: Images | None = None,
    attacks: Sequence[str] | None = None,
    threats: Sequence[str] | None = None,
    panel: str = "axon20",
    seed: int = 0,
    device: str = "cpu",
    workers: int = 0,
) -> Summary:
    """Measure how robust a restorer is, undefended and behind defenses, and what the defenses cost.

    What `out` holds of the same evaluation is not measured again, so that a killed one goes on where it was.

    Args:
        restorer: what `load_restorer` takes: an embedded name, a folder, owner/name[@revision] on the Hub, or
            `package.module:attribute`; several give a transfer matrix.
        defenses: what `load_defense` takes, such as `default` or `ddim:noise_level=20,steps=3`.
        preset: `quick`, which needs no images, `paper`, `full`, or a study of one's own, FILE.toml.
        out: the run folder: run.json, rows, examples and summary.json.
        images: None takes drawn scenes and bundled photos, which are no benchmark.
        attacks: names of attacks; None is all of the preset.
        threats: what attackers know: `oblivious`, `bpda`, `surrogate`, `exact`; None is all of the preset.
        panel: a built-in panel or a panel file.
        seed: of all random numbers.
        device: a device of torch.
        workers: processes of one thread each; 0 computes in this one. In a script, more than 0 needs the guard
            `if __name__ == "__main__":`.

    Raises:
        UDCDefenseError: something that was named is not there or out of range, in one sentence.
    """
    names, images, out = [restorer] if isinstance(restorer, str) else list(restorer), images or Images(), Path(out)
    plan = make_plan(names, defenses, preset, images, attacks, threats, panel=panel, seed=seed, device=device)
    about = {"command": "udc_defense.evaluate", "preset": preset, "images": in_words(plan, images)}
    about |= {"bundled": images.are_bundled} | facts(plan, max(1, workers))
    with _one_thread():
        for _ in run(plan, out, about, workers, Team()):
            pass
        finish(plan, out)
    return Summary(out, json.loads((out / SUMMARY).read_text(encoding="utf-8")))


def make_plan(
    restorers: Sequence[str],
    defenses: Sequence[str],
    preset: str,
    images: Images,
    attacks: Sequence[str] | None = None,
    threats: Sequence[str] | None = None,
    degradations: Sequence[str] = (),
    *,
    panel: str,
    seed: int,
    device: str,
    precision: Precision = "float32",
) -> Plan:
    """The plan of an evaluation, of the arguments of `evaluate`; none of a kind means those of the study.

    Raises:
        UDCDefenseError: something that was named is not there or out of range.
    """
    study = read_study(preset).narrowed(attacks, threats)
    if degradations and not (images.are_bundled or images.scenes):
        raise SettingError("--pairs stands alone: it brings captures and their ground truth.")
    if images.are_bundled and preset in ("paper", "full"):
        raise SettingError(f"the preset {preset} needs images: --scenes DIR --crops FILE, or --pairs CAPTURES CLEAN.")
    named, of = tuple(dict.fromkeys(restorers)), degradations or ([PAIRS] if images.pairs else [UDC])
    is_own = named or degradations or images.pairs or not any(part.elsewhere for part in study.parts)
    brief = () if is_own else tuple(name for name in RESTORERS if name != UDC)
    if named:
        study = replace(study, parts=tuple(replace(part, restorers=()) for part in study.parts))
    own = {name: (RESTORERS.get(name, "default"),) for name in (*of, *brief)} | {UDC: study.restorers}
    return Plan(
        study=replace(study, perceptual=study.perceptual and has_lpips()),
        photos=tuple(images.photos()),
        restorers={name: named or own[name] for name in (*of, *brief)},
        defenses=defenses_of(defenses or study.defenses),
        brief=brief,
        split=images.split,
        panel=panel,
        seed=seed,
        device=device,
        precision=precision,
    )


def in_words(plan: Plan, images: Images) -> str:
    """Which photos are measured, and how large."""
    count = len(plan.measured)
    if images.pairs:
        where = f"{count} captures of {images.pairs[0]} and their ground truth"
    elif images.crops:
        where = f"{count} crops of {images.crops.name}"
    else:
        names = ", ".join(photo.name for photo in plan.measured)
        where = f"{count} drawn scenes and bundled photos, which are no benchmark ({names})"
    return f"{where}, at most {plan.study.size} × {plan.study.size} pixels"


def has_lpips() -> bool:
    """Whether its published weights can be had; a preset that wants it goes without where they cannot."""
    from udc_defense.attacks.lpips import load_lpips

    try:
        load_lpips(torch.device("cpu"), torch.float32)
    except UDCDefenseError:
        return False
    return True


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in workers: what a row says must not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
