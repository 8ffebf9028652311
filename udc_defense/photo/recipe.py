"""A recipe: what one photo went through, exactly enough to do it again with the same pixels as the outcome.

The demo writes it beside its results and `udc-defense run --recipe` reads it. Images are the same bit for bit on the
same device with the same number of threads, weights and versions; the last two are compared, the weights strictly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from udc_defense.checkpoints.files import embedded_names
from udc_defense.checkpoints.resolve import HUB_ID
from udc_defense.errors import CheckpointError, SettingError, UDCDefenseError
from udc_defense.formats.content import read_content
from udc_defense.formats.json_text import parse_json
from udc_defense.images import read_image
from udc_defense.photo.settings import Settings
from udc_defense.photo.source import Known, Photo, from_image
from udc_defense.provenance import versions
from udc_defense.purification import Purification

FORMAT = 1
LARGEST_SIDE = 16_000
MAX_BYTES = 1 << 20  # of a recipe
LONGEST_NAME = 200


@dataclass(frozen=True)
class Recipe:
    """Everything that enters a run.

    Attributes:
        photo: sha256 of the photo's file.
        captured: the photo is a capture already; otherwise its capture is simulated.
        max_side: a larger photo is scaled down to this many pixels.
        settings: of capture and attack, with the seed.
        purification: None without a defense.
        networks: kind -> name and sha256 of the weights.
        device: `cpu` or `cuda`.
        threads: of the CPU.
        versions: of Python and the packages that numbers depend on.
        name: what the photo is called where seeds are made.
    """

    photo: str
    captured: bool
    max_side: int
    settings: Settings
    purification: Purification | None
    networks: dict[str, dict[str, str]]
    device: str
    threads: int
    versions: dict[str, str]
    name: str = "photo"

    def facts(self) -> dict[str, Any]:
        """As it is written to files."""
        return {"recipe": FORMAT} | asdict(self)

    def photo_at(self, path: Path) -> Photo:
        """The photo in a file, to be treated as the one of the recipe was."""

        def read(size: int | None) -> Known:
            return from_image(self.name, fitted(read_image(path), self.max_side), captured=self.captured).load(size)

        return Photo(path.name, read)

    def public_name(self, kind: str) -> str:
        """What a network is called, if that is a name that may come from a stranger.

        Raises:
            CheckpointError: it is not.
        """
        name = self.networks[kind]["name"]
        check_name(name, kind)
        return name

    def check_weights(self, checkpoints: Mapping[str, str]) -> None:
        """Refuse other weights than those of the recipe.

        Args:
            checkpoints: kind -> sha256 of the weights in use.

        Raises:
            CheckpointError: one differs.
        """
        for kind, network in self.networks.items():
            if (found := checkpoints.get(kind)) != network["sha256"]:
                raise CheckpointError(
                    f"the recipe was made with the {kind} {network['name']!r} of sha256 {network['sha256'][:12]}…, "
                    f"but the one at hand has {str(found)[:12]}…; name the right one."
                )

    def differences(self) -> list[str]:
        """Versions that are others here, in words: pixels may differ by rounding."""
        here = versions()
        pairs = ((name, here.get(name), made) for name, made in self.versions.items())
        return [f"{name} {found} instead of {made}" for name, found, made in pairs if found != made]


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file.

    Raises:
        SettingError: it is not one, or says what cannot be done.
    """
    try:
        written = parse_json(read_content(path, MAX_BYTES))
        if not isinstance(written, dict) or written.pop("recipe", None) != FORMAT:
            raise SettingError(f"{path}: is not a recipe of format {FORMAT}.")
        written["settings"] = Settings(**written["settings"])
        if written["purification"] is not None:
            written["purification"] = Purification(**written["purification"])
        recipe = Recipe(**written)
        _check(recipe)
    except UDCDefenseError:
        raise
    except OSError as error:
        raise SettingError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingError(f"{path}: is damaged, it is not a recipe.") from error
    return recipe


def _check(recipe: Recipe) -> None:
    """What the classes inside do not check themselves; a recipe may come from a stranger."""
    if not 1 <= recipe.max_side <= LARGEST_SIDE:
        raise SettingError(f"max_side {recipe.max_side!r} of the recipe is not in 1…{LARGEST_SIDE}.")
    if not 1 <= recipe.threads <= 1024:
        raise SettingError(f"threads {recipe.threads!r} of the recipe are not in 1…1024.")
    diffuses = recipe.purification is not None and not recipe.purification.is_transform
    if recipe.networks.keys() != {"restorer"} | ({"purifier"} if diffuses else set()):
        raise KeyError("the networks are not those of the run")
    texts = [recipe.photo, recipe.name, recipe.device]
    texts += [network[key] for network in recipe.networks.values() for key in ("name", "sha256")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a name or a sum is no text")
    dict(recipe.versions)


def check_name(name: str, kind: str) -> None:
    """Allow what a stranger may name: embedded checkpoints, and those on the Hub.

    A folder would let him look at this machine's, and `package.module:attribute` would run its code.

    Raises:
        CheckpointError: it is neither.
    """
    embedded = embedded_names(kind)
    on_hub = len(name) <= LONGEST_NAME and HUB_ID.fullmatch(name) and name[0] != "." and not Path(name).exists()
    if name not in embedded and not on_hub:
        shown, names = name[:LONGEST_NAME], ", ".join(embedded) or "none"
        raise CheckpointError(
            f"{shown!r} is neither an embedded {kind} ({names}) nor owner/name[@revision] on the Hub."
        )


def photo_sum(path: Path | str) -> str:
    """sha256 of a photo's file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fitted(photo: Tensor, max_side: int) -> Tensor:
    """A photo (1, 3, H, W), scaled down where a side is longer than `max_side`."""
    height, width = photo.shape[-2:]
    scale = max_side / max(height, width)
    if scale >= 1:
        return photo
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(photo, size=size, mode="bicubic", antialias=True).clamp(0, 1)
