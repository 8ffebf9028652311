"""Names -> networks, loaded: the one place where weights are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from udc_defense.checkpoints.files import WEIGHTS, read_json, training_facts, verified_sum
from udc_defense.checkpoints.foreign import imported, imported_sum
from udc_defense.checkpoints.resolve import resolve
from udc_defense.errors import CheckpointError, SettingError
from udc_defense.guides import GUIDES, Guide
from udc_defense.guides.encoder import GuideEncoder
from udc_defense.guides.feature import Feature
from udc_defense.memory import in_own_memory
from udc_defense.optics import Panel
from udc_defense.purifiers import SAMPLERS
from udc_defense.purifiers.diffusion import DiffusionPurifier
from udc_defense.restorers import CLASSICAL, RESTORERS, restorer_class
from udc_defense.restorers.base import Restorer
from udc_defense.sizes import check_sizes

UNET = "unet"  # where a purifier's network lies in its folder, beside which a pipeline may have a restorer
IMPORTABLE = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


def load_restorer(source: str | Path = "default", *, panel: Panel | None = None) -> Restorer:
    """A restorer in evaluation mode, float32, on the CPU.

    Args:
        source: an embedded name, a folder, or `owner/name[@revision]` on the Hub; or `package.module:attribute`, an
            `nn.Module` or a class of such that takes no arguments, which runs code of that package; or a filter
            without weights, `wiener` or `richardson_lucy`.
        panel: the display that it looks through, for restorers that know the optics; without it they are blind.

    Raises:
        CheckpointError: one sentence that says what is wrong with it.
    """
    return _restorer(source).for_panel(panel)


def _restorer(source: str | Path) -> Restorer:
    if str(source) in CLASSICAL:
        return RESTORERS.get(str(source))().eval()
    if is_importable(source):
        restorer = imported(str(source))
        restorer.sha256 = imported_sum(str(source))
        return restorer
    folder = resolve(source, "restorer")
    config = read_json(folder / "config.json")
    name = str(config.get("_class_name"))
    network_class = restorer_class(name)
    if network_class is None:
        raise CheckpointError(f"{source}: its architecture {name!r} is not a restorer known here.")
    restorer = _filled(_built(network_class, config, source), folder / WEIGHTS, source)
    restorer.sha256 = verified_sum(folder)
    try:
        restorer.check()
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    return restorer


def load_purifier(
    source: str | Path = "diffusion", *, sampler: str = "one_step", guide: str | Guide | None = None, **options: Any
) -> DiffusionPurifier:
    """A purifier in evaluation mode, float32, on the CPU.

    Args:
        source: an embedded name, a folder, or `owner/name[@revision]` on the Hub.
        sampler: name of a file of `udc_defense.purifiers`.
        guide: what keeps the result near the input: name of a file of `udc_defense.guides`, or a `Guide`.
        options: noise_level, steps, draws, aggregate and guidance of `DiffusionPurifier`, and the sampler's own.

    Raises:
        CheckpointError: one sentence that says what is wrong with it.
        SettingError: an option is out of range or a name unknown.
    """
    options |= {"sampler": SAMPLERS.get(sampler), "guide": named_guide(guide) if isinstance(guide, str) else guide}
    folder = resolve(source, "purifier")
    network = _built(UNet2DModel, read_json(folder / UNET / "config.json"), source)
    scheduler = _built(DDPMScheduler, read_json(folder / "scheduler" / "scheduler_config.json"), source)
    if not bool(((scheduler.betas > 0) & (scheduler.betas < 1)).all()):
        raise CheckpointError(f"{source}: the noise of its schedule is not in 0…1 at every step.")
    if scheduler.config["prediction_type"] not in ("epsilon", "sample"):
        raise CheckpointError(f"{source}: predicts {scheduler.config['prediction_type']!r}, not epsilon or sample.")
    last_timestep = training_facts(folder).get("last_timestep")
    if last_timestep is not None and (not isinstance(last_timestep, int) or last_timestep < 1):
        raise CheckpointError(f"{source}: last_timestep {last_timestep!r} in its training.json is no timestep.")
    _filled(network, folder / UNET / WEIGHTS, source)
    purifier = DiffusionPurifier(network, scheduler, last_timestep=last_timestep, **options).eval()
    purifier.sha256 = verified_sum(folder, UNET)
    return purifier


def load_guide(source: str | Path = "default") -> Feature:
    """The guide `feature` with a trained encoder, in evaluation mode, float32, on the CPU.

    Args:
        source: an embedded name, a folder, or `owner/name[@revision]` on the Hub.

    Raises:
        CheckpointError: one sentence that says what is wrong with it.
    """
    folder = resolve(source, "guide")
    config = read_json(folder / "config.json")
    name = str(config.get("_class_name"))
    if name != GuideEncoder.__name__:
        raise CheckpointError(f"{source}: its architecture {name!r} is not {GuideEncoder.__name__}, a guide's.")
    return Feature(_filled(_built(GuideEncoder, config, source), folder / WEIGHTS, source)).eval()


def named_guide(name: str) -> Guide:
    """The guide of a file of `udc_defense.guides`; that of `feature` has the embedded encoder.

    Raises:
        CheckpointError: the network that the guide needs is missing or damaged.
        SettingError: the name is unknown.
    """
    method = GUIDES.get(name)
    return load_guide() if method is Feature else method()


def is_importable(source: str | Path) -> bool:
    """Whether it means `package.module:attribute`."""
    return bool(IMPORTABLE.fullmatch(str(source))) and not Path(source).exists()


def weights_sum(source: str | Path, kind: str) -> str:
    """One sha256 for whatever is loaded from a source: of a checkpoint's weights file, or of an imported network.

    Raises:
        CheckpointError: there is no such checkpoint or network.
    """
    if kind == "restorer" and is_importable(source):
        return imported_sum(str(source))
    return verified_sum(resolve(source, kind), UNET if kind == "purifier" else "")


def checkpoint_sums(restorer: str, *purifiers: str) -> dict[str, str]:
    """sha256 of the weights in use."""
    used = [("restorer", restorer), *(("purifier", name) for name in purifiers)]
    return {f"{kind} {name}": weights_sum(name, kind) for kind, name in used}


def _built(cls: Any, config: dict[str, Any], source: str | Path) -> Any:
    """An object from its configuration; whatever a stranger's values make the constructor raise is one sentence."""
    try:
        check_sizes(cls, config)
        return cls.from_config(config)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    except SettingError as error:
        reason = str(error).rstrip(".")
        raise CheckpointError(f"{source}: its configuration does not describe a {cls.__name__}: {reason}.") from error
    except Exception as error:
        raise CheckpointError(f"{source}: its configuration does not describe a {cls.__name__}.") from error


def _filled(network: Any, path: Path, source: str | Path) -> Any:
    """Load weights strictly, as float32."""
    if not path.is_file():
        raise CheckpointError(f"{source}: has no {path.name}.")
    try:
        state = {key: value.float() for key, value in load_file(path).items()}
        check_finite(state, source)
        network.load_state_dict(state, strict=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{source}: its weights cannot be read ({error}).") from error
    except RuntimeError as error:
        raise CheckpointError(f"{source}: its weights do not fit its configuration.") from error
    network.register_state_dict_post_hook(_contiguous)
    return in_own_memory(network.eval().requires_grad_(False))


def _contiguous(network: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """In a state dict tensors have the order in memory that writers of files ask for, whatever the network's own."""
    for name, value in state.items():
        if name.startswith(prefix):
            state[name] = value.contiguous()


def check_finite(state: Mapping[str, Any], source: str | Path) -> None:
    """Refuse weights that are no numbers.

    Raises:
        CheckpointError: one is NaN or infinite.
    """
    for name, value in state.items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{source}: its weights are damaged, {name} holds values that are no numbers.")
