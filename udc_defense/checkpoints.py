"""A name, a folder or `owner/name[@revision]` on the Hugging Face Hub -> verified weights, loaded.

A checkpoint is a folder in diffusers' layout: a restorer and the encoder of a guide have `config.json` and
`diffusion_pytorch_model.safetensors`, a purifier `unet/` and `scheduler/`. `checksums.json` beside them lists size and
sha256 of every file; the client of the Hub checks sizes only. Weights are safetensors, nothing else is opened. Where
the same files were pushed to the Hub, `hub.json` says where.

The environment variable `UDC_DEFENSE_REPO` moves all names from the package to the Hub, one repository a checkpoint:

    OWNER                     `default` is OWNER/udc-defense-restorer-default (-purifier-, -guide-)
    OWNER/PREFIX[@REVISION]   `default` is OWNER/PREFIX-restorer-default[@REVISION]

Without a revision the current commit is used, and stated; with it, every repository must have a branch or tag of that
name. Folders, and sources that name a repository themselves, stay what they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udc_defense.errors import CheckpointError

if TYPE_CHECKING:
    from udc_defense.guides.feature import Feature
    from udc_defense.purifiers.diffusion import DiffusionPurifier
    from udc_defense.restorers.base import Restorer

EMBEDDED = Path(__file__).parent / "weights"
CHECKSUMS = "checksums.json"
PUSHED = "hub.json"  # beside a checkpoint: where `models push` put it; stays at home
WEIGHTS = "diffusion_pytorch_model.safetensors"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@(?!.*\.\.)\w[\w./-]*)?")  # a revision becomes a path in the cache
HUB_FILES = ["*.json", "*.safetensors"]
HUB_CACHE = re.compile(r"/models--([^/]+)--([^/]+)/snapshots/([^/]+)$")
HUB_OWNER = "UDC_DEFENSE_REPO"
NAME = re.compile(r"[\w.-]+")
IMPORTABLE = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


def load_restorer(source: str | Path = "default") -> Restorer:
    """A restorer in evaluation mode, float32, on the CPU.

    Args:
        source: an embedded name, a folder, or `owner/name[@revision]` on the Hub; or `package.module:attribute`, an
            `nn.Module` or a class of such that takes no arguments, which runs code of that package.

    Raises:
        CheckpointError: one sentence that says what is wrong with it.
    """
    from udc_defense.restorers import restorer_class

    if is_importable(source):
        from udc_defense.foreign import imported

        return imported(str(source))
    folder = resolve(source, "restorer")
    config = _read_json(folder / "config.json")
    name = str(config.get("_class_name"))
    network_class = restorer_class(name)
    if network_class is None:
        raise CheckpointError(f"{source}: its architecture {name!r} is not a restorer known here.")
    return _filled(_built(network_class, config, source), folder / WEIGHTS, source)


def load_purifier(source: str | Path = "default", **options: Any) -> DiffusionPurifier:
    """A purifier in evaluation mode, float32, on the CPU.

    Args:
        source: an embedded name, a folder, or `owner/name[@revision]` on the Hub.
        options: sampler, noise_level, steps, draws, aggregate, eta, guide, guidance of `DiffusionPurifier`.

    Raises:
        CheckpointError: one sentence that says what is wrong with it.
        SettingError: an option is out of range.
    """
    from diffusers import DDPMScheduler, UNet2DModel

    from udc_defense.purifiers.diffusion import DiffusionPurifier

    folder = resolve(source, "purifier")
    network = _built(UNet2DModel, _read_json(folder / "unet" / "config.json"), source)
    scheduler = _built(DDPMScheduler, _read_json(folder / "scheduler" / "scheduler_config.json"), source)
    if scheduler.config["prediction_type"] not in ("epsilon", "sample"):
        raise CheckpointError(f"{source}: predicts {scheduler.config['prediction_type']!r}, not epsilon or sample.")
    last_timestep = training_facts(folder).get("last_timestep")
    if not isinstance(last_timestep, int | None):
        raise CheckpointError(f"{source}: last_timestep {last_timestep!r} in its training.json is not a whole number.")
    _filled(network, folder / "unet" / WEIGHTS, source)
    return DiffusionPurifier(network, scheduler, last_timestep=last_timestep, **options).eval()


def load_guide(source: str | Path = "default") -> Feature:
    """The guide `feature` with a trained encoder, in evaluation mode, float32, on the CPU.

    Args:
        source: an embedded name, a folder, or `owner/name[@revision]` on the Hub.

    Raises:
        CheckpointError: one sentence that says what is wrong with it.
    """
    from udc_defense.guides.encoder import GuideEncoder
    from udc_defense.guides.feature import Feature

    folder = resolve(source, "guide")
    config = _read_json(folder / "config.json")
    name = str(config.get("_class_name"))
    if name != GuideEncoder.__name__:
        raise CheckpointError(f"{source}: its architecture {name!r} is not {GuideEncoder.__name__}, a guide's.")
    return Feature(_filled(_built(GuideEncoder, config, source), folder / WEIGHTS, source)).eval()


def is_importable(source: str | Path) -> bool:
    """Whether it means `package.module:attribute`."""
    return bool(IMPORTABLE.fullmatch(str(source))) and not Path(source).exists()


def resolve(source: str | Path, kind: str) -> Path:
    """The local folder of a checkpoint, its files verified: embedded name, then folder, then the Hub."""
    source = _on_hub(source, kind)
    if str(source) in embedded_names(kind):
        folder = EMBEDDED / kind / str(source)
    elif Path(source).is_dir():
        folder = Path(source)
    elif HUB_ID.fullmatch(str(source)) and not Path(source).exists():
        from udc_defense.hub import download

        return download(str(source))
    else:
        names = ", ".join(embedded_names(kind)) or "none"
        raise CheckpointError(
            f"{source}: neither an embedded {kind} ({names}), nor a folder, nor owner/name[@revision] on the Hub."
        )
    verify(folder, source)
    return folder


def _on_hub(source: str | Path, kind: str) -> str | Path:
    """The repository that `UDC_DEFENSE_REPO` makes of a name; every other source as it is."""
    setting, name = os.environ.get(HUB_OWNER), str(source)
    if not setting or isinstance(source, Path) or not NAME.fullmatch(name):
        return source
    if name not in embedded_names(kind) and Path(name).exists():
        return source
    family, at, revision = setting.partition("@")
    repository = f"{family if '/' in family else f'{family}/udc-defense'}-{kind}-{name}{at}{revision}"
    if not HUB_ID.fullmatch(repository):
        raise CheckpointError(f"{HUB_OWNER} {setting!r} is not OWNER or OWNER/PREFIX[@REVISION].")
    return repository


def embedded_names(kind: str) -> list[str]:
    """Names of the checkpoints of a kind (`restorer`, `purifier` or `guide`) that travel with the package."""
    folder = EMBEDDED / kind
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def training_facts(folder: Path) -> dict[str, Any]:
    """What its training left beside a checkpoint: data, steps, time, hardware; empty where it left nothing."""
    path = folder / "training.json"
    return _read_json(path) if path.is_file() else {}


def checksum(folder: Path) -> str:
    """One sha256 for a checkpoint: of its weights file."""
    (weights,) = folder.rglob(WEIGHTS)
    return _sha256(weights)


def source_of(folder: Path) -> str:
    """Where a checkpoint lies: `embedded`, `folder`, or the `owner/name@commit` whose snapshot it is.

    Where `models push` has put these very files on the Hub, their address there is added.
    """
    if snapshot := HUB_CACHE.search(folder.as_posix()):
        owner, name, commit = snapshot.groups()
        return f"{owner}/{name}@{commit}"
    here = "embedded" if folder.is_relative_to(EMBEDDED) else "folder"
    pushed = _read_json(folder / PUSHED) if (folder / PUSHED).is_file() else {}
    same = (folder / CHECKSUMS).is_file() and pushed.get("checksums") == _sha256(folder / CHECKSUMS)
    return f"{here}, also {pushed.get('source')}" if same else here


def record_push(folder: Path, source: str) -> None:
    """Note beside a checkpoint, whose `checksums.json` is right, that `owner/name@commit` holds the same files.

    Raises:
        OSError: the folder cannot be written.
    """
    record = {"source": source, "checksums": _sha256(folder / CHECKSUMS)}
    (folder / PUSHED).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def hub_files(folder: Path) -> list[str]:
    """What belongs to a checkpoint on the Hub, besides `checksums.json` and its card; relative to the folder."""
    found = {path.relative_to(folder).as_posix() for pattern in HUB_FILES for path in folder.rglob(pattern)}
    return sorted(found - {CHECKSUMS, PUSHED})


def weights_sum(source: str | Path, kind: str) -> str:
    """One sha256 for whatever is loaded from a source: of a checkpoint's weights file, or of an imported network.

    Raises:
        CheckpointError: there is no such checkpoint or network.
    """
    if kind == "restorer" and is_importable(source):
        from udc_defense.foreign import imported_sum

        return imported_sum(str(source))
    return checksum(resolve(source, kind))


def checkpoint_sums(restorer: str, *purifiers: str) -> dict[str, str]:
    """sha256 of the weights in use."""
    used = [("restorer", restorer), *(("purifier", name) for name in purifiers)]
    return {f"{kind} {name}": weights_sum(name, kind) for kind, name in used}


def write_checksums(folder: Path) -> None:
    """List size and sha256 of every file that a download brings in the checkpoint's `checksums.json`."""
    files = {name: folder / name for name in hub_files(folder)}
    table = {name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for name, path in files.items()}
    text, path = json.dumps(table, indent=1) + "\n", folder / CHECKSUMS
    if not path.is_file() or path.read_bytes() != text.encode():  # a list that is right may be read-only
        path.write_bytes(text.encode())


def verify(folder: Path, source: str | Path) -> None:
    """Compare every file listed in `checksums.json`, where there is one.

    Raises:
        CheckpointError: a file is missing or differs, or the list is not one.
    """
    for name, fault in faults(folder, source).items():
        raise CheckpointError(f"{source}: its file {name} {fault}; fetch the checkpoint again.")


def faults(folder: Path, source: str | Path) -> dict[str, str]:
    """The listed files that are not what `checksums.json` says, and what is wrong with each; none without a list.

    Raises:
        CheckpointError: the list is not one.
    """
    if not (folder / CHECKSUMS).is_file():
        return {}
    found = {}
    for name, expected in _read_json(folder / CHECKSUMS).items():
        path = folder / name
        if not isinstance(expected, dict) or not expected.keys() >= {"bytes", "sha256"}:
            raise CheckpointError(f"{source}: its {CHECKSUMS} lacks size or sha256 of {name}.")
        if not path.is_file():
            found[name] = "is missing"
        elif path.stat().st_size != expected["bytes"] or _sha256(path) != expected["sha256"]:
            found[name] = "is damaged (sha256 differs)"
    return found


def _built(cls: Any, config: dict[str, Any], source: str | Path) -> Any:
    """An object from its configuration; whatever a stranger's values make the constructor raise is one sentence."""
    try:
        return cls.from_config(config)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    except Exception as error:
        raise CheckpointError(f"{source}: its configuration does not describe a {cls.__name__}.") from error


def _filled(network: Any, path: Path, source: str | Path) -> Any:
    """Load weights strictly, as float32."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"{source}: has no {path.name}.")
    try:
        state = {key: value.float() for key, value in load_file(path).items()}
        network.load_state_dict(state, strict=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{source}: its weights cannot be read ({error}).") from error
    except RuntimeError as error:
        raise CheckpointError(f"{source}: its weights do not fit its configuration.") from error
    # Convolutions on the CPU are a sixth faster in this order of memory.
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: has no {path.name}.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no JSON object.")
    return value


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
