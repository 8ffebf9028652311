"""The one reader of rows: what a row is, the files that hold them, and everything that is said of many.

A row is one image × degradation × restorer × attack × defense × draw. A setting is what rows share that differ in
their image alone. What an attack leaves, the worst attack, what a defense costs clean images, the headline and every
interval are defined here and nowhere else, so that one run gives one number wherever it is printed:

- Attackers are compared on the images that all of them met. What takes long meets few images; an attack on all images
  beside one on hard ones would compare the images.
- Compared are attacks within one budget, ε = 4/255 in L∞ where it was measured.
- An image that nobody attacked has one PSNR behind a defense: the mean over the answers of all settings.
- Equal images count as 100 dB in means.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypedDict, cast

from udc_defense import output
from udc_defense.errors import SettingError
from udc_defense.evaluation.bootstrap import bootstrap_difference
from udc_defense.metrics import certified_psnr, effective_gain, recovered_share
from udc_defense.output import write_file
from udc_defense.photo.result import HIGHEST_PSNR
from udc_defense.photo.settings import Settings
from udc_defense.table import Interval

Scores = Mapping[str, float | None]  # by stage; null where a stage was not run, or where two images are equal

ROWS, PACKED = "rows.jsonl", "rows.jsonl.gz"  # of a run folder; the second is how results are committed
NONE, OBLIVIOUS = "none", "oblivious"  # the defense of those that have none; the attacker who knows of no defense
RADIUS = 4.0  # of headlines, in 1/255
CERTIFIED = (1.0, 2.0, 4.0, 8.0)  # radii at which floors are shown, in 1/255 per value
EOT = "EOT"  # begins the titles of settings that ask whether more draws per gradient find more; no attacks to compare
SETTINGS = tuple(field.name for field in fields(Settings))
FURTHER = ("restorer", "degradation", "made_on", "draw")  # what tells rows apart besides
# What no row can do without; everything else may be missing.
NEEDED = {"image": str, "restorer": str, "degradation": str, "defense": str, "title": str, "threat": str, "psnr": dict}
# Without a defense, the restorer is all that is defended.
BARE = {"defended_clean": "restored", "defended_attacked": "attacked_restored"}


class Row(TypedDict, total=False):
    """One line of a file of rows. Draws after the first hold their identity and `psnr` alone."""

    # What makes it one of a kind, with the settings of capture and attack.
    split: str
    image: str
    size: int
    restorer: str
    degradation: str
    made_on: str  # another restorer, whose attack this one got
    draw: int
    purifier: dict[str, Any] | None
    panel: str
    attack: str
    objective: str | None
    norm: str | None
    eps: float | None
    steps: int | None
    threat: str
    draws: int
    options: dict[str, Any]
    surrogate_steps: int
    resubmit: int
    evade: bool
    precision: str
    # What it is called.
    title: str
    defense: str
    trivial: bool
    # What was found.
    seed: int
    psnr: Scores
    ssim: Scores
    ms_ssim: Scores
    gmsd: Scores
    delta_e: Scores
    lpips: Scores
    psnr_to_clean_output: Scores
    recovered: float | None
    seconds: dict[str, float]
    nfe: int
    kmac_per_pixel: float
    lipschitz: float  # proven bound of the gain in ℓ2; only where there is one
    peak_memory_mb: float | None
    search: dict[str, Any] | None
    resubmission: dict[str, dict[str, float]] | None
    detection: dict[str, float] | None
    flags: list[str]


Rows = Sequence[Row]


# --- files ---


def key_of(row: Mapping[str, Any]) -> str:
    """The identity of a row as text, whatever else it holds; settings that it lacks have their defaults."""
    settings = Settings(**{name: row[name] for name in SETTINGS if name in row})
    known = {name: value for name, value in asdict(settings).items() if name != "seed"}
    named = (*("split", "image", "size", "purifier"), *(name for name in FURTHER if name in row))
    return json.dumps({name: row[name] for name in named} | known, sort_keys=True)


def read_rows(path: Path) -> Iterator[Row]:
    """Every row of a file, one a line or lists of them; a last line that a kill has cut off is none.

    Raises:
        SettingError: it cannot be read, or another line is no row.
    """
    try:
        data = path.read_bytes() if path.is_file() else b""
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines(keepends=True)
    except (OSError, EOFError) as error:
        raise SettingError(f"{path}: cannot be read ({error}).") from error
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            return
        try:
            found = json.loads(line)
        except ValueError as error:
            raise SettingError(f"{path}: line {number} is not JSON ({error}).") from error
        for row in found if isinstance(found, list) else [found]:
            for key, kind in NEEDED.items():
                if not isinstance(row, dict) or not isinstance(row.get(key), kind):
                    raise SettingError(f"{path}: line {number} has no {key!r}, so it is no row of a run.")
            yield cast(Row, row)


def read_run(folder: Path) -> list[Row]:
    """The rows of a run folder that are merged."""
    return [row for name in (PACKED, ROWS) for row in read_rows(folder / name)]


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add one line of rows to a file, and the file to the disk: a kill leaves all of them or none.

    Raises:
        OutputError: the disk is full, or the file cannot be written for another reason.
    """
    output.append(path, json.dumps(rows).encode() + b"\n")


def read_parts(path: Path) -> list[dict[str, Any]]:
    """What `append` has written; lines that a kill or a full disk has spoilt are dropped from the file."""
    if not path.is_file():
        return []
    found, whole, lines = [], [], path.read_bytes().splitlines(keepends=True)
    for line in lines:
        try:
            rows = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            rows = None
        if isinstance(rows, list):
            found += rows
            whole.append(line)
    if len(whole) < len(lines):
        write_file(path, b"".join(whole))
    return found


def merge(folder: Path, parts: Iterable[Path]) -> None:
    """Write the rows of a run and of its parts to one file, each once, in an order that depends on them alone."""
    rows = {key_of(row): row for row in read_run(folder)}
    rows |= {key_of(row): row for part in parts for row in cast(list[Row], read_parts(part))}
    packed = (folder / PACKED).is_file()
    write_rows(folder / (PACKED if packed else ROWS), rows.values())


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """A file of rows, one a line, compressed where its name ends in gz: the same bytes for the same rows."""
    text = "".join(json.dumps(row) + "\n" for row in sorted(rows, key=key_of)).encode()
    write_file(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


# --- one row ---


def value(row: Row, stage: str, metric: str = "psnr") -> float | None:
    """The score of a stage, of the restorer alone where nothing defends it; None where it was not measured.

    Equal images have an infinite PSNR, which is null in the file.
    """
    stage = BARE.get(stage, stage) if row["defense"] == NONE else stage
    scores = cast(Scores, row.get(metric) or {})
    if (found := scores.get(stage)) is not None:
        return float(found)
    return HIGHEST_PSNR if metric == "psnr" and stage in scores and _was_run(row, stage) else None


def _was_run(row: Row, stage: str) -> bool:
    if stage.startswith("defended") and row.get("purifier") is None:
        return False
    return row.get("attack") != "none" or stage in ("captured", "restored", "defended_clean")


def gain(row: Row, before: str = "defended_clean", after: str = "defended_attacked") -> float | None:
    """Effective gain: growth of the error in units of what the attacker may change; None of one that has no radius."""
    clean, attacked, eps = value(row, before), value(row, after), row.get("eps")
    return effective_gain(clean, attacked, eps / 255) if eps and clean is not None and attacked is not None else None


def certified(row: Row, eps: float) -> float | None:
    """What no perturbation of at most ε/255, per value or RMS, can undercut; None where nothing is proven."""
    clean, bound = value(row, "defended_clean"), row.get("lipschitz")
    return None if clean is None or bound is None else certified_psnr(clean, bound, eps / 255)


# --- many rows ---


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows whose fields have the wanted values."""
    return [row for row in rows if all(row.get(name) == found for name, found in wanted.items())]


def by_image(rows: Iterable[Row], what: Callable[[Row], float | None]) -> dict[str, float]:
    """A value for each image that has it."""
    found = {row["image"]: what(row) for row in rows}
    return {image: number for image, number in found.items() if number is not None}


def mean(rows: Iterable[Row], stage: str, metric: str = "psnr") -> float | None:
    """Mean of a score over the rows that have it; None without any."""
    found = [number for row in rows if (number := value(row, stage, metric)) is not None]
    return fmean(found) if found else None


def mean_gain(rows: Iterable[Row], before: str = "defended_clean", after: str = "defended_attacked") -> float | None:
    """Mean of the effective gains of the rows: never that of mean PSNRs."""
    found = [number for row in rows if (number := gain(row, before, after)) is not None]
    return fmean(found) if found else None


def recovered(rows: Rows, base: Rows = (), stage: str = "defended_attacked") -> float | None:
    """Recovered share of the mean PSNRs: the formula on averages, which a fragile image cannot dominate.

    Args:
        rows: under one attack.
        base: of the undefended network that was never fine-tuned; `rows` without any.
        stage: what is kept or given back.
    """
    clean, attacked = (mean(base or rows, name) for name in ("restored", "attacked_restored"))
    return recovered_share(clean, attacked, mean(rows, stage))


def number(rows: Iterable[Mapping[str, Any]], *path: str, of: Callable[[list[float]], float] = fmean) -> float | None:
    """Mean, or another summary, of a nested value over the rows that have it."""
    found = []
    for row in rows:
        held: Any = row
        for key in path:
            held = held.get(key) if isinstance(held, Mapping) else None
        if isinstance(held, int | float):
            found.append(float(held))
    return of(found) if found else None


def interval(values: Mapping[str, float]) -> Interval | None:
    """Mean over images with its 95 % bootstrap interval, which one image does not have; None without one."""
    return difference(values, dict.fromkeys(values, 0.0))


def difference(first: Mapping[str, float], second: Mapping[str, float]) -> Interval | None:
    """The same of first - second, over the images that both have."""
    images = sorted(first.keys() & second.keys())
    if not images:
        return None
    one, other = ([[values[image]] for image in images] for values in (first, second))
    found = bootstrap_difference(one, other) if len(images) > 1 else Interval(one[0][0] - other[0][0], None, None)
    return Interval(*(None if end is None else round(end, 4) for end in found))  # type: ignore[arg-type]


def among(values: Mapping[str, float], images: Iterable[str]) -> dict[str, float]:
    """Those of these images."""
    return {image: values[image] for image in images if image in values}


# --- an attack on a target, and a target under all of its attacks ---


class Budget(NamedTuple):
    """What an attacker may do to be compared with others; ε in 1/255."""

    norm: str
    eps: float


class Setting(NamedTuple):
    """An attack as it was set, and what it knows. ε in 1/255, None of an attack that has no radius."""

    title: str
    norm: str | None
    eps: float | None
    threat: str


@dataclass(frozen=True)
class Cell:
    """The rows, one per image, of one setting on one target."""

    rows: Rows

    @property
    def defense(self) -> str:
        return self.rows[0]["defense"]

    @property
    def setting(self) -> Setting:
        row = self.rows[0]
        eps = row.get("eps")
        # An attack with a radius that takes no norm is one in L∞.
        return Setting(row["title"], row.get("norm") or (None if eps is None else "linf"), eps, row["threat"])

    @property
    def knows(self) -> bool:
        """Whether the attacker knows the defense."""
        return self.rows[0]["threat"] != OBLIVIOUS

    @property
    def family(self) -> str:
        """The attack without its radius and what it knows: what is the same along a curve."""
        row = self.rows[0]
        return repr([row.get(key) for key in ("attack", "objective", "steps", "draws", "options")])

    def values(self, stage: str, metric: str = "psnr") -> dict[str, float]:
        """By image, where it was measured."""
        return by_image(self.rows, lambda row: value(row, stage, metric))

    @cached_property
    def attacked(self) -> dict[str, float]:
        """PSNR of what a user gets of the attacked capture, by image."""
        return self.values("defended_attacked")

    @property
    def mean(self) -> float:
        """What the attack leaves."""
        return fmean(self.attacked.values())

    @property
    def gain(self) -> Interval | None:
        """Effective gain, mean over images."""
        return interval(by_image(self.rows, gain))

    def on(self, images: Iterable[str]) -> Cell:
        """The same attack on these images alone."""
        wanted = set(images)
        return Cell([row for row in self.rows if row["image"] in wanted])


def on_shared_images(cells: Sequence[Cell]) -> list[Cell]:
    """Attacks on the images that all of them met; none where there is no such image."""
    shared = set.intersection(*(set(cell.attacked) for cell in cells)) if cells else set()
    return [cell.on(shared) for cell in cells] if shared else []


def worst_of(cells: Sequence[Cell]) -> Cell | None:
    """The attack that leaves least on the images that all of them met."""
    return min(on_shared_images(cells), key=lambda cell: cell.mean, default=None)


class Target:
    """A restorer with a defense under everything that attacked it, on captures of one kind, size and split.

    Args:
        rows: of the first draw of the defense's noise; those of adversarial images that were made for it.
    """

    def __init__(self, rows: Rows) -> None:
        first = rows[0]
        self.rows = rows
        self.restorer, self.degradation, self.defense = first["restorer"], first["degradation"], first["defense"]
        self.split, self.size, self.trivial = first.get("split"), first.get("size"), bool(first.get("trivial"))
        groups: dict[str, list[Row]] = {}
        for row in rows:
            named = [row["title"], *(row.get(name) for name in SETTINGS if name != "seed")]
            groups.setdefault(json.dumps(named, sort_keys=True), []).append(row)
        cells = [Cell(found) for found in groups.values()]
        self.convergence = [cell for cell in cells if cell.setting.title.startswith(EOT)]
        self.cells = [cell for cell in cells if not cell.setting.title.startswith(EOT)]

    def compared(self, budget: Budget | None) -> list[Cell]:
        """The attacks within a budget, on the images that all of them met."""
        found = [cell for cell in self.cells if (cell.setting.norm, cell.setting.eps) == budget]
        return on_shared_images([cell for cell in found if cell.attacked])

    def worst(self, budget: Budget | None, *, knows: bool | None = None) -> Cell | None:
        """The attack that leaves least of those that compare; of those who know the defense, or do not, where asked."""
        found = [cell for cell in self.compared(budget) if knows in (None, cell.knows)]
        return min(found, key=lambda cell: cell.mean, default=None)

    def clean(self, metric: str = "psnr", stage: str = "defended_clean") -> dict[str, float]:
        """By image, what a user gets of a capture that nobody attacked: mean over the answers of all settings."""
        found: dict[str, list[float]] = {}
        for cell in self.cells:
            for image, score in cell.values(stage, metric).items():
                found.setdefault(image, []).append(score)
        return {image: fmean(scores) for image, scores in found.items()}

    def clean_cost(self, metric: str = "psnr") -> Interval | None:
        """What the defense takes from images that nobody attacked."""
        return difference(self.clean(metric, "restored"), self.clean(metric))

    @property
    def kmac_per_pixel(self) -> float | None:
        """Thousands of multiplications of defense and restorer for one pixel, all draws."""
        return number(self.rows, "kmac_per_pixel")

    @property
    def lipschitz(self) -> float | None:
        """Proven bound of the gain."""
        return number(self.rows, "lipschitz", of=max)

    def certified(self, eps: float) -> dict[str, float]:
        """By image, what no perturbation of at most ε/255 can undercut; empty where nothing is proven."""
        return by_image(self.rows, lambda row: certified(row, eps))


def targets(rows: Iterable[Row]) -> list[Target]:
    """Everything that was attacked, in the order of rows; not by further draws, nor images made on another restorer."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    names = ("degradation", "restorer", "defense", "split", "size")
    for row in rows:
        if not row.get("draw") and not row.get("made_on"):
            groups.setdefault(tuple(row.get(name) for name in names), []).append(row)
    return [Target(found) for found in groups.values()]


def common_budget(found: Iterable[Target]) -> Budget | None:
    """ε = 4/255 in L∞ where anything met it, else what most settings share; None where no attack has a radius."""
    settings = {cell.setting for target in found for cell in target.cells}
    counted = Counter(Budget(setting.norm, setting.eps) for setting in settings if setting.norm and setting.eps)
    headline = Budget("linf", RADIUS)
    return headline if headline in counted or not counted else counted.most_common(1)[0][0]
