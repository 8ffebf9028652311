"""A name, a folder or `owner/name[@revision]` on the Hugging Face Hub -> verified weights, loaded.

A checkpoint is a folder in diffusers' layout: a restorer and the encoder of a guide have `config.json` and
`diffusion_pytorch_model.safetensors`, a purifier `unet/` and `scheduler/`. `checksums.json` beside them lists size and
sha256 of every file; the client of the Hub checks sizes only. Weights are safetensors, nothing else is opened.
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
WEIGHTS = "diffusion_pytorch_model.safetensors"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
HUB_FILES = ["*.json", "*.safetensors"]
HUB_TIMEOUT = 10.0


def load_restorer(source: str | Path = "default") -> Restorer:
    """A restorer in evaluation mode, float32, on the CPU.

    Args:
        source: an embedded name, a folder, or `owner/name[@revision]` on the Hub.

    Raises:
        CheckpointError: one sentence that says what is wrong with it.
    """
    from udc_defense.restorers import restorer_class

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


def resolve(source: str | Path, kind: str) -> Path:
    """The local folder of a checkpoint, its files verified: embedded name, then folder, then the Hub."""
    if str(source) in embedded_names(kind):
        folder = EMBEDDED / kind / str(source)
    elif Path(source).is_dir():
        folder = Path(source)
    elif HUB_ID.fullmatch(str(source)) and not Path(source).exists():
        folder = _download(str(source))
    else:
        names = ", ".join(embedded_names(kind)) or "none"
        raise CheckpointError(
            f"{source}: neither an embedded {kind} ({names}), nor a folder, nor owner/name[@revision] on the Hub."
        )
    verify(folder, source)
    return folder


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


def write_checksums(folder: Path) -> None:
    """List size and sha256 of every file that a download brings in the checkpoint's `checksums.json`."""
    files = sorted(path for pattern in HUB_FILES for path in folder.rglob(pattern) if path.name != CHECKSUMS)
    table = {p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in files}
    (folder / CHECKSUMS).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def verify(folder: Path, source: str | Path) -> None:
    """Compare every file listed in `checksums.json`, where there is one.

    Raises:
        CheckpointError: a file is missing or differs, or the list is not one.
    """
    if not (folder / CHECKSUMS).is_file():
        return
    for name, expected in _read_json(folder / CHECKSUMS).items():
        path = folder / name
        if not isinstance(expected, dict) or not expected.keys() >= {"bytes", "sha256"}:
            raise CheckpointError(f"{source}: its {CHECKSUMS} lacks size or sha256 of {name}.")
        if not path.is_file():
            raise CheckpointError(f"{source}: its file {name} is missing; fetch the checkpoint again.")
        if path.stat().st_size != expected["bytes"] or _sha256(path) != expected["sha256"]:
            raise CheckpointError(f"{source}: its file {name} is damaged (sha256 differs); fetch the checkpoint again.")


def _download(source: str) -> Path:
    """A snapshot of a Hub repository: from the cache when the revision is there, else from the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo, _, revision = source.partition("@")
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision or None,
                allow_patterns=HUB_FILES,
                etag_timeout=HUB_TIMEOUT,
                endpoint=endpoint,
            )
        )
    except GatedRepoError as error:
        raise CheckpointError(f"{source}: gated; accept its terms on the Hub, then `hf auth login`.") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{source}: no such repository on the Hub, or it is private.") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{source}: the repository has no revision {revision!r}.") from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(f"{source}: the Hub cannot be reached and the cache does not hold it.") from error
    except HFValidationError as error:
        raise CheckpointError(f"{source}: not a valid name of a repository.") from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{source}: the download failed ({type(error).__name__}); try again.") from error


def _built(cls: Any, config: dict[str, Any], source: str | Path) -> Any:
    """An object from its configuration; whatever a stranger's values make the constructor raise is one sentence."""
    try:
        return cls.from_config(config)
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
