"""Panel files and bare PSFs: what is written comes back, what cannot be used is refused in one sentence."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from udc_defense.errors import PanelError, SettingError
from udc_defense.optics import PANELS, Panel
from udc_defense.panel_file import LARGEST_SIDE, check_psf, get_panel, read_panel, read_psf, write_panel


def peaked(side: int) -> Tensor:
    """A PSF (3, side, side): a core at side // 2 with a lopsided halo, another in each channel."""
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    halo = torch.stack([torch.exp(-((x - shift) ** 2 + y**2) / side) for shift in (0.5, 1.0, 1.5)])
    halo[:, side // 2, side // 2] += 5
    return halo / halo.sum((-2, -1), keepdim=True)


def phone(side: int = 9) -> Panel:
    return Panel(
        "phone",
        "A phone of mine",
        None,
        (0.4, 0.5, 0.3),
        2500.0,
        peaked(side).float(),
        (9000.0, 10_000.0, 11_000.0),
        3.5,
        "drawn",
        "CC0-1.0",
    )


class TestPanelFile:
    def test_round_trip(self, tmp_path: Path) -> None:
        panel = phone()
        write_panel(panel, tmp_path / "phone.safetensors")
        again = get_panel(str(tmp_path / "phone.safetensors"))
        torch.testing.assert_close(again.psf, panel.psf, atol=1e-8, rtol=1e-6)
        for fact in ("name", "title", "transmission", "light", "full_well", "read_noise", "source", "licence"):
            assert getattr(again, fact) == getattr(panel, fact), fact
        assert again.saturation == pytest.approx((9.0, 8.0, 11_000 / 750))

    def test_read_once_and_again_when_it_changes(self, tmp_path: Path) -> None:
        path = tmp_path / "phone.safetensors"
        write_panel(phone(), path)
        first = read_panel(path)
        assert read_panel(path).psf is first.psf
        write_panel(phone(11), path)
        assert read_panel(path).psf.shape[-1] == 11

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"name": "axon20"}, "name 'axon20' is a built-in panel's"),
            ({"name": "../x"}, r"name '\.\./x' is more than letters"),
            ({"name": ""}, "name '' is more than letters"),
            ({"title": "x" * 201}, "title is not a text of at most 200"),
            ({"light": float("nan")}, "light is not a number"),
            ({"light": -1.0}, "light is not a number"),
            ({"transmission": (0.5, 1.5, 0.5)}, "transmission is not a number in 1e-09…1"),
            ({"transmission": (0.5, 0.5)}, "transmission is not three numbers"),
            ({"full_well": (0.0, 1.0, 1.0)}, "full_well is not a number"),
            ({"read_noise": float("inf")}, "read_noise is not a number"),
            ({"measured": -peaked(9)}, "negative"),
        ],
    )
    def test_refused_before_it_is_written(self, tmp_path: Path, change: dict[str, object], words: str) -> None:
        path = tmp_path / "phone.safetensors"
        with pytest.raises(PanelError, match=rf"phone\.safetensors: .*{words}.*\.$"):
            write_panel(replace(phone(), **change), path)  # type: ignore[arg-type]
        assert not path.exists()

    @pytest.mark.parametrize(
        ("facts", "words"),
        [
            ("{", "cannot be used"),
            ("[1]", "cannot be used"),
            ('"x"', "cannot be used"),
            ("[" * 10**5, "cannot be used"),
        ],
    )
    def test_facts_of_a_stranger(self, tmp_path: Path, facts: str, words: str) -> None:
        path = tmp_path / "odd.safetensors"
        save_file({"psf": peaked(5).float()}, path, {"format": "udc-defense panel", "panel": facts})
        with pytest.raises(PanelError, match=words):
            read_panel(path)

    def test_weights_are_no_panel(self, tmp_path: Path) -> None:
        save_file({"psf": peaked(5).float()}, tmp_path / "net.safetensors")
        with pytest.raises(PanelError, match=r"holds tensors, but not those of a panel\.$"):
            read_panel(tmp_path / "net.safetensors")
        save_file({"weight": torch.ones(1)}, tmp_path / "other.safetensors")
        with pytest.raises(PanelError, match="not a panel file"):
            read_panel(tmp_path / "other.safetensors")

    @pytest.mark.parametrize("data", [b"", b"text", b"\xff" * 100])
    @pytest.mark.parametrize("name", ["a.safetensors", "a.npy", "a.npz", "a.png"])
    def test_damaged_files(self, tmp_path: Path, data: bytes, name: str) -> None:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PanelError, match=rf"{name}: .*\.$"):
            get_panel(str(tmp_path / name))

    def test_missing_file_and_unknown_name(self, tmp_path: Path) -> None:
        with pytest.raises(PanelError, match=r"none\.npy: cannot be read \(No such file"):
            get_panel(str(tmp_path / "none.npy"))
        with pytest.raises(SettingError, match="panel 'oled' is not one of axon20"):
            get_panel("oled")

    def test_bare_psf_is_a_panel_without_light_loss(self, tmp_path: Path) -> None:
        np.save(tmp_path / "axon20.npy", peaked(7).numpy())
        panel = get_panel(str(tmp_path / "axon20.npy"))
        assert panel.name not in PANELS and panel.transmission == (1.0, 1.0, 1.0)
        torch.testing.assert_close(panel.psf, peaked(7).float())


class TestReadPsf:
    @pytest.mark.parametrize("kind", ["npy", "npz", "named npz", "channels last", "float32", "column first"])
    def test_kinds(self, tmp_path: Path, kind: str) -> None:
        values, path = peaked(9).numpy(), tmp_path / "psf.npy"
        if kind == "npz":
            np.savez_compressed(tmp_path / "psf.npz", values)
            path = tmp_path / "psf.npz"
        elif kind == "named npz":
            np.savez(tmp_path / "psf.npz", other=np.zeros(3), psf=values)
            path = tmp_path / "psf.npz"
        else:
            change = {
                "channels last": lambda: values.transpose(1, 2, 0),
                "float32": lambda: values.astype(np.float32),
                "column first": lambda: np.asfortranarray(values),
            }
            np.save(path, change.get(kind, lambda: values)())
        psf, words = read_psf(path)
        assert psf.dtype == torch.float32 and not words
        torch.testing.assert_close(psf, peaked(9).float())

    def test_three_by_three_counts_as_channels_first(self, tmp_path: Path) -> None:
        values = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(0))
        values /= values.sum((-2, -1), keepdim=True)
        np.save(tmp_path / "psf.npy", values.numpy())
        torch.testing.assert_close(read_psf(tmp_path / "psf.npy")[0], values)

    @pytest.mark.parametrize(
        ("array", "words"),
        [
            (np.zeros((4, 4)), r"not numbers of shape \(3, K, K\) or \(K, K, 3\)"),
            (np.zeros((3, 4, 5)), r"not numbers of shape \(3, K, K\) or \(K, K, 3\)"),
            (np.zeros((3, 0, 0)), "not numbers of shape"),
            (np.full((3, 3, 3), "a"), "not numbers of shape"),
            (np.full((3, 3, 3), 1 / 9 + 0j), "not numbers of shape"),
            (np.full((3, 3, 3), np.nan), "not finite"),
            (np.full((3, 3, 3), np.inf), "not finite"),
            (np.full((3, 3, 3), 1.06 / 9), "sum to 1.06, 1.06, 1.06, more than 5% off 1"),
            (np.zeros((3, 3, 3)), "sum to 0, 0, 0"),
            (np.eye(3)[None].repeat(3, 0) / 3 * 2 - 1 / 9, r"negative in places \(-0.111\)"),
            (np.full((3, 803, 803), 803.0**-2), "803² pixels is larger than 801²"),
        ],
        ids=["two axes", "oblong", "empty", "text", "complex", "nan", "inf", "sum", "dark", "negative", "large"],
    )
    def test_refused_in_a_sentence(self, tmp_path: Path, array: np.ndarray, words: str) -> None:
        np.save(tmp_path / "psf.npy", array)
        with pytest.raises(PanelError, match=rf"psf\.npy: .*{words}.*\.$"):
            read_psf(tmp_path / "psf.npy")

    @pytest.mark.parametrize("case", ["pickled", "terabyte", "truncated", "two arrays", "bomb"])
    def test_file_that_is_no_array(self, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "psf.npz"
        if case == "pickled":
            np.save(tmp_path / "a.npy", np.array([{}], dtype=object))
            path = tmp_path / "a.npy"
        elif case == "terabyte":
            path = tmp_path / "a.npy"
            with open(path, "wb") as file:
                np.lib.format.write_array_header_1_0(
                    file, {"descr": "<f4", "fortran_order": False, "shape": (3, 10**6, 10**6)}
                )
        elif case == "two arrays":
            np.savez(path, a=np.zeros(3), b=np.zeros(3))
        elif case == "bomb":
            monkeypatch.setattr("udc_defense.panel_file.MAX_BYTES", 10**5)
            np.savez_compressed(path, np.zeros((3, 200, 200)))
        else:
            np.savez(path, peaked(9).numpy())
            path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(PanelError, match=rf"{path.name}: .*\.$"):
            read_psf(path)

    def test_names_of_other_archives_are_not_unpacked(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "psf.npz", "w") as archive:
            archive.writestr("../evil", json.dumps({}))
        with pytest.raises(PanelError):
            read_psf(tmp_path / "psf.npz")


class TestCheckPsf:
    @pytest.mark.parametrize("flip", [(), (-1,), (-2,), (-2, -1)])
    def test_even_sides_keep_their_core_in_the_middle(self, flip: tuple[int, ...]) -> None:
        """Of the four middle pixels the brightest becomes the middle; nothing is lost."""
        psf = peaked(8).flip(flip)
        odd, words = check_psf(psf, "it")
        assert odd.shape == (3, 9, 9) and "even side of 8" in words[0]
        assert (odd.flatten(1).argmax(dim=1) == 40).all()
        assert torch.equal(odd[odd > 0].sort().values, psf[psf > 0].float().sort().values)

    def test_even_side_of_800_fits(self) -> None:
        psf = torch.zeros(3, 800, 800)
        psf[:, 400, 400] = 1
        assert check_psf(psf, "it")[0].shape == (3, LARGEST_SIDE, LARGEST_SIDE)

    def test_sums_near_one_are_normalised_with_a_word(self) -> None:
        psf, words = check_psf(peaked(9) * torch.tensor([0.96, 1.0, 1.04]).view(3, 1, 1), "it")
        torch.testing.assert_close(psf, peaked(9).float())
        assert words == ["channels that summed to 0.9600, 1.0000, 1.0400 were normalised to 1"]

    @pytest.mark.parametrize("scale", [0.3, 0.5, 1.7, 3.0])
    def test_another_sampling(self, scale: float) -> None:
        """Light is kept, the middle too, and its second moment grows by scale², but for the pixels' own width."""
        psf = peaked(31)
        moved, words = check_psf(psf, "it", scale=scale)
        assert moved.shape[-1] % 2 == 1 and words == [f"resampled by {scale:g} to a side of {moved.shape[-1]}"]

        def moments(psf: Tensor, dim: int) -> tuple[Tensor, Tensor]:
            axis = torch.arange(psf.shape[-1], dtype=torch.float64) - psf.shape[-1] // 2
            line = psf.double().sum(dim=dim)
            mean = (line * axis).sum(-1)
            return mean, (line * axis**2).sum(-1) - mean**2

        for dim in (-1, -2):
            (mean, spread), (new_mean, new_spread) = moments(psf, dim), moments(moved, dim)
            torch.testing.assert_close(new_mean, scale * mean, atol=0.02, rtol=0)
            assert ((new_spread - scale**2 * spread).abs() < (scale**2 + 1) / 4).all()

    @pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), 1000.0])
    def test_scale_out_of_range(self, scale: float) -> None:
        with pytest.raises(PanelError, match=r"scale of .* is not in 0\.01…100\.$"):
            check_psf(peaked(5), "it", scale=scale)

    def test_too_large_when_scaled(self) -> None:
        with pytest.raises(PanelError, match="is larger than 801²"):
            check_psf(peaked(101), "it", scale=8.0)
