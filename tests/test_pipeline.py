"""The diffusers pipeline: the same numbers as `Defense`, and every promise of diffusers around them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_client import client, edit, flip, sentence
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline
from diffusers.utils import logging
from loopback_hub import Hub
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_networks import save_purifier, save_restorer
from torch import Tensor

import udc_defense
from udc_defense.checkpoints.files import CHECKSUMS, WEIGHTS, verify
from udc_defense.checkpoints.load import load_purifier, load_restorer
from udc_defense.defense import Defense
from udc_defense.errors import CheckpointError, ImageError, SettingError
from udc_defense.guides.frequency import Frequency
from udc_defense.images import read_image, to_pil
from udc_defense.noise import seeded
from udc_defense.pipeline import UDCDefenseOutput, UDCDefensePipeline
from udc_defense.purifiers import SAMPLERS
from udc_defense.restorers.gated_unet import GatedUNet


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A restorer and a purifier of a few weights, and the pipeline of both, saved."""
    root = tmp_path_factory.mktemp("saved")
    folders = {"restorer": save_restorer(root / "restorer"), "purifier": save_purifier(root / "purifier")}
    pipe = UDCDefensePipeline.from_pretrained(folders["purifier"], restorer=load_restorer(folders["restorer"]))
    pipe.save_pretrained(root / "both")
    return folders | {"both": root / "both"}


@pytest.fixture
def pipe(folders: dict[str, Path]) -> UDCDefensePipeline:
    return quiet(UDCDefensePipeline.from_pretrained(folders["both"]))


@pytest.fixture
def warnings_of_diffusers(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def captures(batch: int = 1, height: int = 10, width: int = 14) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=seeded(0))


def defense(folders: dict[str, Path], **options: Any) -> Defense:
    return Defense(load_restorer(folders["restorer"]), load_purifier(folders["purifier"], **options))


def run(pipe: UDCDefensePipeline, image: Any = None, seed: int = 1, **options: Any) -> Tensor:
    image = captures() if image is None else image
    return pipe(image, generator=seeded(seed), output_type="pt", **options).images


class TestTheNumbers:
    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    def test_are_those_of_the_defense_bit_for_bit(
        self, sampler: str, pipe: UDCDefensePipeline, folders: dict[str, Path]
    ) -> None:
        image = captures(2)
        output = pipe(image, 12, 3, seeded(1), sampler=sampler, draws=2, aggregate="median", output_type="pt")
        options = {"sampler": sampler, "noise_level": 12, "steps": 3, "draws": 2, "aggregate": "median"}
        expected = defense(folders, **options)
        assert torch.equal(output.images, expected(image, generator=seeded(1)))
        assert torch.equal(output.purified, expected.purifier(image, generator=seeded(1)))

    def test_eta_reaches_the_sampler(self, pipe: UDCDefensePipeline, folders: dict[str, Path]) -> None:
        given = run(pipe, sampler="ddim", eta=0.5)
        assert torch.equal(given, defense(folders, sampler="ddim", eta=0.5)(captures(), generator=seeded(1)))
        assert not torch.equal(given, run(pipe, sampler="ddim"))

    @pytest.mark.parametrize("guide", ["mse", "frequency", Frequency(cutoff=0.1)])
    def test_a_guide_reaches_the_purifier(
        self, guide: str | Frequency, pipe: UDCDefensePipeline, folders: dict[str, Path]
    ) -> None:
        options: dict[str, Any] = {"sampler": "ddpm", "noise_level": 6, "guide": guide, "guidance": 0.5}
        given = run(pipe, **options)
        assert torch.equal(given, defense(folders, **options)(captures(), generator=seeded(1)))
        plain = run(pipe, **options | {"guidance": 0.0})
        assert torch.equal(plain, run(pipe, sampler="ddpm", noise_level=6)) and not torch.equal(plain, given)

    def test_noise_level_zero_is_the_identity_before_the_restorer(self, pipe: UDCDefensePipeline) -> None:
        output = pipe(captures(), noise_level=0, output_type="pt")
        assert torch.equal(output.purified, captures())
        assert torch.equal(output.images, pipe.restorer(captures()))

    def test_without_the_restorer_the_purified_capture_is_the_image(self, pipe: UDCDefensePipeline) -> None:
        left_out = pipe(captures(), generator=seeded(1), restore=False, output_type="pt")
        assert torch.equal(left_out.images, left_out.purified)
        pipe.restorer = None
        assert torch.equal(run(pipe), left_out.images)

    def test_they_carry_no_gradient(self, pipe: UDCDefensePipeline) -> None:
        assert not run(pipe, captures().requires_grad_()).requires_grad

    def test_a_sample_with_a_generator_of_its_own_does_not_depend_on_its_batch(self, pipe: UDCDefensePipeline) -> None:
        image = captures(2)
        together = pipe(image, generator=[seeded(3), seeded(4)], output_type="pt").images
        for sample, alone in ((0, seeded(3)), (1, seeded(4))):
            output = pipe(image[sample : sample + 1], generator=alone, output_type="pt").images
            assert torch.allclose(output[0], together[sample], atol=1e-6)


class TestImages:
    def test_output_types_agree(self, pipe: UDCDefensePipeline) -> None:
        tensor = run(pipe, captures(2))
        assert tensor.shape == (2, 3, 10, 14) and tensor.dtype == torch.float32
        array = pipe(captures(2), generator=seeded(1), output_type="np").images
        assert isinstance(array, np.ndarray) and np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
        photos = pipe(captures(2), generator=seeded(1)).images
        assert isinstance(photos, list) and [photo.size for photo in photos] == [(14, 10)] * 2
        assert all(photo.tobytes() == to_pil(one).tobytes() for photo, one in zip(photos, tensor, strict=True))

    def test_a_tuple_for_those_who_want_one(self, pipe: UDCDefensePipeline) -> None:
        output = pipe(captures(), generator=seeded(1), output_type="pt")
        assert isinstance(output, UDCDefenseOutput)
        images, purified = pipe(captures(), generator=seeded(1), output_type="pt", return_dict=False)
        assert torch.equal(images, output.images) and torch.equal(purified, output.purified)

    def test_every_kind_of_input_is_the_same_capture(self, pipe: UDCDefensePipeline) -> None:
        photo = to_pil(captures())
        expected = run(pipe, read_image(photo))
        pixels = np.asarray(photo)
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        for image in (photo, [photo], pixels, pixels[None], pixels / 255.0, tensor, tensor[None], [tensor]):
            assert torch.equal(run(pipe, image), expected)

    def test_floats_and_deep_greys_of_pil(self, pipe: UDCDefensePipeline) -> None:
        grey = captures()[0, 0].clamp(0, 1)
        deep = (grey * 65535).round().to(torch.int32).numpy()
        for picture, values in (
            (Image.fromarray(grey.numpy()), grey),
            (Image.fromarray(deep), torch.from_numpy(deep / 65535.0)),
        ):
            expected = run(pipe, values.float().expand(1, 3, -1, -1))
            torch.testing.assert_close(run(pipe, picture), expected, atol=1e-5, rtol=0)
        with pytest.raises(ImageError, match="not in 0…1"):
            run(pipe, Image.fromarray(grey.numpy() * 255))

    def test_a_mirrored_array_and_a_list_of_kinds(self, pipe: UDCDefensePipeline) -> None:
        photo = to_pil(captures())
        mirrored = np.asarray(photo)[:, ::-1]
        output = run(pipe, [photo, mirrored])
        assert torch.equal(output, run(pipe, torch.cat([read_image(photo), read_image(photo).flip(-1)])))

    BAD: dict[str, tuple[Any, str]] = {
        "a path": ("photo.png", "A str is no PIL image, array or tensor."),
        "nothing": (None, "A NoneType is no"),
        "an empty list": ([], "The list holds no images."),
        "grey": (torch.rand(1, 1, 8, 8), r"Images of shape \(1, 1, 8, 8\) are not \(B, 3, H, W\)\."),
        "a plane": (np.zeros((8, 8)), r"Images of shape \(8, 8\) are not \(B, H, W, 3\)\."),
        "channels in front": (np.zeros((1, 3, 8, 8)), r"\(1, 3, 8, 8\) are not \(B, H, W, 3\)"),
        "no samples": (torch.rand(0, 3, 8, 8), r"\(0, 3, 8, 8\) are not"),
        "centred at zero": (torch.rand(1, 3, 8, 8) - 2, "are not in 0…1"),
        "levels of 8 bit as floats": (torch.full((1, 3, 8, 8), 255.0), "Values from 255 to 255 are not in 0…1."),
        "not a number": (torch.full((1, 3, 8, 8), torch.nan), "Values from nan to nan"),
        "words": (np.full((8, 8, 3), "a"), "An array of <U1 is no image."),
        "sizes": ([Image.new("RGB", (8, 9)), Image.new("RGB", (9, 8))], "8x9 and 9x8 pixels in one batch"),
    }

    @pytest.mark.parametrize("name", BAD)
    def test_what_is_none(self, name: str, pipe: UDCDefensePipeline) -> None:
        image, words = self.BAD[name]
        with pytest.raises(ImageError, match=words) as caught:
            pipe(image)
        sentence(caught)


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "a noise level it was not trained for": ({"noise_level": 151}, "noise level 151 is not in 0…150"),
    "a negative noise level": ({"noise_level": -1}, "noise level -1"),
    "half a noise level": ({"noise_level": 1.5}, "noise_level 1.5 is not a whole number."),
    "no steps": ({"num_inference_steps": 0}, "steps 0"),
    "steps in words": ({"num_inference_steps": "five"}, "num_inference_steps 'five' is not a whole number."),
    "no draws": ({"draws": 0}, "draws 0"),
    "an unknown sampler": ({"sampler": "magic"}, "'magic' is not one of"),
    "an unknown guide": ({"guide": "lpips"}, "guide 'lpips' is not one of feature, frequency, mse, ssim."),
    "a guide that is none": ({"guide": torch.nn.Identity()}, "guide Identity is no Guide."),
    "a negative guidance": ({"guide": "mse", "guidance": -1.0}, "guidance -1.0 is negative or not finite."),
    "too much guidance": ({"guide": "frequency", "guidance": 2.0}, "guidance 2.0 is not in 0…1"),
    "an unknown aggregate": ({"aggregate": "sum"}, "'sum'"),
    "an unknown output": ({"output_type": "latent"}, "output_type 'latent' is not one of pil, pt, np."),
    "a seed for a generator": ({"generator": 7}, "generator 7 is no torch.Generator."),
    "generators for another batch": ({"generator": [seeded(0), seeded(1)]}, "2 generators for a batch of 1."),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings(name: str, pipe: UDCDefensePipeline) -> None:
    settings, words = BAD_SETTINGS[name]
    with pytest.raises(SettingError, match=words) as caught:
        pipe(captures(), **settings)
    sentence(caught)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a generator elsewhere needs an elsewhere")
def test_noise_is_drawn_on_the_cpu(pipe: UDCDefensePipeline) -> None:
    with pytest.raises(SettingError, match="a generator on cuda"):
        pipe(captures(), generator=torch.Generator("cuda"))


class TestSteps:
    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    def test_the_callback_sees_each_evaluation(self, sampler: str, pipe: UDCDefensePipeline) -> None:
        seen: list[tuple[int, int, Tensor]] = []

        def look(caller: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            assert caller is pipe
            seen.append((step, timestep, tensors["image"]))
            return tensors

        output = pipe(captures(), 12, 3, sampler=sampler, draws=2, callback_on_step_end=look, output_type="pt")
        steps, timesteps, images = zip(*seen, strict=True)
        evaluations = 2 * SAMPLERS.get(sampler).evaluations(12, 3)
        assert steps == tuple(range(evaluations))
        half = evaluations // 2
        assert timesteps[:half] == timesteps[half:] and timesteps[0] == 11
        assert list(timesteps[:half]) == sorted(timesteps[:half], reverse=True)
        assert torch.equal(images[-1], output.purified) and not pipe.interrupt

    def test_it_stops_the_call(self, pipe: UDCDefensePipeline) -> None:
        seen: list[Tensor] = []

        def stop(caller: Any, step: int, _: int, tensors: dict[str, Tensor]) -> None:
            seen.append(tensors["image"])
            caller._interrupt = step == 3

        output = pipe(captures(), 12, sampler="ddpm", callback_on_step_end=stop, output_type="pt")
        assert len(seen) == 4 and pipe.interrupt
        assert torch.equal(output.purified, seen[-1]) and torch.equal(output.images, seen[-1])

    def test_a_stopped_pipeline_starts_again(self, pipe: UDCDefensePipeline) -> None:
        before = run(pipe)
        pipe._interrupt = True
        assert torch.equal(run(pipe), before) and not pipe.interrupt

    def test_the_progress_bar_counts_evaluations(
        self, pipe: UDCDefensePipeline, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(pipe, sampler="ddpm", noise_level=7)
        assert capsys.readouterr() == ("", "")
        pipe.set_progress_bar_config()
        run(pipe, sampler="ddpm", noise_level=7, draws=2)
        assert "14/14" in capsys.readouterr().err


class TestFolders:
    def test_with_a_restorer(self, folders: dict[str, Path], pipe: UDCDefensePipeline) -> None:
        index = json.loads((folders["both"] / "model_index.json").read_text())
        assert index["_class_name"] == "UDCDefensePipeline"
        assert isinstance(pipe.restorer, GatedUNet) and pipe.config["last_timestep"] == 150
        for module in (pipe.unet, pipe.restorer):
            assert not module.training and module.dtype == torch.float32
        assert torch.equal(run(pipe), defense(folders)(captures(), generator=seeded(1)))

    def test_stock_diffusers_does_not_drop_a_restorer_in_silence(self, folders: dict[str, Path]) -> None:
        with pytest.raises(AttributeError, match="UDCDefensePipeline"):
            DiffusionPipeline.from_pretrained(folders["both"], local_files_only=True)

    def test_our_loaders_read_what_the_pipeline_saved(self, folders: dict[str, Path], pipe: UDCDefensePipeline) -> None:
        purifier, restorer = load_purifier(folders["both"]), load_restorer(folders["both"] / "restorer")
        assert purifier.last_timestep == 150
        assert torch.equal(Defense(restorer, purifier)(captures(), generator=seeded(1)), run(pipe))

    def test_settings_travel(
        self, folders: dict[str, Path], tmp_path: Path, warnings_of_diffusers: pytest.LogCaptureFixture
    ) -> None:
        settings = {"sampler": "ddim", "noise_level": 9, "num_inference_steps": 2}
        for name in ("both", "purifier"):
            pipe = UDCDefensePipeline.from_pretrained(folders[name], **settings)
            pipe.save_pretrained(tmp_path / name)
            again = quiet(UDCDefensePipeline.from_pretrained(tmp_path / name))
            assert {key: again.config[key] for key in settings} == settings
            assert again.config["last_timestep"] == 150
            expected = load_purifier(folders["purifier"], sampler="ddim", noise_level=9, steps=2)
            assert torch.equal(run(again, restore=False), expected(captures(), generator=seeded(1)))
        assert not warnings_of_diffusers.records

    def test_a_purifier_alone_runs_in_stock_diffusers(
        self, folders: dict[str, Path], tmp_path: Path, warnings_of_diffusers: pytest.LogCaptureFixture
    ) -> None:
        ours = UDCDefensePipeline.from_pretrained(folders["purifier"], sampler="ddim")
        ours.save_pretrained(tmp_path)
        stock = quiet(DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True))
        assert type(stock) is DDPMPipeline and not warnings_of_diffusers.records
        stock.unet.register_to_config(sample_size=16)
        (photo,) = stock(num_inference_steps=1, generator=seeded(0)).images
        assert photo.size == (16, 16)
        assert ours.unet.state_dict().keys() == stock.unet.state_dict().keys()

    def test_a_purifier_alone_gives_the_purified_capture(self, folders: dict[str, Path], tmp_path: Path) -> None:
        UDCDefensePipeline.from_pretrained(folders["purifier"]).save_pretrained(tmp_path)
        pipe = quiet(UDCDefensePipeline.from_pretrained(tmp_path))
        assert pipe.restorer is None
        assert torch.equal(run(pipe), load_purifier(folders["purifier"])(captures(), generator=seeded(1)))

    def test_components_can_be_given_and_left_out(self, folders: dict[str, Path]) -> None:
        restorer = GatedUNet(widths=(4,), blocks=(1,))
        given = UDCDefensePipeline.from_pretrained(folders["both"], restorer=restorer)
        assert given.restorer is restorer
        assert UDCDefensePipeline.from_pretrained(folders["both"], restorer=None).restorer is None

    def test_a_variant(self, folders: dict[str, Path], tmp_path: Path, pipe: UDCDefensePipeline) -> None:
        pipe.save_pretrained(tmp_path, variant="fp16")
        again = quiet(UDCDefensePipeline.from_pretrained(tmp_path, variant="fp16"))
        assert torch.equal(run(again), run(pipe))

    def test_default_is_the_default_defense(self) -> None:
        pipe = quiet(udc_defense.UDCDefensePipeline.from_pretrained("default"))
        expected = Defense(load_restorer(), load_purifier("direct", noise_level=10))
        image = captures(1, 40, 50)
        assert torch.equal(run(pipe, image), expected(image, generator=seeded(1)))
        assert (pipe.name_or_path, pipe.config["last_timestep"]) == ("default", 40)

    def test_an_embedded_purifier_comes_with_the_default_restorer(self) -> None:
        pipe = quiet(udc_defense.UDCDefensePipeline.from_pretrained("diffusion"))
        assert pipe.restorer is not None and (pipe.config["noise_level"], pipe.config["last_timestep"]) == (30, 150)

    def test_the_embedded_default_without_its_restorer(self) -> None:
        assert UDCDefensePipeline.from_pretrained("default", restorer=None).restorer is None


class TestMoves:
    def test_to_another_dtype(self, pipe: UDCDefensePipeline) -> None:
        exact = run(pipe)
        assert pipe.to(torch.bfloat16) is pipe
        assert {pipe.unet.dtype, pipe.restorer.dtype} == {torch.bfloat16}
        rough = run(pipe)
        assert rough.dtype == torch.float32 and not torch.equal(rough, exact)
        assert torch.allclose(rough, exact, atol=0.03)
        assert pipe.to("cpu", torch.float32).dtype == torch.float32

    def test_the_image_keeps_its_precision(self, pipe: UDCDefensePipeline) -> None:
        """Only the network works in bfloat16: at a low noise level the purified image is closer than its grid."""
        exact = run(pipe, noise_level=1, restore=False)
        rough = run(pipe.to(torch.bfloat16), noise_level=1, restore=False)
        assert (rough - exact).abs().max() < 2**-10

    @pytest.mark.parametrize("source", ["both", "default"])
    def test_loaded_in_another_dtype(self, source: str, folders: dict[str, Path]) -> None:
        source = str(folders.get(source, source))
        pipe = UDCDefensePipeline.from_pretrained(source, dtype=torch.bfloat16)
        assert (pipe.unet.dtype, pipe.restorer.dtype) == (torch.bfloat16, torch.bfloat16)
        with pytest.warns(FutureWarning, match="torch_dtype"):
            pipe = UDCDefensePipeline.from_pretrained(source, torch_dtype=torch.bfloat16)
        assert (pipe.unet.dtype, pipe.restorer.dtype) == (torch.bfloat16, torch.bfloat16)
        pipe = UDCDefensePipeline.from_pretrained(source, dtype={"unet": torch.bfloat16, "default": torch.float32})
        assert (pipe.unet.dtype, pipe.restorer.dtype) == (torch.bfloat16, torch.float32)
        assert run(quiet(pipe)).isfinite().all()

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_to_a_gpu(self, dtype: torch.dtype, pipe: UDCDefensePipeline) -> None:
        exact = run(pipe)
        moved = run(pipe.to("cuda", dtype))
        assert moved.device.type == "cuda" and torch.allclose(moved.cpu(), exact, atol=0.03)
        assert isinstance(pipe(captures(), output_type="np").images, np.ndarray)


class TestFromPipe:
    def test_a_stock_pipeline_and_a_restorer(self, folders: dict[str, Path]) -> None:
        stock = DDPMPipeline.from_pretrained(folders["purifier"], local_files_only=True)
        restorer = load_restorer(folders["restorer"])
        pipe = quiet(UDCDefensePipeline.from_pipe(stock, restorer=restorer, last_timestep=150))
        assert pipe.unet is stock.unet and pipe.restorer is restorer
        assert torch.allclose(run(pipe), defense(folders)(captures(), generator=seeded(1)), atol=1e-6)
        with pytest.raises(SettingError, match="0…150"):
            pipe(captures(), 151)

    def test_a_stock_pipeline_alone(self, folders: dict[str, Path]) -> None:
        pipe = UDCDefensePipeline.from_pipe(DDPMPipeline.from_pretrained(folders["purifier"], local_files_only=True))
        assert pipe.restorer is None and pipe.config["last_timestep"] is None

    def test_one_of_ours_keeps_components_settings_and_dtype(self, pipe: UDCDefensePipeline) -> None:
        pipe.to(torch.bfloat16)
        other = UDCDefensePipeline.from_pipe(pipe, noise_level=7)
        assert other.restorer is pipe.restorer and other.unet is pipe.unet
        assert other.dtype == torch.bfloat16
        assert (other.config["noise_level"], other.config["last_timestep"]) == (7, 150)
        assert UDCDefensePipeline.from_pipe(pipe, restorer=None).restorer is None

    def test_what_predicts_something_else(self, pipe: UDCDefensePipeline) -> None:
        other = DDPMPipeline(pipe.unet, DDPMScheduler(prediction_type="v_prediction"))
        with pytest.raises(CheckpointError, match="predicts 'v_prediction', not epsilon") as caught:
            UDCDefensePipeline.from_pipe(other)
        sentence(caught)


class TestRefused:
    @pytest.fixture
    def copy(self, folders: dict[str, Path], tmp_path: Path) -> Path:
        return Path(shutil.copytree(folders["both"], tmp_path / "copy"))

    @staticmethod
    def refused(source: str | Path, **options: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            UDCDefensePipeline.from_pretrained(source, **options)
        return sentence(caught)

    @pytest.mark.parametrize("name", [f"unet/{WEIGHTS}", f"restorer/{WEIGHTS}", "model_index.json", "training.json"])
    def test_a_tampered_file(self, name: str, copy: Path) -> None:
        verify(copy, copy)
        flip(copy / name, (copy / name).stat().st_size // 2)
        assert f"{name} is damaged" in self.refused(copy)

    @pytest.mark.parametrize("component", ["unet", "restorer"])
    def test_weights_that_lack_a_layer(self, component: str, copy: Path) -> None:
        (copy / CHECKSUMS).unlink()
        state = load_file(copy / component / WEIGHTS)
        state.pop(sorted(state)[0])
        save_file(state, copy / component / WEIGHTS, metadata={"format": "pt"})
        assert "do not fit" in self.refused(copy)

    def test_a_pickle(self, copy: Path) -> None:
        (copy / CHECKSUMS).unlink()
        path = copy / "unet" / WEIGHTS
        torch.save(load_file(path), path.with_suffix(".bin"))
        path.unlink()
        assert "does not load" in self.refused(copy)
        with pytest.raises(SettingError, match="use_safetensors False") as caught:
            UDCDefensePipeline.from_pretrained(copy, use_safetensors=False)
        sentence(caught)

    STRANGE: dict[str, tuple[dict[str, Any], str]] = {
        "another pipeline": ({"_class_name": "DDIMPipeline"}, "_class_name 'DDIMPipeline'"),
        "a pipeline of its own": ({"_class_name": ["pipeline", "Evil"]}, "_class_name"),
        "another network": ({"unet": ["diffusers", "UNet2DConditionModel"]}, "unet"),
        "code of its own": ({"unet": ["evil", "UNet2DModel"]}, "unet"),
        "a module that is not ours": ({"restorer": ["antigravity", "GatedUNet"]}, "restorer"),
        "an unknown restorer": ({"restorer": ["udc_defense.pipeline", "Stranger"]}, "'Stranger'"),
        "no scheduler": ({"scheduler": None}, "scheduler None"),
    }

    @pytest.mark.parametrize("name", STRANGE)
    def test_an_index_that_names_strangers(self, name: str, copy: Path) -> None:
        changes, words = self.STRANGE[name]
        (copy / CHECKSUMS).unlink()
        edit(copy / "model_index.json", **changes)
        assert words in self.refused(copy)

    def test_indices_that_are_none(self, copy: Path) -> None:
        (copy / CHECKSUMS).unlink()
        for text in ("[]", "{", "7"):
            (copy / "model_index.json").write_text(text)
            assert "model_index.json: " in (words := self.refused(copy)) and "JSON" in words
        (copy / "model_index.json").unlink()
        assert "has no model_index.json" in self.refused(copy)

    def test_a_level_in_words(self, copy: Path) -> None:
        (copy / CHECKSUMS).unlink()
        edit(copy / "training.json", last_timestep="many")
        assert "'many'" in self.refused(copy)

    def test_a_setting_in_words(self, copy: Path) -> None:
        (copy / CHECKSUMS).unlink()
        edit(copy / "model_index.json", noise_level="high")
        with pytest.raises(SettingError, match="noise_level 'high' is not a whole number"):
            UDCDefensePipeline.from_pretrained(copy)(captures())

    def test_an_unknown_name(self) -> None:
        assert "diffusion, direct" in self.refused("defualt")

    def test_options_of_a_download(self) -> None:
        with pytest.raises(SettingError, match="token: downloads take their settings from the environment") as caught:
            UDCDefensePipeline.from_pretrained("me/prior", token="secret")
        assert "secret" not in sentence(caught)


CLIENT = """
import json, sys
from udc_defense import UDCDefensePipeline
from udc_defense.errors import UDCDefenseError
for call in sys.argv[1:]:
    source, _, revision = call.partition(" ")
    try:
        pipe = UDCDefensePipeline.from_pretrained(source, revision=revision or None)
        answer = [type(pipe.restorer).__name__, pipe.config["last_timestep"], pipe.name_or_path]
    except UDCDefenseError as error:
        answer = str(error)
    print(json.dumps(answer))
"""


def test_hub(hub: Hub, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client against a loopback Hub, verified like any checkpoint."""
    monkeypatch.setattr("checkpoint_client.CLIENT", CLIENT)
    hub.repositories |= {"me/both": folders["both"], "me/flipped": folders["both"]}
    hub.corrupt.add("me/flipped")
    commit = Hub.commit("me/both")
    calls = ("me/both", f"me/both {commit}", "me/prior@main", "me/both v9", "me/flipped", "me/net")
    both, pinned, prior, unknown, flipped, no_pipeline = client(tmp_path / "cache", hub.address, *calls)
    assert both == pinned == ["GatedUNet", 150, "me/both"]
    assert prior == ["NoneType", 150, "me/prior@main"]
    assert unknown == "me/both@v9: the repository has no revision 'v9'."
    assert "damaged (sha256 differs)" in flipped
    assert no_pipeline == "me/net: has no model_index.json."
