"""An official checkpoint of a published restorer, a pickle -> a folder that `load_restorer` opens.

The pickle is opened for plain weights alone. Which network they are, and of which configuration, is read from names and
shapes; nothing is written unless every one of them fits.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udc_defense.checkpoints.files import WEIGHTS, write_checksums
from udc_defense.errors import CheckpointError, SettingError

if TYPE_CHECKING:
    from torch import Tensor

    from udc_defense.restorers import Restorer

    State = dict[str, Tensor]

Shapes = Mapping[str, tuple[int, ...]]
Config = dict[str, Any]

# Where training code keeps the weights in its file, the averaged ones first: those are what is published.
CONTAINERS = ("params_ema", "ema", "params", "state_dict", "model_state_dict", "net_g", "netG", "generator", "model")
SPANDREL = "spandrel"  # the registry's name of all that is recognised by that library
# What wrappers for several GPUs, compilers and training loops put before every name.
PREFIXES = ("module.", "_orig_mod.", "net_g.", "netG.", "generator.", "model.")
FEW = 3  # names that a message lists


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        folder: the new checkpoint.
        architecture: name of the network in the registry of restorers.
        parameters: their number.
        config: the network's whole configuration.
        assumed: the part of `config` that is not in the weights and that nobody gave: its default.
    """

    folder: Path
    architecture: str
    parameters: int
    config: Config
    assumed: Config


@dataclass(frozen=True)
class Layout:
    """How to recognise a network.

    Attributes:
        marks: names that it has and no other network here.
        configure: its configuration from shapes; may raise whatever a missing name or an odd shape raises.
        untold: settings that leave no trace in the weights.
    """

    marks: frozenset[str]
    configure: Callable[[Shapes], Config]
    untold: tuple[str, ...] = ()


def convert(
    source: Path | str,
    out: Path | str,
    architecture: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Conversion:
    """Write an official `.pth` as `config.json`, `diffusion_pytorch_model.safetensors` and `checksums.json`, float32.

    Args:
        source: what `torch.save` wrote: a state dict, or one in a usual container, with or without wrappers' prefixes
            and weight norm.
        out: a folder that does not exist or is empty; it appears complete or not at all.
        architecture: a name in `LAYOUTS` or `spandrel`, where the weights are not to be asked which network they are.
        settings: values of what the weights do not tell: `psf_code` of discnet and udc_unet, `img_size` and
            `shift_flag` of uformer, `window` of nafnet.

    Raises:
        CheckpointError: the file is no checkpoint, holds more than plain weights, or fits no network.
        SettingError: an unknown architecture or setting, or `out` holds something.
    """
    source, out, settings = Path(source), Path(out), dict(settings or {})
    if architecture not in (None, SPANDREL, *LAYOUTS):
        raise SettingError(f"architecture {architecture!r} is not one of {', '.join((*LAYOUTS, SPANDREL))}.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise SettingError(f"{out}: exists and is not an empty folder.")
    weights = _weights_in(_load(source), source)
    state = _plain_names(weights)
    shapes = _shapes(state)
    name = architecture or _recognise(shapes)
    _check_settings(name, settings)
    if name == SPANDREL:
        network = _by_spandrel(weights, source)
        state = network.state_dict()
    else:
        network = _build(name, shapes, settings, source)
    fitted = _fit(state, network, name, source)
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    _write(network, fitted, out, source)
    return Conversion(
        folder=out,
        architecture=name,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        config=config,
        assumed={key: config[key] for key in _untold(name) if key not in settings},
    )


# --- From the file to named tensors -----------------------------------------------------------------------------------


def _load(source: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Files from before PyTorch 1.6 are no zip archives and cannot be mapped into memory.
            return torch.load(source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
    except OSError as error:
        raise CheckpointError(f"{source}: cannot be read ({error.strerror or error}).") from error
    except Exception as error:  # a stranger's bytes make the reader raise anything
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{source}: refused, as besides plain weights it holds {refused[1]!r}, and loading that may run code."
            ) from error
        raise CheckpointError(f"{source}: not a checkpoint of PyTorch, or a truncated one.") from error


def _weights_in(content: Any, source: Path) -> State:
    """The state dict inside whatever the training code saved."""
    import torch

    for _ in CONTAINERS:  # a bound: a pickle can hold itself
        inner = [content[name] for name in CONTAINERS if isinstance(content, dict) and name in content]
        content = next((value for value in inner if isinstance(value, dict)), content)
    if not isinstance(content, dict) or not any(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(f"{source}: holds no weights.")
    for name, value in content.items():
        if not isinstance(name, str) or not _is_plain(value):
            raise CheckpointError(f"{source}: its entry {str(name)[:80]!r} is no plain tensor.")
    return content


def _is_plain(value: Any) -> bool:
    """Whether it is a dense tensor on the CPU that claims no more values than the file brought."""
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _plain_names(state: State) -> State:
    """Names without what wrappers put before them; one spelling of weight norm, the older."""
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    new = "parametrizations.weight.original"
    return {name.replace(f"{new}0", "weight_g").replace(f"{new}1", "weight_v"): v for name, v in state.items()}


def _shapes(state: State) -> Shapes:
    """Shapes by name, those of weights under weight norm too."""
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    return {name.removesuffix("_v"): shape for name, shape in shapes.items() if name.endswith(".weight_v")} | shapes


# --- From shapes to a network -----------------------------------------------------------------------------------------


def _recognise(shapes: Shapes) -> str:
    found = [name for name, layout in LAYOUTS.items() if layout.marks <= shapes.keys()]
    return found[0] if len(found) == 1 else SPANDREL


def _by_spandrel(weights: State, source: Path) -> Restorer:
    """The network with its weights; the names are as in the file, for spandrel has an own idea of wrappers."""
    from udc_defense.restorers.spandrel import recognised

    try:
        return recognised(weights)
    except CheckpointError as error:
        raise CheckpointError(
            f"{source}: its weights ({_few(weights)}) are of no network known here ({', '.join(LAYOUTS)}) "
            f"and not taken by spandrel: {error}"
        ) from error


def _untold(name: str) -> tuple[str, ...]:
    return LAYOUTS[name].untold if name in LAYOUTS else ()


def _check_settings(name: str, settings: Config) -> None:
    for key, value in settings.items():
        if key not in _untold(name):
            open_ones = ", ".join(_untold(name)) or "none"
            raise SettingError(f"{key!r} is not a setting that weights of {name} leave open ({open_ones}).")
        values = value if isinstance(value, list | tuple) else [value]
        if not all(v is None or (isinstance(v, int | float) and math.isfinite(v)) for v in values):
            raise SettingError(f"{key} = {value!r} is not made of numbers.")


def _build(name: str, shapes: Shapes, settings: Config, source: Path) -> Restorer:
    """The network without memory for its weights."""
    import torch

    from udc_defense.restorers import RESTORERS

    try:
        config = LAYOUTS[name].configure(shapes)
    except (LookupError, ArithmeticError, ValueError):
        config = {}  # the published one: comparing with it says what is missing
    try:
        with torch.device("meta"):
            return RESTORERS.get(name)(**config | settings)
    except Exception as error:  # numbers that no constructor expects
        raise CheckpointError(f"{source}: the configuration of its weights is not one of {name}.") from error


def _discnet(shapes: Shapes) -> Config:
    width = shapes["conv_11.0.weight"][0]
    return {
        "width": width,
        "filter_size": _side(shapes["dynamic_kernel1.3.0.weight"][0], width),
        "psf_code": _code(shapes["kconv_11.0.weight"][1] - 3),
    }


def _udc_unet(shapes: Shapes) -> Config:
    width = shapes["conv_first.0.weight"][0]
    stages = [
        *(f"enconv_layer{scale}." for scale in range(3)),
        "Bottom_conv.",
        *(f"deconv_layer{scale}." for scale in reversed(range(3))),
    ]
    return {
        "width": width,
        "depths": [_count(shapes, stage) for stage in stages],
        "filter_size": _side(shapes["KNet0.6.weight"][0], width),
        "psf_code": _code(shapes["k_head.0.weight"][1] - 3),
    }


def _bnudc(shapes: Shapes) -> Config:
    low = shapes["shallow_sub.0.weight"][0]
    return {
        "n_feat_high": shapes["shallow_feat.0.weight"][0],
        "n_feat_low": low,
        "scale_feats": shapes["encoder_sub.down12.down.1.weight"][0] - low,
        "num_blk": _count(shapes, "orsnet.orb1.body.") - 1,  # after the blocks comes a convolution
    }


def _uformer(shapes: Shapes) -> Config:
    stages = [
        *(f"encoderlayer_{level}." for level in range(4)),
        "conv.",
        *(f"decoderlayer_{index}." for index in range(4)),
    ]
    # ((2w - 1)², heads)
    tables = [shapes[f"{stage}blocks.0.attn.relative_position_bias_table"] for stage in stages]
    windows = [(math.isqrt(rows) + 1) // 2 for rows, _ in tables[:5]]
    window = windows[0]
    hidden, bottom = shapes["conv.blocks.0.mlp.linear1.0.weight"]
    return {
        # A scale smaller than a window has a smaller one and tells the side. Otherwise the smallest side at which no
        # scale is: 128 for the published windows of 8, as in the official scripts.
        "img_size": next((w << level for level, w in enumerate(windows) if w < window), 16 * window),
        "embed_dim": shapes["input_proj.proj.0.weight"][0],
        "depths": [_count(shapes, f"{stage}blocks.") for stage in stages],
        "num_heads": [heads for _, heads in tables],
        "win_size": window,
        "mlp_ratio": hidden / bottom,
    }


def _nafnet(shapes: Shapes) -> Config:
    scales = range(_count(shapes, "downs."))
    return {
        "width": shapes["intro.weight"][0],
        "encoder_blocks": [_count(shapes, f"encoders.{scale}.") for scale in scales],
        "middle_blocks": _count(shapes, "middle_blks."),
        "decoder_blocks": [_count(shapes, f"decoders.{scale}.") for scale in scales],
    }


LAYOUTS = {
    "bnudc": Layout(frozenset({"shallow_feat.0.weight", "shallow_sub.0.weight", "box_filter.weight"}), _bnudc),
    "discnet": Layout(frozenset({"conv_11.0.weight", "kconv_11.0.weight"}), _discnet, ("psf_code",)),
    "nafnet": Layout(frozenset({"intro.weight", "downs.0.weight", "ending.weight"}), _nafnet, ("window",)),
    "udc_unet": Layout(frozenset({"conv_first.0.weight", "k_head.0.weight"}), _udc_unet, ("psf_code",)),
    "uformer": Layout(
        frozenset({"input_proj.proj.0.weight", "dowsample_0.conv.0.weight"}), _uformer, ("img_size", "shift_flag")
    ),
}


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered parts there are under a name."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in shapes if name.startswith(prefix)})


def _side(channels: int, width: int) -> int:
    """Side k of predicted filters: a convolution gives width · k² channels."""
    return math.isqrt(channels // width)


def _code(length: int) -> tuple[float, ...]:
    """The published phone's code, or zeros where it has another length."""
    from udc_defense.restorers.discnet import PSF_CODE

    return PSF_CODE if length == len(PSF_CODE) else (0.0,) * length


# --- From tensors to a folder -----------------------------------------------------------------------------------------


def _fit(state: State, network: Restorer, name: str, source: Path) -> State:
    """The tensors as the network has them, float32, each with memory of its own.

    Raises:
        CheckpointError: a name or a shape differs, or a value is not finite.
    """
    wanted = network.state_dict()
    state = _weight_norm(state, wanted)
    wrong = [key for key in wanted if key in state and _form(wanted[key]) != _form(state[key])]
    differences = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": wrong,
    }
    if any(differences.values()):
        told = "; ".join(f"{len(keys)} {kind}: {_few(keys)}" for kind, keys in differences.items() if keys)
        raise CheckpointError(f"{source}: its weights are not those of {name} ({told}).")
    fitted = {key: state[key].detach().to(value.dtype, copy=True).contiguous() for key, value in wanted.items()}
    for key, value in fitted.items():
        if not value.isfinite().all():
            raise CheckpointError(f"{source}: its weights {key} are not all finite.")
    return fitted


def _form(value: Tensor) -> tuple[tuple[int, ...], bool]:
    return tuple(value.shape), value.is_floating_point()


def _weight_norm(state: State, wanted: Mapping[str, Tensor]) -> State:
    """Weight norm, w = g · v / ‖v‖ (arXiv 1602.07868), as the network has it: BNUDC keeps g and v, the others w."""
    from torch.linalg import vector_norm

    state = dict(state)
    for key in [key for key in state if key.endswith(".weight_v")]:
        plain, gain = key.removesuffix("_v"), key.removesuffix("_v") + "_g"
        if plain in wanted and gain in state:
            v, g = state[key].float(), state[gain].float()
            # One gain per index of the sides where g has not length 1; a bare number is one for all.
            norm = vector_norm(
                v, dim=[d for d in range(v.dim()) if g.dim() != v.dim() or g.shape[d] == 1], keepdim=True
            )
            if g.numel() == norm.numel():
                state[plain] = v * (g.view_as(norm) / norm)
                del state[key], state[gain]
    for key in [key for key in wanted if key.endswith(".weight_v")]:
        plain = key.removesuffix("_v")
        if plain in state and key not in state:
            v = state.pop(plain).float()
            state[key], state[f"{plain}_g"] = v, vector_norm(v, dim=list(range(1, v.dim())), keepdim=True)
    return state


def _write(network: Restorer, state: State, out: Path, source: Path) -> None:
    """Write a complete folder beside `out`, then give it that name."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    final = out.resolve()
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        with open(source, "rb") as file:
            origin = f"{source.name}, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
        temporary.mkdir(parents=True)
        network.save_config(temporary)
        save_file(state, temporary / WEIGHTS, metadata={"format": "pt", "source": origin})
        # safetensors lets nobody else read its file.
        shutil.copymode(temporary / "config.json", temporary / WEIGHTS)
        write_checksums(temporary)
        if final.is_dir():
            final.rmdir()
        temporary.rename(final)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{out}: cannot be written ({reason}).") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _few(names: Iterable[str]) -> str:
    """The first few; quoted, since a stranger chose them."""
    names = list(names)
    return ", ".join(repr(name[:80]) for name in names[:FEW]) + (", …" if len(names) > FEW else "")
