"""The tables of README, RESULTS and cards, as Markdown. What a table shows is said above it, where it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from study import selection
from study.data import HELDOUT, MODEL, SPLITS, VAL, Rows, every_row, plan_of, results, rows, summaries, summary
from study.measure import generalisation
from study.measure.certification import BUDGETS
from udc_defense.attacks import ATTACKS
from udc_defense.checkpoints.files import EMBEDDED, embedded_names
from udc_defense.checkpoints.models import KINDS, show_models
from udc_defense.detection import roc
from udc_defense.evaluation.rows import mean, mean_gain, number, recovered
from udc_defense.purification import DEFAULT, Purification, defense_name, parse_defense
from udc_defense.table import Column, Table, Value

EPSILONS = (1, 2, 4, 8)
BARE, DEFENDED = ("restored", "attacked_restored"), ("defended_clean", "defended_attacked")
STAGES = {
    "captured": "capture",
    "restored": "restored",
    "attacked_input": "attacked capture",
    "attacked_restored": "attacked, restored",
    "noise_restored": "random noise, restored",
    "defended_clean": "purified clean, restored",
    "defended_attacked": "purified attacked, restored",
}
Heads = list[str | Column]
GAIN, KMAC, CROPS = Column("effective gain"), Column("kMAC per pixel", 1), Column("crops", 0)
SHARE = Column("recovered", 0)
FINETUNED = {
    "default": "base network",
    "noisy": "fine-tuned on random noise",
    "purified": "fine-tuned on purified captures (the paper's)",
    "adversarial": "adversarially fine-tuned",
    "purified_adversarial": "adversarially fine-tuned through the purifier",
}
ARCHITECTURES = {
    "default": "gated U-Net (the default)",
    "nafnet": "NAFNet",
    "de_unet": "DE-UNet",
    "udc_unet": "UDC-UNet",
    "uformer": "Uformer",
}
MODELS = {
    "capture": "the capture (control)",
    "target": "target",
    "surrogate": "surrogate",
    "smoothed": "surrogate, smoothed",
}
COMMON = "axon20"  # every restorer meets the captures of this panel, but those that know another one alone


def pgd(eps: float, threat: str = "oblivious") -> str:
    """The title of PGD with 20 steps in the studies."""
    return f"PGD-20, ε = {eps:g}" + ("" if threat == "oblivious" else f", {threat}")


def pipe(columns: Sequence[str | Column], lines: Sequence[Sequence[Value]]) -> str:
    """A Markdown table; a column that is a text has two decimals."""
    made = [Column(column) if isinstance(column, str) else column for column in columns]
    return Table("", "", "", made, lines).markdown().rstrip()


def share(found: float | None) -> str | None:
    return None if found is None else f"{found:.0%}"


def kmac(found: Rows) -> float | None:
    """Of purifier and restorer, all draws."""
    return number(found, "kmac_per_pixel")


# --- the default defense ---


def over_radii(split: str, metric: str = "psnr", defense: str = "default") -> str:
    """Every stage over ε."""
    lines: list[list[Value]] = []
    for eps in EPSILONS:
        found = rows("default_defense", split, pgd(eps), defense, size=256)
        line: list[Value] = [f"{eps}", *(mean(found, stage, metric) for stage in STAGES)]
        lines.append([*line, share(recovered(found)), mean_gain(found), kmac(found)])
    heads: Heads = [Column(head, 2 if metric == "psnr" else 3) for head in STAGES.values()]
    return pipe(["ε (1/255)", *heads, SHARE, GAIN, KMAC], lines)


def by_knowledge(split: str, defense: str = "default") -> str:
    """The attacker who knows the defense beside the one who does not, on the same 128² crops."""
    stages = ("attacked_restored", "defended_attacked", "defended_clean", "noise_restored")
    lines: list[list[Value]] = []
    for threat, words in (("oblivious", "does not know the defense"), ("exact", "differentiates the defense")):
        found = rows("default_defense", split, pgd(4, threat), defense)
        line = [words, *(mean(found, stage) for stage in stages)]
        lines.append([*line, mean_gain(found), kmac(found), len(found)])
    heads: Heads = ["attacker", "undefended, restored", "defended", "defended, no attack", "random noise, no defense"]
    return pipe([*heads, GAIN, KMAC, CROPS], lines)


def grid() -> str:
    """Every sampler × noise level on val."""
    found = {row["defense"] for row in every_row("default_defense") if (row["split"], row["size"]) == (VAL, 256)}
    chosen = [parse_defense(name) for name in found if name not in ("none", "default")]
    ordered = sorted((p for p in chosen if p), key=lambda p: (p.sampler, p.draws, p.noise_level))
    lines: list[list[Value]] = []
    for purification in (DEFAULT, *ordered):
        own = rows("default_defense", VAL, pgd(4), defense_name(purification), size=256)
        bare, clean, left = (mean(own, stage) or 0.0 for stage in ("restored", *DEFENDED))
        name = purification.sampler + (f" × {purification.draws}" if purification.draws > 1 else "")
        mark = " (default, trained for one step)" if purification == DEFAULT else ""
        # The stage purifies and restores the capture and the attacked capture: two images.
        seconds = (number(own, "seconds", "purify") or 0.0) / 2
        gained = left - (mean(own, "attacked_restored") or 0.0)
        line: list[Value] = [name + mark, purification.noise_level, own[0]["nfe"], bare - clean, gained]
        lines.append([*line, share(recovered(own)), mean_gain(own), kmac(own), seconds])
    heads: Heads = ["purifier", Column("t*", 0), Column("network evaluations", 0), "clean cost (dB)"]
    heads += [Column("gain under PGD-20 (dB)", signed=True), SHARE, GAIN, KMAC, "s per image"]
    return pipe(heads, lines)


# --- every attack ---


def attacks(split: str) -> str:
    """Every attack on the bare restorer, and what a defense that it does not know leaves of it."""
    lines: list[list[Value]] = []
    for title, found in _attacks(split, ("none", MODEL)):
        searches = [row["search"] for row in found if row["search"]]
        cost = [f"{searches[0][key]:,}" if searches else "shared" for key in ("forwards", "backwards")]
        delta = number(found, "search", "delta_rms", of=median)
        stages = ("attacked_restored", "noise_restored", "defended_attacked")
        scores = (mean(found, stage) for stage in stages)
        sees = "gradients" if ATTACKS.get(found[0]["attack"]).white_box else "outputs"
        gains = mean_gain(found, *BARE), mean_gain(found)
        lines.append([title, sees, *cost, delta, *scores, *gains, kmac(found), len(found)])
    heads: Heads = [
        "attack",
        "sees",
        "forwards",
        "backwards",
        "δ RMS (1/255)",
        "attacked, restored",
        "random noise, restored",
    ]
    heads += ["purified, restored", "effective gain, bare", "purified"]
    return pipe([*heads, KMAC, CROPS], lines)


def _attacks(split: str, only: tuple[str, ...] = ()) -> Iterator[tuple[str, Rows]]:
    """Titles and rows of one part of the study of attacks, with the rows of the diffusion model."""
    for part in plan_of("attacks").parts:
        if part.defenses == only:
            for attack in part.attacks:
                if found := rows("attacks", split, attack.title, MODEL):
                    yield attack.title, found


def known_attacks(split: str) -> str:
    """The attacker who knows the defense; one answer, many answers, and the same for clean captures."""
    lines: list[list[Value]] = []
    for title, defense in _knowing():
        found = rows("attacks", split, title, defense)
        if not found:
            continue
        spreads: list[Value] = []
        for stage in ("defended_attacked", "defended_clean"):
            average, deviation, worst = (number(found, "resubmission", stage, key) for key in ("mean", "std", "worst"))
            spreads += [f"{average:.2f} ± {deviation:.2f}", worst]
        shown = parse_defense(defense)
        scores = mean(found, "noise_restored"), mean(found, "defended_attacked")
        line: list[Value] = [title, found[0]["threat"], shown.words if shown else "none", *scores, *spreads]
        lines.append([*line, mean_gain(found), kmac(found), len(found)])
    heads: Heads = [
        "attack",
        "knows",
        "defense",
        "random noise, restored",
        "defended, one shot",
        "mean ± std",
        "worst of 8",
    ]
    return pipe([*heads, "clean, mean ± std", "clean, worst of 8", GAIN, KMAC, CROPS], lines)


def _knowing() -> Iterator[tuple[str, str]]:
    """Title and defense, of everyone who was asked about again."""
    study = plan_of("attacks")
    for part in study.parts[2:]:
        for defense in study.defenses if part.defenses == ("all",) else part.defenses:
            yield from ((attack.title, defense) for attack in part.attacks)


def smallest(split: str) -> str:
    """The perturbation that C&W needs to bring the restored image to the target."""
    settings = [("the restorer", "C&W to 15 dB", MODEL, BARE)]
    settings += [(f"`{name}`, exact gradient", "C&W to 15 dB, exact", name, DEFENDED) for name in ("default", MODEL)]
    lines: list[list[Value]] = []
    for words, title, defense, stages in settings:
        found = rows("attacks", split, title, defense)
        reached = sum(-(row["search"] or {})["best_loss"] <= 15 for row in found)
        needed = number(found, "search", "delta_rms", of=median)
        lines.append([words, needed, reached, mean(found, stages[1]), kmac(found), len(found)])
    heads: Heads = ["attacked", "median RMS of δ to reach 15 dB (1/255)", Column("reached", 0), "and leaves (dB)"]
    return pipe([*heads, KMAC, CROPS], lines)


def flags(split: str) -> str:
    """The checks of the study of attacks, and what each saw."""
    found = [f for f in summary("attacks")["flags"] if f["split"] == split and f["defense"] != "ddpm:noise_level=10"]
    lines = [[f["defense"], f["check"], "yes" if f["raised"] else "no", f["words"]] for f in found]
    return pipe(["defense", "check", "raised", "what was seen"], lines)


# --- every purifier ---


def families() -> dict[str, tuple[str, ...]]:
    """Candidates by family."""
    return {name: group for name, group in plan_of("purifiers").groups.items() if name not in ("levels", "chosen")}


def best(family: str) -> str:
    """The candidate of a family that keeps most on val under PGD-20 that does not know it."""
    kept = {name: mean(rows("purifiers", VAL, pgd(4), name), "defended_attacked") for name in families()[family]}
    return max(kept, key=lambda name: kept[name] or 0.0)


PER_PHOTO = defense_name(selection.PER_PHOTO)


def reported() -> dict[str, str]:
    """The chosen purifier of every family, and the one that chooses its level."""
    return {family: best(family) for family in families()} | {"one step × 8, level per photo": PER_PHOTO}


def faced(defense: str, split: str, eps: float) -> Rows:
    """Rows of a purifier under the attack that does not know it."""
    return rows("per_photo" if defense == PER_PHOTO else "purifiers", split, pgd(eps), defense)


def knowing(defense: str, title: str = "PGD-20, ε = 4") -> Rows:
    """Rows of a purifier under the best gradient that can be had of it; held out."""
    study = "per_photo" if defense == PER_PHOTO else "purifiers"
    found = (rows(study, HELDOUT, f"{title}, {threat}", defense) for threat in ("exact", "surrogate", "bpda"))
    return next(filter(None, found), [])


def words(purification: Purification) -> str:
    """What distinguishes it within its family."""
    if purification.is_transform:
        return f"{purification.strength:g}"
    if purification.per_photo:
        return "t* chosen"
    guided = f", strength {purification.guidance:g}" if purification.guide else ""
    return f"t* = {purification.noise_level}{guided}"


def titled(family: str, defense: str) -> str:
    purification = parse_defense(defense)
    assert purification is not None
    return f"{family}, {words(purification)}"


def purifiers() -> str:
    """The best purifier of every family, what it saves and what it costs; held out."""
    costs = {row["family"]: row for row in results("cost")["rows"]}
    lines = [_line("none", "none", "attacked_restored", [0, 0.0, 0.0])]
    for family, defense in reported().items():
        spent = costs[family]
        cost: list[Value] = [spent["evaluations"], spent["milliseconds_per_megapixel"], spent["peak_mib_over_idle"]]
        title = titled(family, defense)
        title = f"**{title}** (the default)" if defense == "default" else title
        lines.append(_line(title, defense, "defended_attacked", cost))
    heads: Heads = [
        "purifier",
        "clean",
        *(pgd(eps) for eps in EPSILONS[1:]),
        "knows the defense, ε = 4",
        "how",
    ]
    heads += ["C&W needs δ of (1/255)", "and leaves", "effective gain, not knowing it", "knowing it", KMAC]
    heads += [Column(head, 0) for head in ("evaluations", "ms per MP", "peak MiB at ¼ MP")]
    return pipe(heads, lines)


def _line(title: str, defense: str, attacked: str, cost: list[Value]) -> list[Value]:
    by_radius = [faced(defense, HELDOUT, eps) for eps in EPSILONS[1:]]
    known, searched = knowing(defense), knowing(defense, "C&W")
    if defense == "none":
        searched = rows("purifiers", HELDOUT, "C&W", "none")
        images = {row["image"] for row in searched}
        known = [row for row in by_radius[1] if row["image"] in images]
    how = "exact" if defense == "none" else known[0]["threat"]
    needed = number(searched, "search", "delta_rms", of=median)
    line: list[Value] = [title, mean(by_radius[1], "defended_clean"), *(mean(found, attacked) for found in by_radius)]
    line += [mean(known, attacked), how, needed, mean(searched, attacked)]
    return [*line, mean_gain(by_radius[1]), mean_gain(known), kmac(by_radius[1]), *cost]


def candidates() -> str:
    """Every candidate on val; the best of each family is bold."""
    lines: list[list[Value]] = []
    for family, group in families().items():
        chosen = best(family)
        for defense in group:
            found = faced(defense, VAL, 4)
            title = titled(family, defense)
            title = f"**{title}**" if defense == chosen else title
            lines.append([title, *(mean(found, stage) for stage in DEFENDED), mean_gain(found), kmac(found)])
    return pipe(["purifier", "clean (dB)", f"{pgd(4)} (dB)", GAIN, KMAC], lines)


# --- fine-tuning and architectures ---


@dataclass(frozen=True)
class System:
    """A restorer, perhaps behind the default purifier."""

    network: str
    purified: bool

    @property
    def words(self) -> str:
        return FINETUNED[self.network] + (" + purify" if self.purified else "")

    @property
    def stages(self) -> tuple[str, str]:
        """Where its scores stand: clean and attacked."""
        return DEFENDED if self.purified else BARE

    @property
    def defense(self) -> str:
        return "default" if self.purified else "none"

    def faced(self, split: str, title: str) -> Rows:
        return rows("finetuning", split, title, self.defense, self.network)

    def known(self, split: str, eps: float = 4) -> Rows:
        """Under who knows all there is, on the adaptive crops; without a purifier that is plain PGD."""
        found = rows("finetuning", split, pgd(eps, "exact"), "default", self.network)
        if self.purified:
            return found
        images = {row["image"] for row in found}
        return [row for row in self.faced(split, pgd(eps)) if row["image"] in images]

    def left(self, split: str = VAL) -> float:
        """PSNR under who knows all of it."""
        return mean(self.known(split), self.stages[1]) or 0.0

    def clean(self, split: str = VAL) -> float:
        """PSNR of the same crops without an attack."""
        return mean(self.known(split), self.stages[0]) or 0.0

    def recovered(self, split: str) -> float | None:
        """Share of what PGD-20 takes from the base network that it keeps or gives back."""
        return recovered(self.faced(split, pgd(4)), System("default", False).faced(split, pgd(4)), self.stages[1])


def systems(networks: Sequence[str] = tuple(FINETUNED)) -> list[System]:
    """Of these networks, the undefended base first."""
    return [System(network, purified) for network in networks for purified in (False, True)]


def strongest(among: Sequence[System] | None = None) -> System:
    """What keeps most on val under who knows all of it."""
    return max(among or systems(), key=System.left)


def at_equal_cost() -> System:
    """The same among systems with at least the clean PSNR of adversarial fine-tuning alone."""
    rival = System("adversarial", False)
    return strongest([system for system in systems() if system.clean() >= rival.clean()])


def finetuned(metric: str = "psnr", networks: Sequence[str] = tuple(FINETUNED)) -> str:
    """Every system under every attack that does not know the purifier; held out."""
    titles = [*(pgd(eps) for eps in EPSILONS), "PGD-20 on features", "SimBA, 1000 iterations"]
    lines: list[list[Value]] = []
    for system in systems(networks):
        own = system.faced(HELDOUT, pgd(4))
        scores = [mean(system.faced(HELDOUT, title), system.stages[1], metric) for title in titles]
        needed = number(system.faced(HELDOUT, "C&W to 15 dB"), "search", "delta_rms", of=median)
        line: list[Value] = [system.words, mean(own, system.stages[0], metric), *scores[:4]]
        line += [share(system.recovered(HELDOUT)), *scores[4:], None if system.purified else needed]
        lines.append([*line, mean_gain(own), kmac(own)])
    digits = 2 if metric == "psnr" else 3
    heads: Heads = [
        Column("clean", digits),
        *(Column(pgd(eps), digits) for eps in EPSILONS),
        Column("recovered at ε = 4"),
    ]
    heads += [Column("on features", digits), Column("SimBA", digits), Column("C&W needs δ of (1/255)")]
    return pipe(["system", *heads, GAIN, KMAC], lines)


def finetuned_known(networks: Sequence[str] = tuple(FINETUNED)) -> str:
    """The same systems under who knows them, on the adaptive crops, with random noise of the same norm."""
    lines: list[list[Value]] = []
    for system in systems(networks):
        own = system.known(HELDOUT)
        scores = [mean(system.known(HELDOUT, eps), system.stages[1]) for eps in EPSILONS[1:]]
        noise = None if system.purified else mean(own, "noise_restored")
        lines.append([system.words, mean(own, system.stages[0]), *scores, noise, mean_gain(own), kmac(own), len(own)])
    heads: Heads = ["system", "clean", *(f"knowing it, ε = {eps}" for eps in EPSILONS[1:]), "random noise, ε = 4"]
    return pipe([*heads, GAIN, KMAC, CROPS], lines)


def finetuned_choice() -> str:
    """What choices hang on: every system under who does not know the purifier and who does; val."""
    lines: list[list[Value]] = []
    for system in systems():
        own, known = system.faced(VAL, pgd(4)), system.known(VAL)
        line: list[Value] = [system.words, *(mean(own, stage) for stage in system.stages), share(system.recovered(VAL))]
        lines.append([*line, *(mean(known, stage) for stage in system.stages), mean_gain(known), kmac(own)])
    heads: Heads = ["system", "clean", pgd(4), SHARE, "adaptive crops: clean", "who knows it all", GAIN, KMAC]
    return pipe(heads, lines)


def finetuned_both() -> str:
    """Every system under who knows all of it; what keeps most on val, and at equal clean PSNR, is bold."""
    marked = strongest(), at_equal_cost()
    lines: list[list[Value]] = []
    for system in systems():
        own = system.known(HELDOUT)
        scores = [score for split in SPLITS for score in (system.clean(split), system.left(split))]
        title = f"**{system.words}**" if system in marked else system.words
        lines.append([title, *scores, mean_gain(own), kmac(own)])
    heads: Heads = ["system", "clean, val", "attacked, val", "clean, held-out", "attacked, held-out"]
    return pipe([*heads, Column("effective gain, held-out"), KMAC], lines)


def architectures(networks: Sequence[str] = tuple(ARCHITECTURES)) -> str:
    """Restorers bare, behind both purifiers, and under who knows the default one; held out."""
    lines: list[list[Value]] = []
    for network in networks:
        own, model = (rows("architectures", HELDOUT, pgd(4), name, network) for name in ("default", MODEL))
        known = rows("architectures", HELDOUT, pgd(4, "exact"), "default", network)
        bare = rows("architectures", HELDOUT, pgd(4), "none", network)
        line: list[Value] = [ARCHITECTURES[network]]
        line += [mean(own, stage) for stage in ("captured", "restored", "noise_restored")]
        radii = (rows("architectures", HELDOUT, pgd(eps), "default", network) for eps in EPSILONS[1:])
        line += [mean(found, "attacked_restored") for found in radii]
        line += [mean(found, stage) for found in (own, model) for stage in DEFENDED]
        line += [mean(known, "defended_attacked"), mean_gain(own, *BARE), mean_gain(known), kmac(bare), kmac(own)]
        lines.append(line)
    heads: Heads = ["restorer", "capture", "clean", "noise, ε = 4", *(pgd(eps) for eps in EPSILONS[1:])]
    heads += [f"{name}: {column}" for name in ("purified", "diffusion") for column in ("clean", "ε = 4")]
    heads += ["purified, known, ε = 4", "effective gain, bare", "purified, known"]
    return pipe([*heads, Column("kMAC per pixel, bare", 1), Column("purified", 1)], lines)


# --- every embedded restorer ---


def targets() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Panel, headline and both sides of each restorer and defense."""
    for panel, told in summaries().items():
        names = ("degradation", "restorer", "defense")
        sides = {tuple(entry[name] for name in names): entry for entry in told["oblivious_and_adaptive"]}
        for entry in sorted(told["headline"], key=lambda entry: str(entry["restorer"])):
            if entry["degradation"] == "udc" and entry["psnr"]:
                yield panel, entry, sides[tuple(entry[name] for name in names)]


def evaluation(restorer: str | None = None) -> str:
    """Each restorer, or one, alone and behind each defense, under the worst attack of either kind."""
    lines: list[list[Value]] = []
    for panel, entry, side in targets():
        if restorer in (None, entry["restorer"]):
            levels = [entry[name]["mean"] for name in ("captured", "clean", "noise")]
            worst = [
                found and f"{found['psnr']['mean']:.2f} ({found['title']})"
                for found in (side["oblivious"], side["adaptive"])
            ]
            named = [f"`{entry['restorer']}`", panel, entry["defense"]]
            gain = (entry.get("effective_gain") or {}).get("mean")
            lines.append([*named, *levels, *worst, gain, entry.get("kmac_per_pixel"), entry["psnr"]["images"]])
    heads: Heads = ["restorer", "panel", "defense", "capture", "clean", "random noise, no defense"]
    return pipe([*heads, "does not know the defense", "knows it", GAIN, KMAC, CROPS], lines)


def transfer() -> str:
    """PSNR of the restorer of a column under the attack that was made on that of a row, no defense."""
    (found,) = (entry for entry in summaries()[COMMON]["transfer"] if entry["degradation"] == "udc")
    lines = [[name, *scores, found["images"]] for name, scores in zip(found["rows"], found["psnr"], strict=True)]
    return pipe(["attacked on", *found["columns"], CROPS], lines)


def evaluation_flags() -> str:
    """The sanity checks that were raised."""
    raised = [
        [f"`{flag['restorer']}`", panel, flag["defense"], flag["check"], flag["words"]]
        for panel, told in summaries().items()
        for flag in sorted(told["flags"], key=lambda flag: str(flag["restorer"]))
        if flag["raised"] and flag["degradation"] == "udc"
    ]
    return pipe(["restorer", "panel", "defense", "check", "what was seen"], raised)


# --- the detector ---


def detection(split: str) -> str:
    """What the detector sees of each attack, and what the attack does."""
    attacks = [attack.title for part in plan_of("detection").parts for attack in part.attacks]
    limit, plain = selection.detector()["threshold"], rows("detection", split, attacks[0])

    def noticed(found: Rows, kind: str) -> str:
        return f"{fmean(score > limit for score in selection.suspicion(found, kind)):.0%}"

    lines: list[list[Value]] = [
        ["clean", None, noticed(plain, "clean"), mean(plain, "restored"), mean(plain, "defended_clean")]
    ]
    lines[0] += [None, kmac(plain), len(plain)]
    for title in attacks:
        found = rows("detection", split, title)
        area = roc(*(selection.suspicion(found, kind) for kind in ("clean", "attacked"))).area
        scores = mean(found, "attacked_restored"), mean(found, "defended_attacked")
        lines.append([title, area, noticed(found, "attacked"), *scores, mean_gain(found), kmac(found), len(found)])
    heads: Heads = ["captures", "area under ROC", "noticed at the threshold", "restored", "purified, restored"]
    return pipe([*heads, GAIN, KMAC, CROPS], lines)


# --- results of other shapes ---


def unlike(split: str, networks: Sequence[str] = ()) -> str:
    """What each network adds to captures that training never drew; in brackets how many it makes worse."""
    return _added(results("generalisation"), split, generalisation.CONDITIONS, networks)


def panels() -> str:
    """What one network for all panels adds to the captures of each, and one for each."""
    return _added(results("panels"), VAL, generalisation.PLAIN)


def _added(
    found: dict[str, Any], split: str, conditions: Sequence[generalisation.Condition], networks: Sequence[str] = ()
) -> str:
    names = networks or list(found["rows"][0]["restored"])
    lines: list[list[Value]] = []
    for condition in conditions:
        here = [row for row in found["rows"] if (row["split"], row["condition"]) == (split, condition.words)]
        gains = ([row["restored"][name] - row["captured"] for row in here] for name in names)
        level = fmean(row["captured"] for row in here)
        lines.append([condition.words, level, *map(_added_words, gains), len(here)])
    return pipe(["captures", "capture (dB)", *names, CROPS], lines)


def _added_words(gains: list[float]) -> str:
    worse = sum(gain < 0 for gain in gains)
    return f"{fmean(gains):+.2f}" + (f" ({worse})" if worse else "")


def certified(norm: str) -> str:
    """Mean certified PSNR of the median image over the radius, with the chosen noise and the fixed one; held out."""
    found = results("certification")
    budgets = [(index, budget) for index, budget in enumerate(BUDGETS) if budget.norm == norm]
    lines: list[list[Value]] = []
    for system, chosen in found["chosen"].items():
        noises = [found["protocol"]["fixed"], *(chosen[index]["noise"] for index, _ in budgets)]
        for noise in (n for place, n in enumerate(noises) if n is not None and n not in noises[:place]):
            here = certificates(system, noise)
            floors = [
                floor(here, index) + (" (chosen)" if chosen[index]["noise"] == noise else "") for index, _ in budgets
            ]
            cost = fmean(row["psnr"]["bare"] - row["psnr"]["smoothed"] for row in here)
            seconds = fmean(sum(row["seconds"].values()) for row in here)
            named = [system, f"{noise['family']}, σ = {noise['sigma']:g}"]
            lines.append([*named, cost, seconds, max(row["queries_of_target"] for row in here), *floors])
    heads: Heads = ["system", "noise", "clean cost (dB)", Column("s", 1), Column("queries", 0)]
    return pipe([*heads, *(f"R = {budget.radius:g}" for _, budget in budgets)], lines)


def certified_floors() -> str:
    """The floors of the chosen noise in ℓ2; held out."""
    found = results("certification")
    budgets = [(index, budget) for index, budget in enumerate(BUDGETS) if budget.norm == "l2"]
    lines: list[list[Value]] = []
    for system, chosen in found["chosen"].items():
        noises = [(index, chosen[index]["noise"]) for index, _ in budgets]
        lines.append([system, *(floor(certificates(system, n), i) if n else "none" for i, n in noises)])
    side = 128
    heads: Heads = [f"R = {b.radius:g} ({255 * b.linf_covered(3 * side**2):.2f}/255 RMS)" for _, b in budgets]
    return pipe(["certified PSNR (dB)", *heads], lines)


def certificates(system: str, noise: dict[str, Any]) -> list[dict[str, Any]]:
    wanted = {"split": HELDOUT, "system": system, "noise": noise}
    return [row for row in results("certification")["rows"] if wanted.items() <= row.items()]


def floor(here: list[dict[str, Any]], index: int) -> str:
    floors = [row["floors"][index]["median"] for row in here]
    return "abstains" if None in floors else f"{fmean(floors):.2f}"


def membership() -> str:
    """How well PSNR, and its gain over the capture, tell images of the target's training from others."""
    found = results("ducd")["membership"]

    def area(one: dict[str, float]) -> str:
        return f"{one['auc']:.2f} ({one['low']:.2f} to {one['high']:.2f})"

    lines = [
        # A capture gains nothing over itself.
        [said, area(found[name]["psnr"]), None if name == "capture" else area(found[name]["gain"])]
        for name, said in MODELS.items()
    ]
    return pipe(["asked", "by PSNR", "by the gain in PSNR"], lines)


def digits() -> str:
    """The published setting of DUCD, a classifier."""
    found = results("ducd")["digits"]
    lines = [[MODELS[name], f"{found['mean_accuracy'][name]:.1%}", area] for name, area in found["mean_auc"].items()]
    return pipe(["asked", "accuracy", Column("area under ROC", 3)], lines)


def denoising() -> str:
    keys = ("sigma_in_255ths", "noisy", "non_local_means", "purifier")
    lines = [[f"{row['noise_level']}", *(row[key] for key in keys)] for row in results("denoising")["rows"]]
    return pipe(["t*", "σ (1/255)", "noisy", "non-local means", "purifier, one step"], lines)


def published_level() -> str:
    """The level that the published selection takes, by both distances."""
    found = results("noise_level")["rows"]
    distances = sorted({row["distance"] for row in found})
    levels = {(row["eps"], row["distance"]): row["level"] for row in found}
    radii = sorted({row["eps"] for row in found})
    heads: Heads = ["ε (1/255)", *(Column(distance, 0) for distance in distances)]
    return pipe(heads, [[f"{eps:g}", *(levels[eps, distance] for distance in distances)] for eps in radii])


def checkpoints() -> str:
    """What ships."""
    lines: list[list[Value]] = []
    for kind in KINDS:
        for name in embedded_names(kind):
            (details,) = show_models(str(EMBEDDED / kind / name))
            model, facts = details.model, details.training
            origin = f"from `{facts['finetuned_from']}` on: " if "finetuned_from" in facts else ""
            line: list[Value] = [f"{kind} `{name}`", model.bytes, f"{model.parameters / 1e6:.1f} M", facts["steps"]]
            line.append(f"{facts['seconds'] / 60:.0f} min, {facts['threads']} thread")
            lines.append([*line, f"{origin}{facts['scenes']} scenes, {panel_shares(facts['panels'])}"])
    heads: Heads = ["checkpoint", Column("bytes", 0), "parameters", Column("steps", 0), "training time", "trained on"]
    return pipe(heads, lines)


def panel_shares(panels: Sequence[str]) -> str:
    """`axon20 (50%), toled (25%)`, of a list in which a panel that was drawn twice as often stands twice."""
    return ", ".join(f"{panel} ({count / len(panels):.0%})" for panel, count in Counter(panels).items())


def tables() -> dict[str, Callable[[], str]]:
    """What makes each marked table."""
    found: dict[str, Callable[[], str]] = {
        "grid": grid,
        "purifiers-heldout": purifiers,
        "purifiers-grid": candidates,
        "level": published_level,
        "finetuning-both": finetuned_both,
        "finetuning-heldout": finetuned,
        "finetuning-ssim-heldout": lambda: finetuned("ssim"),
        "finetuning-known-heldout": finetuned_known,
        "finetuning-val": finetuned_choice,
        "architectures": architectures,
        "evaluation": evaluation,
        "evaluation-transfer": transfer,
        "evaluation-flags": evaluation_flags,
        "panels": panels,
        "certification-l2": lambda: certified("l2"),
        "certification-l1": lambda: certified("l1"),
        "certification-floors": certified_floors,
        "ducd-membership": membership,
        "ducd-digits": digits,
        "denoising": denoising,
        "checkpoints": checkpoints,
    }
    for split in SPLITS:
        of_split: dict[str, Callable[[str], str]] = {
            "psnr": over_radii,
            "ssim": lambda split: over_radii(split, "ssim"),
            "adaptive": by_knowledge,
            "attacks": attacks,
            "known": known_attacks,
            "smallest": smallest,
            "flags": flags,
            "per-photo": selection.table,
            "generalisation": unlike,
            "detection": detection,
        }
        for name, make in of_split.items():
            found[f"{name}-{split}"] = lambda make=make, split=split: make(split)  # type: ignore[misc]
    return found
