"""A restorer, or one evaluation of a purifier's network, as an ONNX file for other runtimes.

Both take any batch, height and width, as they do here, and clamp nothing; large images are not tiled. What a file
computes is compared with PyTorch before it is written, and the file says where it comes from.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from udc_defense import __version__
from udc_defense.checkpoints.load import load_purifier, load_restorer, weights_sum
from udc_defense.errors import CheckpointError, SettingError
from udc_defense.noise import seeded
from udc_defense.output import write_file
from udc_defense.purifiers.diffusion import DiffusionPurifier
from udc_defense.restorers.base import Restorer
from udc_defense.tiles import pad_to_multiple

TOLERANCE = 1e-4  # of the largest difference; 1/255 is 4e-3
SILENT = 4  # of onnxruntime's levels of severity
TRACED = (2, 3, 37, 54)
COMPARED = ((1, 3, 41, 67), (3, 3, 64, 33))
TONE_MAPPED = "RGB in [0, 1], tone-mapped by t = x / (x + 0.25)"


@dataclass(frozen=True)
class Export:
    """What was written: its size, and the largest difference to PyTorch over images of the shapes `compared`."""

    path: Path
    bytes: int
    difference: float
    compared: tuple[tuple[int, ...], ...]


def export_restorer(source: str, out: Path | str) -> Export:
    """Write `image` (B, 3, H, W) -> `restored`, as the restorer's own `forward` without tiles.

    Args:
        source: as `load_restorer` takes it.
        out: the file; an old one is replaced once the new one is verified.

    Raises:
        CheckpointError: the network cannot be loaded or exported, or its file computes something else.
        SettingError: the extra `onnx` is missing.
        ImageError: the file cannot be written.
    """
    _check_extra()
    restorer = load_restorer(source)
    if restorer.not_exportable:
        raise CheckpointError(f"{source}: cannot be exported to ONNX, for {restorer.not_exportable}.")
    facts = {"domain": TONE_MAPPED, "kind": "restorer", "source": source, "sha256": weights_sum(source, "restorer")}
    with _untiled(restorer):
        cases = (({"image": image}, restorer(image)) for image in map(_picture, _compared(restorer.windows)))
        return _write(restorer, {"image": _picture(TRACED)}, "restored", cases, facts, Path(out))


@contextlib.contextmanager
def _untiled(restorer: Restorer) -> Iterator[None]:
    """No image is larger than a tile; an imported network is in use elsewhere, and gets its tiles back."""
    size = restorer.tile_size
    restorer.tile_size = sys.maxsize
    try:
        yield
    finally:
        restorer.tile_size = size


def _compared(windows: Iterable[int]) -> list[tuple[int, ...]]:
    """Shapes at which the two are compared: odd sides, several batches, both sides shorter and longer than windows."""
    around = [(side // 2 + 1, side + side // 2 + 1) for side in dict.fromkeys(windows) if side > 1]
    return [*COMPARED, *(shape for short, long in around for shape in ((2, 3, short, long), (2, 3, long, short)))]


def export_purifier(source: str, out: Path | str) -> Export:
    """Write `noised` x_t (B, 3, H, W), `timestep` t (B,) -> `clean` x̂₀: the step that all samplers are made of.

    x_t and x̂₀ are images of twice the tone-mapped value minus 1, x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) ε (arXiv 2006.11239,
    eq. 4). Each sample has a timestep of its own, int64.

    Args:
        source: as `load_purifier` takes it.
        out: the file; an old one is replaced once the new one is verified.

    Raises:
        CheckpointError: the network cannot be loaded or exported, or its file computes something else.
        SettingError: the extra `onnx` is missing.
        ImageError: the file cannot be written.
    """
    _check_extra()
    purifier = load_purifier(source)
    last = (purifier.last_timestep or len(purifier.signal)) - 1
    facts = {
        "domain": f"2 t - 1, where t is {TONE_MAPPED}",
        "timesteps": f"0 to {last}",
        "kind": "purifier",
        "source": source,
        "sha256": weights_sum(source, "purifier"),
    }
    example = {"noised": _picture(TRACED), "timestep": torch.arange(TRACED[0])}
    return _write(_StepGraph(purifier), example, "clean", _steps(purifier, last), facts, Path(out))


def _steps(purifier: DiffusionPurifier, last: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Images at several timesteps, and what the samplers see of the network there."""
    diffusion = purifier.diffusion
    for shape in _compared((purifier.multiple,)):
        times = torch.linspace(0, last, shape[0]).long() if shape[0] > 1 else torch.tensor([last])
        noised = 2 * _picture(shape) - 1
        clean = [
            diffusion.clean(x, t, diffusion.predict(x, t)) for x, t in zip(noised.split(1), times.tolist(), strict=True)
        ]
        yield {"noised": noised, "timestep": times}, torch.cat(clean)


class _StepGraph(nn.Module):
    amplitude: Tensor
    deviation: Tensor

    def __init__(self, purifier: DiffusionPurifier) -> None:
        super().__init__()
        self.network, self.multiple, self.prediction = purifier.network, purifier.multiple, purifier.prediction
        self.register_buffer("amplitude", purifier.signal.sqrt().float())
        self.register_buffer("deviation", (1 - purifier.signal).sqrt().float())

    def forward(self, noised: Tensor, timestep: Tensor) -> Tensor:
        height, width = noised.shape[-2:]
        predicted = self.network(pad_to_multiple(noised, self.multiple), timestep).sample[..., :height, :width]
        if self.prediction == "sample":
            return predicted
        amplitude, deviation = (table[timestep].view(-1, 1, 1, 1) for table in (self.amplitude, self.deviation))
        return (noised - deviation * predicted) / amplitude


def _write(
    graph: nn.Module,
    example: dict[str, Tensor],
    output: str,
    cases: Iterator[tuple[dict[str, Tensor], Tensor]],
    facts: dict[str, str],
    out: Path,
) -> Export:
    try:
        content = _exported(graph.eval(), example, output, facts)
        shapes, difference = _difference(content, cases)
    except Exception as error:  # whatever an operation that ONNX lacks makes it raise
        problem = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(" .:")
        raise CheckpointError(f"{facts['source']}: cannot be exported to ONNX ({problem}).") from error
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"{facts['source']}: as ONNX it differs from PyTorch by {difference:.1e}, more than {TOLERANCE:.0e}."
        )
    write_file(out, content)
    return Export(out, len(content), difference, shapes)


def _exported(graph: nn.Module, example: dict[str, Tensor], output: str, facts: dict[str, str]) -> bytes:
    import onnx

    axes = {0: "batch", 2: "height", 3: "width"}
    dynamic = {name: axes if value.dim() == 4 else {0: "batch"} for name, value in example.items()} | {output: axes}
    with TemporaryDirectory() as folder, warnings.catch_warnings(), _no_graph_printed():
        file = Path(folder) / "network.onnx"
        warnings.simplefilter("ignore")  # it cannot know that the comparison follows
        torch.onnx.export(
            graph,
            tuple(example.values()),
            file,
            input_names=list(example),
            output_names=[output],
            dynamic_axes=dynamic,
            # torch.export reasons about the sizes for a minute, and gives the same graph.
            dynamo=False,
        )
        model = onnx.load(file)
    shapes = [value.type.tensor_type.shape for value in (model.graph.output[0], model.graph.input[0])]
    shapes[0].CopyFrom(shapes[1])
    onnx.helper.set_model_props(model, facts | {"exported by": f"udc-defense {__version__}"})
    onnx.checker.check_model(model)
    return model.SerializeToString()


@contextlib.contextmanager
def _no_graph_printed() -> Iterator[None]:
    """The exporter prints the whole graph of what it cannot export; its switch is stuck (`setup_onnx_logging`)."""
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *words: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log


@torch.no_grad()
def _difference(
    content: bytes, cases: Iterator[tuple[dict[str, Tensor], Tensor]]
) -> tuple[tuple[tuple[int, ...], ...], float]:
    """Shapes, and the largest difference between onnxruntime and PyTorch; NaN where either gives that."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = {}
    for inputs, expected in cases:
        (output,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        if output.shape != tuple(expected.shape):  # which would be broadcast
            raise CheckpointError(f"gives {output.shape} for {tuple(expected.shape)}")
        found[tuple(expected.shape)] = (torch.from_numpy(output) - expected).abs().max()
    return tuple(found), torch.stack(list(found.values())).max().item()


def _picture(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=seeded(0))


def _check_extra() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise SettingError(f'export needs {error.name}; install it with pip install "udc-defense[onnx]".') from error
