"""What strangers put into config.json, checksums.json and weights: refused in a sentence, before it costs anything."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_client import edit, sentence
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from tiny_networks import save_purifier, save_restorer

from udc_defense import UDCDefensePipeline
from udc_defense.checkpoints.files import CHECKSUMS, WEIGHTS, read_json, sha256
from udc_defense.checkpoints.load import load_purifier, load_restorer
from udc_defense.errors import CheckpointError, SettingError
from udc_defense.formats.json_text import parse_json
from udc_defense.restorers import RESTORERS
from udc_defense.sizes import check_sizes
from udc_defense.training.restorer import untrained


@pytest.fixture
def restorer(tmp_path: Path) -> Path:
    folder = save_restorer(tmp_path / "net")
    (folder / CHECKSUMS).unlink()
    return folder


@pytest.fixture
def purifier(tmp_path: Path) -> Path:
    folder = save_purifier(tmp_path / "prior")
    (folder / CHECKSUMS).unlink()
    return folder


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        action()
    return sentence(caught)


class TestJson:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("[" * 200_000, "more than 100000 values"),
            ("[" * 90_000 + "]" * 90_000, "nested deeper than 32 levels"),
            ("[" * 33 + "]" * 33, "nested deeper than 32 levels"),
            ('{"a":' * 40 + "1" + "}" * 40, "nested deeper than 32 levels"),
            (json.dumps(dict.fromkeys(map(str, range(200_000)), 1)), "more than 100000 values"),
            ('{"width": NaN}', "NaN is no number"),
            ('{"width": -Infinity}', "-Infinity is no number"),
            ('{"width": ' + "9" * 5000 + "}", "digits"),
            ('{"width": ' + "9" * 19 + "}", "19 digits"),
            ('{"width": 1e999}', "larger than any"),
            (json.dumps({"a": "b" * 1001}), "longer than 1000 characters"),
            (json.dumps({"b" * 1001: 1}), "longer than 1000 characters"),
            ("", "Expecting value"),
        ],
    )
    def test_refusals(self, text: str, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            parse_json(text)
        with pytest.raises(ValueError, match=reason):
            parse_json(text.encode())

    def test_what_is_used(self) -> None:
        value = {"a": [1, 2.5, None, True, "text, with [brackets] and {braces}"], "b": {"c": {}}}
        assert parse_json(json.dumps(value).encode()) == value
        assert parse_json("[" * 32 + "]" * 32)

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "config.json")
        assert "it is no regular file" in refusal(lambda: read_json(tmp_path / "config.json"))
        assert "is no regular file" in refusal(lambda: sha256(tmp_path / "config.json"))

    def test_a_file_too_large_is_not_read(self, tmp_path: Path) -> None:
        with open(tmp_path / "config.json", "wb") as file:
            file.truncate(1 << 40)
        assert "1099511627776 bytes, more than the 1048576 allowed" in refusal(
            lambda: read_json(tmp_path / "config.json")
        )


class TestRestorers:
    @pytest.mark.parametrize("name", ["config.json", CHECKSUMS])
    def test_a_pipe_for_a_file(self, restorer: Path, name: str) -> None:
        (restorer / name).unlink(missing_ok=True)
        os.mkfifo(restorer / name)
        if name == "config.json":
            assert "it is no regular file" in refusal(lambda: load_restorer(restorer))
        else:
            load_restorer(restorer)  # a list that is no file is none

    def test_a_pipe_for_the_weights(self, restorer: Path) -> None:
        (restorer / WEIGHTS).unlink()
        os.mkfifo(restorer / WEIGHTS)
        assert f"has no {WEIGHTS}" in refusal(lambda: load_restorer(restorer))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_weights_that_are_no_numbers(self, restorer: Path, value: float) -> None:
        state = load_file(restorer / WEIGHTS)
        state["stem.weight"][0, 0, 0, 0] = value
        save_file(state, restorer / WEIGHTS)
        assert "stem.weight holds values that are no numbers" in refusal(lambda: load_restorer(restorer))

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"widths": [4, -8]}, "its widths has -8, not a whole number in 1…"),
            ({"widths": [0, 8]}, "its widths has 0, not"),
            ({"widths": [4.0, 8]}, "its widths has '4.0', not a whole number"),
            ({"widths": [True, 8]}, "its widths has 'True', not a whole number"),
            ({"widths": [10**9, 8]}, "its widths has 1000000000, not"),
            ({"widths": [[4], 8], "blocks": [-1, 1]}, "its blocks has -1, not a whole number in 0…"),
            ({"widths": [4] * 200}, "200 entries, more than 64"),
            ({"widths": None}, "its widths has 'None', not"),
            ({"widths": {"a": 1}}, "its widths has"),
            ({"note": -5}, "its note has -5"),
        ],
    )
    def test_sizes(self, restorer: Path, change: dict[str, object], reason: str) -> None:
        edit(restorer / "config.json", **change)
        message = refusal(lambda: load_restorer(restorer))
        assert reason in message and "describe a GatedUNet" in message

    @pytest.mark.parametrize("name", [name for name in RESTORERS.names() if name != "spandrel"])
    def test_every_size_of_every_network(self, name: str) -> None:
        """Those with which the constructors would be silent too."""
        import inspect

        for option, parameter in inspect.signature(RESTORERS.get(name)).parameters.items():
            if "int" in str(parameter.annotation):
                many = "Sequence" in str(parameter.annotation)
                for wrong in (-1, 1.5, "3", 10**12):
                    value = [wrong, *list(parameter.default)[1:]] if many else wrong
                    with pytest.raises(SettingError, match=option):
                        check_sizes(RESTORERS.get(name), {option: value})
            check_sizes(RESTORERS.get(name), {option: parameter.default})

    def test_an_untrained_network_is_checked_as_well(self) -> None:
        with pytest.raises(SettingError, match=r"nafnet cannot be made with .* \(its window has -1, not"):
            untrained("nafnet", {"window": -1})


class TestPurifiers:
    @pytest.mark.parametrize(
        ("file", "change", "reason"),
        [
            ("unet/config.json", {"block_out_channels": [4, -8]}, "block_out_channels has -8"),
            ("unet/config.json", {"layers_per_block": 10**9}, "layers_per_block has 1000000000"),
            ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}, "num_train_timesteps has"),
            ("scheduler/scheduler_config.json", {"beta_end": 2.0}, "noise of its schedule"),
            ("scheduler/scheduler_config.json", {"beta_start": -0.1}, "noise of its schedule"),
            ("training.json", {"last_timestep": -3}, "last_timestep -3"),
            ("training.json", {"last_timestep": "1"}, "last_timestep '1'"),
        ],
    )
    def test_sizes(self, purifier: Path, file: str, change: dict[str, object], reason: str) -> None:
        edit(purifier / file, **change)
        assert reason in refusal(lambda: load_purifier(purifier))

    def test_weights_that_are_no_numbers(self, purifier: Path) -> None:
        state = load_file(purifier / "unet" / WEIGHTS)
        state["conv_in.bias"][1] = float("nan")
        save_file(state, purifier / "unet" / WEIGHTS)
        for load in (load_purifier, UDCDefensePipeline.from_pretrained):
            assert "conv_in.bias holds values that are no numbers" in refusal(lambda load=load: load(purifier))

    def test_the_pipeline_checks_sizes_too(self, purifier: Path) -> None:
        edit(purifier / "unet" / "config.json", block_out_channels=[4, 10**9])
        assert "block_out_channels has 1000000000" in refusal(lambda: UDCDefensePipeline.from_pretrained(purifier))

    def test_the_index_of_a_pipeline(self, purifier: Path) -> None:
        (purifier / "model_index.json").write_text("[" * 90_000 + "]" * 90_000)
        assert "nested deeper" in refusal(lambda: UDCDefensePipeline.from_pretrained(purifier))

    def test_defaults_are_sizes(self) -> None:
        check_sizes(UNet2DModel, dict(UNet2DModel(block_out_channels=(32,), down_block_types=("DownBlock2D",),
                                                  up_block_types=("UpBlock2D",)).config))  # fmt: skip


class TestChecksums:
    @pytest.mark.parametrize(
        "name",
        ["/etc/hostname", "../net/config.json", "a/../../b", "a//b", "", ".", "..", "a/", "a\\b", "a\0b", "a b\n"],
    )
    def test_names_outside_of_the_folder(self, restorer: Path, name: str) -> None:
        (restorer / CHECKSUMS).write_text(json.dumps({name: {"bytes": 1, "sha256": "0" * 64}}))
        assert "which is no file of the folder" in refusal(lambda: load_restorer(restorer))

    @pytest.mark.parametrize(
        "entry",
        [
            {"bytes": "1", "sha256": "0" * 64},
            {"bytes": 1, "sha256": 5},
            {"bytes": 1, "sha256": "zz"},
            {"bytes": 1},
            None,
        ],
    )
    def test_entries(self, restorer: Path, entry: object) -> None:
        (restorer / CHECKSUMS).write_text(json.dumps({"config.json": entry}))
        assert "lacks size or sha256 of config.json" in refusal(lambda: load_restorer(restorer))

    def test_many_files(self, restorer: Path) -> None:
        listed = {f"{i}.json": {"bytes": 1, "sha256": "0" * 64} for i in range(2000)}
        (restorer / CHECKSUMS).write_text(json.dumps(listed))
        assert "lists 2000 files, more than 1000" in refusal(lambda: load_restorer(restorer))

    def test_a_listed_pipe(self, restorer: Path) -> None:
        os.mkfifo(restorer / "extra.json")
        (restorer / CHECKSUMS).write_text(json.dumps({"extra.json": {"bytes": 0, "sha256": "0" * 64}}))
        assert "its file extra.json is missing" in refusal(lambda: load_restorer(restorer))


def test_half_precision_overflow_is_found_too(restorer: Path) -> None:
    state = {key: value.half() for key, value in load_file(restorer / WEIGHTS).items()}
    state["stem.bias"] = torch.full(state["stem.bias"].shape, 70_000.0).half()
    save_file(state, restorer / WEIGHTS)
    assert "stem.bias holds values that are no numbers" in refusal(lambda: load_restorer(restorer))
