"""ONNX files compute what PyTorch does, at any size; what they are is written in them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from restorer_contract import contracts, picture, randomised
from tiny_networks import tiny_unet
from torch import Tensor, nn

from udc_defense import cli, export
from udc_defense.checkpoints.files import EMBEDDED, checksum, embedded_names
from udc_defense.checkpoints.load import load_purifier, load_restorer
from udc_defense.errors import CheckpointError, SettingError
from udc_defense.restorers import CLASSICAL, RESTORERS
from udc_defense.restorers.gated_unet import GatedUNet
from udc_defense.tiles import _pad_any_size, pad_to_multiple

SIZES = [(1, 1, 1), (2, 1, 40), (1, 5, 7), (3, 16, 8), (1, 17, 9), (2, 50, 33)]


@pytest.fixture
def runtime() -> Any:
    pytest.importorskip("onnx")
    return pytest.importorskip("onnxruntime")


@pytest.fixture
def restorer(tmp_path: Path) -> Path:
    randomised(GatedUNet(widths=[4, 8], blocks=[1, 1])).save_pretrained(tmp_path / "restorer")
    return tmp_path / "restorer"


@pytest.fixture(params=["epsilon", "sample"])
def purifier(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    unet = tiny_unet((8, 16), groups=4)
    folder = tmp_path / "purifier"
    DDPMPipeline(randomised(unet), DDPMScheduler(prediction_type=request.param)).save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps({"last_timestep": 150}))
    return folder


def ran(runtime: Any, path: Path, **inputs: Tensor) -> Tensor:
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return torch.from_numpy(output)


def facts(runtime: Any, path: Path) -> dict[str, str]:
    return runtime.InferenceSession(path).get_modelmeta().custom_metadata_map


def test_a_restorer_of_any_size(
    runtime: Any, restorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.onnx"
    assert cli.main(["export", "--restorer", str(restorer), "--out", str(out)]) == 0
    assert f"{out}: {out.stat().st_size:,} bytes; differs from PyTorch by at most " in capsys.readouterr().out
    network = load_restorer(restorer)
    for batch, *size in SIZES:
        image = 2 * picture(batch, 3, *size) - 0.5  # nothing is clamped
        assert torch.allclose(ran(runtime, out, image=image), network(image), atol=1e-5)
    told = facts(runtime, out)
    assert told["source"] == str(restorer) and told["sha256"] == checksum(restorer) and told["kind"] == "restorer"
    assert told["domain"] == "RGB in [0, 1], tone-mapped by t = x / (x + 0.25)"
    session = runtime.InferenceSession(out)
    for value in (*session.get_inputs(), *session.get_outputs()):
        assert value.shape == ["batch", 3, "height", "width"]


def test_a_step_of_a_purifier_at_any_size_and_timestep(runtime: Any, purifier: Path, tmp_path: Path) -> None:
    out = tmp_path / "step.onnx"
    assert cli.main(["export", "--purifier", str(purifier), "--out", str(out)]) == 0
    diffusion = load_purifier(purifier).diffusion
    for batch, *size in SIZES:
        noised, times = 3 * picture(batch, 3, *size) - 1.5, torch.tensor([149, 0, 30][:batch])
        with torch.no_grad():
            samples = zip(noised.split(1), times.tolist(), strict=True)
            clean = torch.cat([diffusion.clean(x, t, diffusion.predict(x, t)) for x, t in samples])
        assert torch.allclose(ran(runtime, out, noised=noised, timestep=times), clean, atol=1e-5)
    told = facts(runtime, out)
    assert told["timesteps"] == "0 to 149" and told["sha256"] == checksum(purifier)


def test_with_one_step_of_onnx_noise_becomes_the_purified_image(runtime: Any, purifier: Path, tmp_path: Path) -> None:
    """`one_step` is: add noise, evaluate, that is all."""
    from udc_defense.noise import normal, seeded, split

    export.export_purifier(str(purifier), tmp_path / "step.onnx")
    network, image = load_purifier(purifier, sampler="one_step", noise_level=30), picture(1, 3, 19, 26)
    (generators,) = split(seeded(5), 1, 1)
    x0 = 2 * image - 1
    noised = network.diffusion.noised(x0, 29, normal(x0, generators))
    found = ran(runtime, tmp_path / "step.onnx", noised=noised, timestep=torch.tensor([29]))
    with torch.no_grad():
        assert torch.allclose((found + 1) / 2, network(image, generator=seeded(5)), atol=1e-5)


class Bent(nn.Module):
    """Another network in a trace than out of it."""

    def forward(self, image: Tensor) -> Tensor:
        return image + 0.01 * torch.jit.is_tracing()


class Unknown(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.special.bessel_j0(image)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("Bent", "as ONNX it differs from PyTorch by 1.0e-02, more than 1e-04."),
        ("Unknown", "cannot be exported to ONNX ("),
    ],
)
def test_a_file_that_computes_something_else_is_not_written(
    runtime: Any, network: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.onnx"
    out.write_text("what was there before")
    assert cli.main(["export", "--restorer", f"{__name__}:{network}", "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"udc-defense: {__name__}:{network}: {words}") and line.endswith(".")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"] and out.read_text() == "what was there before"


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_the_extra_a_sentence_says_what_brings_it(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "onnxruntime":
        pytest.importorskip("onnx")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SettingError) as caught:
        export.export_restorer("default", tmp_path / "net.onnx")
    assert str(caught.value) == f'export needs {missing}; install it with pip install "udc-defense[onnx]".'


def test_a_network_that_is_not_there(runtime: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither an embedded purifier"):
        export.export_purifier("nothing", tmp_path / "net.onnx")


def assert_exports_or_says_why(source: Path, out: Path) -> None:
    """What `export` itself compares is what counts here; the tests above show that it is right about that."""
    network = load_restorer(source)
    if network.not_exportable:
        with pytest.raises(CheckpointError) as caught:
            export.export_restorer(str(source), out)
        assert str(caught.value) == f"{source}: cannot be exported to ONNX, for {network.not_exportable}."
        assert not out.exists()
        return
    done = export.export_restorer(str(source), out)
    assert done.difference < 1e-4 and out.is_file()
    assert {batch for batch, *_ in done.compared} >= {1, 3}
    heights, widths = zip(*(sides for batch, _, *sides in done.compared if batch > 1), strict=True)
    for window in filter(lambda side: side > 1, network.windows):
        assert min(heights) < window < max(heights) and min(widths) < window < max(widths)


@pytest.mark.parametrize("contract", contracts())
def test_every_restorer_exports_for_any_size_and_batch(runtime: Any, contract: str, tmp_path: Path) -> None:
    network = contracts()[contract]().network()
    network.save_pretrained(tmp_path / "net")
    # Filters have no weights, so their name is the source.
    names = [name for name in CLASSICAL if RESTORERS.get(name) is type(network)]
    assert_exports_or_says_why(Path(names[0]) if names else tmp_path / "net", tmp_path / "net.onnx")


def embedded(kind: str) -> list[str]:
    """One embedded checkpoint of each configuration."""
    configs = {name: (EMBEDDED / kind / name).glob("**/*config.json") for name in embedded_names(kind)}
    return list({"".join(path.read_text() for path in sorted(files)): name for name, files in configs.items()}.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", embedded("restorer"))
def test_every_embedded_restorer_exports(runtime: Any, name: str, tmp_path: Path) -> None:
    assert_exports_or_says_why(EMBEDDED / "restorer" / name, tmp_path / "net.onnx")


@pytest.mark.parametrize("name", embedded_names("purifier"))
def test_every_embedded_purifier_exports(runtime: Any, name: str, tmp_path: Path) -> None:
    export.export_purifier(name, tmp_path / "step.onnx")
    network, noised = load_purifier(name).network, picture(2, 3, 24, 40)  # multiples: no padding
    times, signal = torch.tensor([20, 3]), load_purifier(name).signal
    with torch.no_grad():
        clean = network(noised, times).sample
    if network_predicts(name) == "epsilon":
        amplitude, deviation = (level.sqrt().view(-1, 1, 1, 1).float() for level in (signal[times], 1 - signal[times]))
        clean = (noised - deviation * clean) / amplitude
    assert (ran(runtime, tmp_path / "step.onnx", noised=noised, timestep=times) - clean).abs().max() < 1e-4


def network_predicts(name: str) -> str:
    path = EMBEDDED / "purifier" / name / "scheduler" / "scheduler_config.json"
    return json.loads(path.read_text())["prediction_type"]


def test_a_restorer_may_say_why_it_has_no_file(
    runtime: Any, restorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GatedUNet, "not_exportable", "its heart is a number that ONNX does not know")
    assert_exports_or_says_why(restorer, tmp_path / "net.onnx")


def test_what_cannot_be_exported_is_told_in_one_line(
    runtime: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The exporter prints whole graphs, and the runtime writes to the process's own stderr."""
    for network in ("Unknown", "Unshaped", "Unbatched"):
        assert cli.main(["export", "--restorer", f"{__name__}:{network}", "--out", str(tmp_path / "net.onnx")]) == 2
        out, err = capfd.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and len(err) < 500


class Unshaped(nn.Module):
    """A kernel whose shape a trace does not know."""

    def forward(self, image: Tensor) -> Tensor:
        kernel = torch.ones(1, 1, 1, 1).expand(image.shape[1], -1, -1, -1)
        return nn.functional.conv2d(image, kernel, groups=image.shape[1])


class Unbatched(nn.Module):
    """A number of images that a trace freezes."""

    def forward(self, image: Tensor) -> Tensor:
        return image + torch.zeros(len(image), 1, 1, 1)


@pytest.mark.parametrize("size", [(1, 1), (3, 20), (9, 5), (16, 8), (8, 15), (7, 9)])
@pytest.mark.parametrize("multiple", [1, 4, 16])
def test_padding_of_any_size_is_that_of_restorers(size: tuple[int, int], multiple: int) -> None:
    image = picture(2, 3, *size)
    height, width = size
    assert torch.equal(
        _pad_any_size(image, bottom=-height % multiple, right=-width % multiple), pad_to_multiple(image, multiple)
    )
