"""The defense as a diffusers pipeline: `UDCDefensePipeline.from_pretrained("default")(photo).images[0]`.

A folder without a restorer calls itself a `DDPMPipeline`, which stock diffusers loads; one with a restorer calls itself
what it is, because stock diffusers would drop the restorer without a word.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, ModelMixin, UNet2DModel
from diffusers.utils import BaseOutput
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from udc_defense.checkpoints.files import embedded_names, read_json, training_facts, write_checksums
from udc_defense.checkpoints.load import check_finite, load_restorer, named_guide
from udc_defense.checkpoints.resolve import resolve
from udc_defense.errors import CheckpointError, ImageError, SettingError, UDCDefenseError
from udc_defense.images import read_image, to_pil
from udc_defense.memory import in_own_memory
from udc_defense.noise import Generators, check_generator
from udc_defense.output import write_json
from udc_defense.purification import DEFAULT
from udc_defense.purifiers import SAMPLERS
from udc_defense.purifiers.diffusion import Aggregate, DiffusionPurifier
from udc_defense.restorers import RESTORERS, restorer_class
from udc_defense.restorers.base import Restorer
from udc_defense.sizes import check_sizes

Picture = Image.Image | np.ndarray | Tensor
Pictures = list[Image.Image] | np.ndarray | Tensor
OutputType = Literal["pil", "pt", "np"]
StepCallback = Callable[["UDCDefensePipeline", int, int, dict[str, Any]], Any]

DEFAULTS = ("sampler", "noise_level", "num_inference_steps")
DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
STOCK_CLASS = "DDPMPipeline"


def __getattr__(name: str) -> type[Restorer]:
    """The classes of restorers, by which an index names them.

    diffusers loads a component from a module that holds its class and, beside it, `ModelMixin`.
    """
    found = restorer_class(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found


@dataclass
class UDCDefenseOutput(BaseOutput):
    """What a call gives, in the type that was asked for: PIL images, an array (B, H, W, 3) or a tensor (B, 3, H, W).

    Attributes:
        images: restored captures; the same as `purified` where no restorer ran.
        purified: what the purifier left of the captures.
    """

    images: Pictures
    purified: Pictures


class UDCDefensePipeline(DiffusionPipeline):
    """restorer(purifier(capture)), with diffusers' loading, saving, moving and calling.

    The pipeline knows no gradients: `udc_defense.Defense` is the differentiable form of the same.

    Args:
        unet: predicts ε, or x_0 itself, from x_t in [-1, 1].
        scheduler: gives the betas, and with `prediction_type` what is predicted: `epsilon` or `sample`.
        restorer: purified capture -> restored image; without it the pipeline returns the purified capture.
        sampler: what a call takes where it names none; so are the next two.
        noise_level: number of forward steps; 0 is the identity.
        num_inference_steps: of the samplers that can choose.
        last_timestep: the network was trained below this timestep; a higher noise level is refused. A stock pipeline
            does not know it: say it to `from_pipe`.

    Raises:
        CheckpointError: the scheduler predicts something other than ε or x_0, or `last_timestep` is no whole number.
    """

    model_cpu_offload_seq = "unet->restorer"
    _optional_components = ["restorer"]

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DDPMScheduler,
        restorer: Restorer | None = None,
        sampler: str = "one_step",
        noise_level: int = 30,
        num_inference_steps: int = 5,
        last_timestep: int | None = None,
    ) -> None:
        super().__init__()
        predicts = scheduler.config.get("prediction_type")
        if predicts not in ("epsilon", "sample"):
            raise CheckpointError(f"The scheduler predicts {predicts!r}, not epsilon or sample.")
        if not isinstance(last_timestep, int | None):
            raise CheckpointError(f"last_timestep {last_timestep!r} is not a whole number.")
        self.register_modules(unet=unet, scheduler=scheduler, restorer=restorer)
        self.register_to_config(
            sampler=sampler,
            noise_level=noise_level,
            num_inference_steps=num_inference_steps,
            last_timestep=last_timestep,
        )
        self._interrupt = False

    @property
    def interrupt(self) -> bool:
        """The running call, or the last one, was told to stop."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        image: Picture | list[Picture],
        noise_level: int | None = None,
        num_inference_steps: int | None = None,
        generator: Generators = None,
        *,
        sampler: str | None = None,
        draws: int = 1,
        aggregate: Aggregate = "mean",
        guide: str | torch.nn.Module | None = None,
        guidance: float = 0.0,
        restore: bool = True,
        output_type: OutputType = "pil",
        callback_on_step_end: StepCallback | None = None,
        return_dict: bool = True,
        **options: Any,
    ) -> UDCDefenseOutput | tuple[Pictures, Pictures]:
        """Purify captures and restore them, without gradients; `udc_defense.Defense` has them.

        Args:
            image: PIL images, arrays (H, W, 3) or (B, H, W, 3), tensors (3, H, W) or (B, 3, H, W), or a list of such of
                one size; floats in [0, 1], or uint8.
            noise_level: number of forward steps t*, 0 up to what the network was trained for; 30 unless the pipeline
                was made with another.
            num_inference_steps: of the samplers that can choose; 5 unless the pipeline was made with another.
            generator: a CPU generator, or one per sample: then the noise of a sample does not depend on its batch.
            sampler: `one_step`, `ddim`, `ddpm`, …; `one_step` unless the pipeline was made with another.
            draws: independent purifications, aggregated pixel by pixel.
            aggregate: `mean` or `median` over the draws.
            guide: what keeps the purified capture near its input: name of a file of `udc_defense.guides`, or a `Guide`,
                which moves to the pipeline's device.
            guidance: its strength, from 0, none at all.
            restore: False leaves the restorer out.
            output_type: `pil` (8 bit), `pt` (float32, where the networks are) or `np` (float32). The last two hold the
                networks' values, which may lie a little outside [0, 1].
            callback_on_step_end: called as (pipeline, step from 0, timestep, {"image": (B, 3, H, W)}) after each
                network evaluation; the image is that of `PurifyStep`, to look at: what comes back is not used. It stops
                the call by `pipeline._interrupt = True`: then both outputs are the image of that step, in general still
                noisy, and no restorer runs.
            return_dict: False gives a tuple (images, purified).
            options: the sampler's own, such as `eta` of `ddim`.

        Raises:
            CheckpointError: the network that the guide of a name needs is missing or damaged.
            ImageError: an image that is none, or of another shape or range.
            SettingError: a parameter is out of range or a name unknown.
        """
        if output_type not in ("pil", "pt", "np"):
            raise SettingError(f"output_type {output_type!r} is not one of pil, pt, np.")
        check_generator(generator)
        purifier = self._purifier(
            sampler=sampler,
            noise_level=noise_level,
            num_inference_steps=num_inference_steps,
            draws=draws,
            aggregate=aggregate,
            guide=guide,
            guidance=guidance,
            **options,
        )
        self._interrupt = False
        captures = _batch(image).to(self._execution_device)
        purified = self._purified(purifier, captures, generator, callback_on_step_end)
        restored = self._restored(purified) if restore and not self.interrupt else purified
        self.maybe_free_model_hooks()
        output = UDCDefenseOutput(_converted(restored, output_type), _converted(purified, output_type))
        return output if return_dict else (output.images, output.purified)

    def _purifier(self, **settings: Any) -> _Purifier:
        for name in DEFAULTS:
            if settings[name] is None:
                settings[name] = self.config[name]
        for name in ("noise_level", "num_inference_steps", "draws"):
            if not isinstance(settings[name], int):
                raise SettingError(f"{name} {settings[name]!r} is not a whole number.")
        steps, guide = settings.pop("num_inference_steps"), settings.pop("guide")
        settings["sampler"] = SAMPLERS.get(settings["sampler"])
        settings["guide"] = named_guide(guide) if isinstance(guide, str) else guide
        last_timestep = self.config["last_timestep"]
        purifier = _Purifier(self.unet, self.scheduler, steps=steps, last_timestep=last_timestep, **settings)
        if purifier.guide is not None:
            purifier.guide.to(self._execution_device)
        return purifier

    def _purified(
        self, purifier: _Purifier, captures: Tensor, generator: Generators, callback: StepCallback | None
    ) -> Tensor:
        purified = captures
        with self.progress_bar(total=purifier.evaluations) as bar:
            for state in purifier.iterate(captures, generator=generator):
                purified = state.image
                bar.update()
                if callback is not None:
                    callback(self, state.step - 1, purifier.timestep, {"image": purified})
                if self.interrupt:
                    break
        return purified

    def _restored(self, purified: Tensor) -> Tensor:
        if self.restorer is None:
            return purified
        return self.restorer(purified.to(self.restorer.device, self.restorer.dtype)).to(purified)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """A pipeline in evaluation mode, float32 and on the CPU unless said otherwise.

        Args:
            pretrained_model_name_or_path: `default`, the default defense; an embedded purifier, `diffusion` or
                `direct`, with the default restorer; a folder saved by this class or by `DDPMPipeline`; or
                `owner/name[@revision]` on the Hub.
            kwargs: `revision` of a Hub repository, components, what `__init__` takes, and diffusers' options of loading
                (`torch_dtype`, `variant`, `device_map`, …). Downloads take their settings from the environment
                (`HF_TOKEN`, `HF_HOME`, `HF_HUB_OFFLINE`). Weights are safetensors, nothing else is opened.

        Raises:
            CheckpointError: one sentence that says what is wrong with it.
            SettingError: an option of diffusers that has no place here.
        """
        source = os.fspath(pretrained_model_name_or_path)
        purifier = DEFAULT.weights if source == "default" else source
        folder = _located(purifier, kwargs)
        if not kwargs.pop("use_safetensors", True):
            raise SettingError("use_safetensors False: weights of other kinds are not opened.")
        with _one_sentence(source):
            options = _saved_settings(folder, source) | kwargs
            # Building networks without memory needs `accelerate`, an extra; these are small.
            options.setdefault("low_cpu_mem_usage", kwargs.get("device_map") is not None)
            if purifier in embedded_names("purifier") and "restorer" not in kwargs:
                options["restorer"] = _embedded_restorer("default", kwargs)
            if purifier == DEFAULT.weights:
                options.setdefault("noise_level", DEFAULT.noise_level)
            pipeline = super().from_pretrained(folder, use_safetensors=True, **options)
            for name in {"unet", "restorer"} - options.keys():
                _settle(getattr(pipeline, name), folder / name, source)
        pipeline.register_to_config(_name_or_path=source)
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """The same networks in a pipeline of this class, nothing copied.

        Args:
            pipeline: a stock `DDPMPipeline`, or one of this class.
            kwargs: components and settings that differ, such as `restorer` or `last_timestep`. The dtype stays as it
                is, where diffusers would turn the shared networks to float32.

        Raises:
            CheckpointError: its scheduler predicts something other than ε or x_0.
        """
        if not kwargs.keys() & {"dtype", "torch_dtype"}:
            kwargs["dtype"] = pipeline.dtype
        # diffusers hands on components of exactly the annotated class, and a restorer is of a subclass.
        kwargs.setdefault("restorer", pipeline.components.get("restorer"))
        return super().from_pipe(pipeline, **kwargs)

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write `model_index.json` and what lies beside it; `save_pretrained` calls this last, before an upload.

        Without a restorer the settings are private keys, which stock diffusers passes over in silence.
        `training.json` tells `load_purifier` the last timestep.
        """
        path = Path(json_file_path)
        index = json.loads(self.to_json_string())
        last_timestep = index.pop("last_timestep")
        if self.restorer is not None:
            index["restorer"] = [__name__, type(self.restorer).__name__]
        else:
            del index["restorer"]
            index = {f"_{key}" if key in DEFAULTS else key: value for key, value in index.items()}
            index["_class_name"] = STOCK_CLASS
        _write_json(path, index)
        _write_json(path.parent / "training.json", {"last_timestep": last_timestep})
        write_checksums(path.parent)


class _Purifier(DiffusionPurifier):
    """Tells the timestep of its last evaluation; the image stays float32 whatever the network's dtype."""

    timestep = -1

    def _predict(self, x: Tensor, t: int) -> Tensor:
        self.timestep = t
        return super()._predict(x.to(self.network.dtype), t).to(x)


def _located(source: str, options: dict[str, Any]) -> Path:
    """The verified folder of a source; takes `revision` and the options of a download out of the others."""
    revision = options.pop("revision", None)
    given = [name for name in DOWNLOAD_OPTIONS if options.pop(name, None)]
    if source in embedded_names("purifier") or Path(source).is_dir():
        return resolve(source, "purifier")
    if given:
        raise SettingError(f"{given[0]}: downloads take their settings from the environment (HF_TOKEN, HF_HOME, …).")
    return resolve(f"{source}@{revision}" if revision else source, "purifier")


def _saved_settings(folder: Path, source: str) -> dict[str, Any]:
    """The settings that diffusers does not find by itself, of a folder whose index names nothing strange.

    diffusers imports what an index names, and that may come from a stranger.
    """
    name = UDCDefensePipeline.config_name
    if not (folder / name).is_file():
        raise CheckpointError(f"{source}: has no {name}.")
    index = read_json(folder / name)
    restorers = [[__name__, known.__name__] for known in map(RESTORERS.get, RESTORERS.names())]
    allowed: dict[str, list[Any]] = {
        "_class_name": [STOCK_CLASS, UDCDefensePipeline.__name__],
        "unet": [["diffusers", "UNet2DModel"]],
        "scheduler": [["diffusers", "DDPMScheduler"]],
        "restorer": [None, [None, None], *restorers],
    }
    for key, values in allowed.items():
        if index.get(key) not in values:
            raise CheckpointError(f"{source}: the {key} {index.get(key)!r} in its {name} is none for this pipeline.")
    _check_configurations(folder, index, source)
    private = {key: index[f"_{key}"] for key in DEFAULTS if f"_{key}" in index}
    return private | {"last_timestep": training_facts(folder).get("last_timestep")}


def _check_configurations(folder: Path, index: dict[str, Any], source: str) -> None:
    """Refuse sizes that are none before diffusers builds what they say."""
    networks: dict[str, Any] = {"unet": UNet2DModel}
    if (index.get("restorer") or [None])[0] is not None:
        networks["restorer"] = restorer_class(index["restorer"][1])
    for name, network in networks.items():
        try:
            check_sizes(network, read_json(folder / name / "config.json"))
        except SettingError as error:
            raise CheckpointError(f"{source}: its {name} cannot be built: {error}") from error


def _settle(network: ModelMixin | None, folder: Path, source: str) -> None:
    """Give what was read memory of its own; refuse files that lack weights, where diffusers leaves random ones."""
    if network is None:
        return
    stored: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            stored |= set(file.keys())
    if not network.state_dict().keys() <= stored:
        raise CheckpointError(f"{source}: its weights do not fit its configuration.")
    check_finite(network.state_dict(), source)
    in_own_memory(network)


@contextmanager
def _one_sentence(source: str) -> Iterator[None]:
    """Whatever a stranger's files make diffusers raise, in a sentence."""
    try:
        yield
    except UDCDefenseError:
        raise
    except Exception as error:
        raise CheckpointError(f"{source}: does not load as a pipeline ({type(error).__name__}).") from error


def _embedded_restorer(name: str, options: dict[str, Any]) -> Restorer:
    """In what diffusers' `dtype` or `torch_dtype` means for a restorer."""
    dtype = options.get("dtype", options.get("torch_dtype"))
    if isinstance(dtype, dict):
        dtype = dtype.get("restorer", dtype.get("default"))
    restorer = load_restorer(name)
    # Not its own `to`, which warns of layers to keep in float32 even where there are none.
    return restorer if dtype is None else torch.nn.Module.to(restorer, dtype)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_json(path, value, indent=2, sort_keys=True)


def _batch(image: Picture | list[Picture]) -> Tensor:
    """Any accepted images as float32 (B, 3, H, W)."""
    parts = [_captures(part) for part in (image if isinstance(image, list) else [image])]
    if not parts:
        raise ImageError("The list holds no images.")
    sizes = {f"{part.shape[-1]}x{part.shape[-2]}" for part in parts}
    if len(sizes) > 1:
        raise ImageError(f"{' and '.join(sorted(sizes))} pixels in one batch: its images must have one size.")
    return torch.cat(parts)


def _captures(image: Picture) -> Tensor:
    if isinstance(image, Image.Image):
        return read_image(image)
    if not isinstance(image, np.ndarray | Tensor):
        raise ImageError(f"A {type(image).__name__} is no PIL image, array or tensor.")
    values = _from_array(image) if isinstance(image, np.ndarray) else image
    values = values[None] if values.dim() == 3 else values
    if values.dim() != 4 or values.shape[1] != 3 or not values.numel():
        wanted = "(B, H, W, 3)" if isinstance(image, np.ndarray) else "(B, 3, H, W)"
        raise ImageError(f"Images of shape {tuple(image.shape)} are not {wanted}.")
    values = values.float() / (255 if values.dtype == torch.uint8 else 1)
    low, high = (float(value) for value in values.aminmax())
    if not (low >= 0 and high <= 1):
        raise ImageError(f"Values from {low:.4g} to {high:.4g} are not in 0…1.")
    return values


def _from_array(array: np.ndarray) -> Tensor:
    try:
        values = torch.from_numpy(np.array(array, order="C"))
    except (TypeError, ValueError) as error:
        raise ImageError(f"An array of {array.dtype} is no image.") from error
    return values.movedim(-1, -3) if values.dim() >= 3 else values


def _converted(images: Tensor, output_type: OutputType) -> Pictures:
    if output_type == "pt":
        return images
    if output_type == "np":
        return images.movedim(1, -1).cpu().numpy()
    return [to_pil(image) for image in images]
