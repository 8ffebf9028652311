"""Panels by name or as files: one safetensors file with the PSF and what else is known, read and written here alone.

A bare PSF (.npy or .npz) counts as a panel, too, of the default light and without light loss. What strangers wrote is
checked before it is used: no pickles, no more memory than the file's own size promises.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from udc_defense.errors import PanelError, SettingError
from udc_defense.optics import FULL_WELL, LIGHT, PANELS, READ_NOISE, Panel
from udc_defense.output import write_file

SUFFIX = ".safetensors"
FORMAT = "udc-defense panel"
LARGEST_SIDE = 801
SUM_TOLERANCE = 0.05  # of a PSF's channel; what lay beyond its window is missing in it
MAX_BYTES = 64_000_000  # of a file, unpacked: an 801² PSF has 15 MB in float64
WORDS = {"name": 64, "title": 200, "source": 2000, "licence": 200}  # the longest of each


def get_panel(name: str) -> Panel:
    """The built-in panel of that name, or the panel of that file.

    Raises:
        SettingError: there is no such panel and no such file.
        PanelError: the file holds no panel that can be used.
    """
    if name in PANELS:
        return PANELS[name]
    if Path(name).suffix or len(Path(name).parts) > 1:
        return read_panel(name)
    raise SettingError(f"panel {name!r} is not one of {', '.join(PANELS)}, and no file.")


def panel_psf(name: str) -> Tensor:
    """The PSF of a panel's name or file."""
    return get_panel(name).psf


def read_panel(path: Path | str) -> Panel:
    """The panel of a file that `write_panel` made, or of a bare PSF (.npy, .npz).

    Raises:
        PanelError: one sentence that says what is wrong with the file.
    """
    path = Path(path)
    try:
        state = path.stat()
    except (OSError, ValueError) as error:
        raise PanelError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    return _read_panel(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _read_panel(path: Path, changed: int, size: int) -> Panel:
    """Once per content of a file; `changed` and `size` are the keys that tell."""
    if size > MAX_BYTES:
        raise PanelError(f"{path}: larger than the {MAX_BYTES // 10**6} MB allowed.")
    if path.suffix.lower() in (".npy", ".npz"):
        psf, _ = read_psf(path)
        return Panel(_bare_name(path), f"{path.name}: a bare PSF", None, (1.0, 1.0, 1.0), LIGHT, psf)
    try:
        with safe_open(path, framework="pt") as file:
            facts, psf = (file.metadata() or {}), file.get_tensor("psf")
    except (OSError, SafetensorError, ValueError, MemoryError) as error:
        raise PanelError(f"{path}: not a panel file, nor a PSF as .npy or .npz.") from error
    if facts.get("format") != FORMAT:
        raise PanelError(f"{path}: holds tensors, but not those of a panel.")
    return _panel(facts.get("panel", ""), psf, str(path))


def _bare_name(path: Path) -> str:
    name = re.sub(r"[^\w.-]", "_", path.stem)[: WORDS["name"]]
    return f"{name}_psf" if name in PANELS else name


def write_panel(panel: Panel, path: Path | str) -> None:
    """Write a panel as one file, in one step.

    Raises:
        PanelError: a fact is out of its range, or the name is a built-in panel's.
        ImageError: the file cannot be written.
    """
    names = ("name", "title", "transmission", "light", "full_well", "read_noise", "source", "licence")
    facts = json.dumps({name: getattr(panel, name) for name in names})
    _panel(facts, panel.psf, str(path))  # what cannot be read back is not written
    tensors = {"psf": panel.psf.float().contiguous()}
    write_file(path, save(tensors, {"format": FORMAT, "panel": facts}))


def _panel(text: str, psf: Tensor, place: str) -> Panel:
    """The panel of a file's facts (JSON) and PSF, both checked."""
    try:
        facts = json.loads(text)
        words = {name: _word(facts, name, longest) for name, longest in WORDS.items()}
        numbers = {
            "transmission": _channels(facts, "transmission", 1.0, 1.0),
            "light": _number(facts, "light", LIGHT, 1e-3, 1e12),
            "full_well": _channels(facts, "full_well", FULL_WELL, 1e15),
            "read_noise": _number(facts, "read_noise", READ_NOISE, 0.0, 1e9),
        }
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise PanelError(f"{place}: what it says of the panel cannot be used ({error}).") from error
    if words["name"] in PANELS or not re.fullmatch(r"[\w.-]+", words["name"]):
        reason = (
            "is a built-in panel's" if words["name"] in PANELS else "is more than letters, digits, '_', '-' and '.'"
        )
        raise PanelError(f"{place}: the name {words['name']!r} {reason}.")
    checked, _ = check_psf(psf, place)
    return Panel(layout=None, measured=checked, **words, **numbers)  # type: ignore[arg-type]


def _word(facts: dict[str, Any], name: str, longest: int) -> str:
    value = facts.get(name, "")
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError(f"its {name} is not a text of at most {longest} characters")
    return value


def _number(facts: dict[str, Any], name: str, default: float, lowest: float, highest: float) -> float:
    value = facts.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= highest:
        raise ValueError(f"its {name} is not a number in {lowest:g}…{highest:g}")
    return float(value)


def _channels(facts: dict[str, Any], name: str, default: float, highest: float) -> tuple[float, float, float]:
    values = facts.get(name, [default] * 3)
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError(f"its {name} is not three numbers")
    red, green, blue = (_number({name: value}, name, default, 1e-9, highest) for value in values)
    return red, green, blue


def read_psf(path: Path | str, *, scale: float = 1.0) -> tuple[Tensor, list[str]]:
    """A PSF from a NumPy file: (3, K, K) or (K, K, 3), linear light; an .npz holds one array, or one named `psf`.

    Args:
        path: of the .npy or .npz.
        scale: pixels of the capture per sample of the PSF.

    Returns:
        The PSF (3, K, K), K odd and at most 801, float32, each channel of unit sum; and what was changed, in words.

    Raises:
        PanelError: it is no such file, or holds no PSF.
    """
    path = Path(path)
    array = _read_array(path)
    if array.ndim != 3 or array.dtype.kind not in "fiu" or 0 in array.shape:
        raise PanelError(f"{path}: holds {array.dtype} {array.shape}, not numbers of shape (3, K, K) or (K, K, 3).")
    if array.shape[0] != 3 and array.shape[2] == 3:
        array = array.transpose(2, 0, 1)
    return check_psf(torch.from_numpy(array.astype(np.float64)), str(path), scale=scale)


def _read_array(path: Path) -> np.ndarray:
    """The array of a .npy or .npz; its header is believed only as far as the file is long."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PanelError(f"{path}: larger than the {MAX_BYTES // 10**6} MB allowed.")
        data = path.read_bytes()
        if data[:2] == b"PK":
            data = _unpack(data, path)
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, column_first, kind = read_header(file)
        values = np.frombuffer(data, kind, count=math.prod(shape), offset=file.tell())
        return values.reshape(shape, order="F" if column_first else "C")
    except OSError as error:
        raise PanelError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, SyntaxError, TypeError, EOFError, OverflowError, RuntimeError, MemoryError) as error:
        raise PanelError(f"{path}: cannot be read as a NumPy array.") from error
    except (zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError) as error:
        raise PanelError(f"{path}: cannot be read as a NumPy archive.") from error


def _unpack(data: bytes, path: Path) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if "psf.npy" not in members and len(members) != 1:
            raise PanelError(f"{path}: holds {len(members)} arrays, none of them named psf.")
        member = members.get("psf.npy") or next(iter(members.values()))
        if member.file_size > MAX_BYTES:
            raise PanelError(f"{path}: larger than the {MAX_BYTES // 10**6} MB allowed.")
        with archive.open(member) as file:
            return file.read(MAX_BYTES + 1)


def check_psf(psf: Tensor, place: str, *, scale: float = 1.0) -> tuple[Tensor, list[str]]:
    """Make a PSF (3, K, K) what the rest relies on, or refuse it.

    Even sides become odd, another sampling is brought to the capture's, sums within 5 % of 1 are normalised.

    Args:
        psf: linear light, any K.
        place: where it comes from, for the message.
        scale: pixels of the capture per sample of the PSF.

    Returns:
        (3, K, K), K odd, float32, each channel of unit sum; and what was changed, in words.

    Raises:
        PanelError: values are negative or not finite, sums are off, or it is not square or too large.
    """
    words = []
    if not psf.is_floating_point() or psf.dim() != 3 or psf.shape[0] != 3 or psf.shape[1] != psf.shape[2]:
        raise PanelError(f"{place}: holds {psf.dtype} {tuple(psf.shape)}, not numbers of shape (3, K, K) or (K, K, 3).")
    psf = psf.double()
    if not psf.isfinite().all():
        raise PanelError(f"{place}: the PSF holds values that are not finite numbers.")
    if psf.min() < 0:
        raise PanelError(f"{place}: the PSF is negative in places ({psf.min():.3g}), and light is not.")
    sums = psf.sum((-2, -1))
    if (sums - 1).abs().max() > SUM_TOLERANCE:
        listed = ", ".join(f"{value:.3g}" for value in sums.tolist())
        raise PanelError(f"{place}: the PSF's channels sum to {listed}, more than {SUM_TOLERANCE:.0%} off 1.")
    if psf.shape[-1] % 2 == 0:
        words.append(f"the even side of {psf.shape[-1]} was made odd by a row and a column without light")
        psf = _odd(psf)
    if scale != 1:
        psf = _resampled(psf, scale, place)
        words.append(f"resampled by {scale:g} to a side of {psf.shape[-1]}")
    if psf.shape[-1] > LARGEST_SIDE:
        raise PanelError(f"{place}: a PSF of {psf.shape[-1]}² pixels is larger than {LARGEST_SIDE}².")
    if (sums - 1).abs().max() > 1e-4:
        listed = ", ".join(f"{value:.4f}" for value in sums.tolist())
        words.append(f"channels that summed to {listed} were normalised to 1")
    return (psf / psf.sum((-2, -1), keepdim=True)).float(), words


def _odd(psf: Tensor) -> Tensor:
    """An even side has two middles: the one with the brighter pixel stays in the middle of one row and column more."""
    half = psf.shape[-1] // 2
    row, column = divmod(int(psf.mean(dim=0)[half - 1 : half + 1, half - 1 : half + 1].argmax()), 2)
    return torch.nn.functional.pad(psf, (1 - column, column, 1 - row, row))


def _resampled(psf: Tensor, scale: float, place: str) -> Tensor:
    """On pixels of another size about the same centre: each gets the light that falls on its area."""
    if not 0.01 <= scale <= 100:
        raise PanelError(f"{place}: a PSF scale of {scale:g} is not in 0.01…100.")
    side = psf.shape[-1]
    reach = math.ceil((side * scale - 1) / 2 - 1e-9)
    if 2 * reach + 1 > LARGEST_SIDE:
        raise PanelError(f"{place}: a PSF of {2 * reach + 1}² pixels is larger than {LARGEST_SIDE}².")
    old = (torch.arange(side + 1, dtype=torch.float64) - side / 2) * scale
    new = torch.arange(2 * reach + 2, dtype=torch.float64) - reach - 0.5
    upper = torch.minimum(new[1:, None], old[None, 1:])
    lower = torch.maximum(new[:-1, None], old[None, :-1])
    share = (upper - lower).clamp_min(0) / scale
    return share @ psf @ share.T
