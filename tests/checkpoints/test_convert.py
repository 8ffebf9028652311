"""Official checkpoints in, folders for `load_restorer` out; anything else is one sentence and leaves nothing behind."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from restorer_contract import picture, randomised
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from zoo_fixture import reference

from udc_defense import cli
from udc_defense.checkpoints import convert
from udc_defense.checkpoints.convert import CONTAINERS, LAYOUTS, PREFIXES
from udc_defense.checkpoints.files import WEIGHTS
from udc_defense.checkpoints.load import load_restorer
from udc_defense.errors import CheckpointError, SettingError
from udc_defense.restorers import RESTORERS, Restorer
from udc_defense.restorers.discnet import PSF_CODE
from udc_defense.restorers.uformer import SIZES, Uformer

# Configurations of the fixtures, as the weights tell them.
FIXTURES: dict[str, dict[str, Any]] = {
    "bnudc": {"n_feat_high": 12, "n_feat_low": 8, "scale_feats": 4, "num_blk": 2},
    "discnet": {"width": 8, "filter_size": 5},
    "nafnet": {
        "width": 8,
        "encoder_blocks": [1, 2, 1, 2],
        "middle_blocks": 1,
        "decoder_blocks": [2, 1, 1, 1],
        "window": None,
    },
    "udc_unet": {"width": 8, "depths": [1, 2, 1, 2, 2, 1, 1], "filter_size": 3, "psf_code": list(PSF_CODE)},
    "uformer": {
        "img_size": 64,
        "embed_dim": 4,
        "depths": [1, 2, 1, 2, 2, 1, 2, 1, 2],
        "num_heads": [1, 2, 4, 8, 16, 16, 8, 4, 2],
        "win_size": 4,
        "mlp_ratio": 4.0,
        "shift_flag": True,
    },
}

# Others, each unlike the published one in everything that the weights tell.
SMALL: list[tuple[str, dict[str, Any]]] = [
    ("bnudc", {"n_feat_high": 8, "n_feat_low": 6, "scale_feats": 2, "num_blk": 1}),
    ("discnet", {"width": 4, "filter_size": 3, "psf_code": [0.0] * 7}),
    ("nafnet", {"width": 4, "encoder_blocks": [0, 2], "middle_blocks": 0, "decoder_blocks": [1, 3], "window": None}),
    ("udc_unet", {"width": 4, "depths": [1, 3, 1, 2, 1, 2, 1], "filter_size": 5, "psf_code": [0.0, 0.0]}),
    (
        "uformer",
        {
            "img_size": 128,
            "embed_dim": 6,
            "depths": [1, 1, 2, 1, 1, 1, 1, 2, 1],
            "num_heads": [1, 1, 2, 3, 4, 3, 2, 1, 1],
            "win_size": 8,
            "mlp_ratio": 1.5,
            "shift_flag": True,
        },
    ),
    (
        "uformer",  # a bottom smaller than a window
        {
            "img_size": 64,
            "embed_dim": 4,
            "depths": [1] * 9,
            "num_heads": [1] * 9,
            "win_size": 8,
            "mlp_ratio": 2.0,
            "shift_flag": True,
        },
    ),
]


def built(name: str, config: dict[str, Any]) -> Restorer:
    return randomised(RESTORERS.get(name)(**config), scale=0.5)


def small(name: str = "discnet") -> Restorer:
    return built(name, next(config for known, config in SMALL if known == name))


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def official(path: Path, name: str, weights: dict[str, Tensor]) -> Path:
    """As the network's own training code saves them."""
    layout = reference(name).manifest["checkpoint"]
    state = {layout["prefix"] + key: value for key, value in weights.items()}
    return saved(path, {layout["container_key"]: state} if layout["container_key"] else state)


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without diffusers' own entries; tuples and lists are alike."""
    return json.loads(json.dumps({key: value for key, value in config.items() if not key.startswith("_")}))


def outputs(*networks: Restorer) -> list[Tensor]:
    # Order of memory changes bits, and what was loaded has its own.
    return [network.to(memory_format=torch.channels_last)(picture(1, 3, 24, 40)) for network in networks]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_converted_reference_computes_what_the_official_network_does(name: str, tmp_path: Path) -> None:
    published = reference(name)
    code = {"psf_code": published.tensors["psf"].flatten().tolist()} if name == "discnet" else {}
    source = official(tmp_path / "net.pth", name, published.weights)
    done = convert.convert(source, tmp_path / "net", settings=code)
    assert done.architecture == name and done.parameters == published.fixture["parameters"]
    network = load_restorer(done.folder)
    assert plain(network.config) == FIXTURES[name] | code
    published.assert_close(network.network_forward(published.tensors["input"]), "output")


@pytest.mark.parametrize(("name", "config"), SMALL)
def test_the_configuration_is_read_from_names_and_shapes(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    network = built(name, config)
    done = convert.convert(official(tmp_path / "net.pth", name, network.state_dict()), tmp_path / "net")
    assert plain(done.config) == config
    assert sorted(path.name for path in done.folder.iterdir()) == ["checksums.json", "config.json", WEIGHTS]
    assert torch.equal(*outputs(network, load_restorer(done.folder)))


def variants() -> list[tuple[str, dict[str, Any]]]:
    names = {"enc_blk_nums": "encoder_blocks", "middle_blk_num": "middle_blocks", "dec_blk_nums": "decoder_blocks"}
    naf = [variant["overrides"] for variant in reference("nafnet").manifest["variants"]]
    return [
        *((name, {}) for name in LAYOUTS),
        *(("uformer", size) for size in SIZES.values()),
        *(("nafnet", {names.get(key, key): value for key, value in overrides.items()}) for overrides in naf),
    ]


@pytest.mark.parametrize(("name", "options"), variants())
def test_every_published_size_is_recognised(name: str, options: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = RESTORERS.get(name)(**options)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert [known for known, layout in LAYOUTS.items() if layout.marks <= shapes.keys()] == [name]
    found = LAYOUTS[name].configure(shapes)
    assert found.keys() | set(LAYOUTS[name].untold) == plain(network.config).keys()
    assert plain(network.config | found) == plain(network.config)


@pytest.mark.parametrize(
    ("container", "prefix"),
    [
        *((container, "module.") for container in (*CONTAINERS, None)),
        *(("params", prefix) for prefix in (*PREFIXES, "module._orig_mod.net_g.", "")),
    ],
)
def test_containers_and_prefixes(container: str | None, prefix: str, tmp_path: Path) -> None:
    network = small()
    content: dict[str, Any] = {prefix + key: value for key, value in network.state_dict().items()}
    if container:
        content = {"epoch": 3, container: content, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    done = convert.convert(saved(tmp_path / "net.pth", content), tmp_path / "net")
    assert torch.equal(*outputs(network, load_restorer(done.folder)))


def test_containers_in_containers_and_the_averaged_weights_first(tmp_path: Path) -> None:
    network = small()
    averaged = network.state_dict()
    latest = {key: value + 1 for key, value in averaged.items()}
    content = {"model": {"params": latest, "params_ema": averaged}, "params": "none"}
    done = convert.convert(saved(tmp_path / "net.pth", content), tmp_path / "net")
    assert torch.equal(*outputs(network, load_restorer(done.folder)))


def test_files_from_before_pytorch_1_6(tmp_path: Path) -> None:
    network = small()
    source = saved(tmp_path / "net.pth", network.state_dict(), _use_new_zipfile_serialization=False)
    assert torch.equal(*outputs(network, load_restorer(convert.convert(source, tmp_path / "net").folder)))


@pytest.mark.parametrize("spelling", ["weight_g", "original0"])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_is_folded_into_plain_weights(spelling: str, dim: int | None, tmp_path: Path) -> None:
    network = small("nafnet")
    normalise = nn.utils.weight_norm if spelling == "weight_g" else nn.utils.parametrizations.weight_norm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for layer in (network.intro, network.downs[0], network.ending):
            normalise(layer, dim=dim)
    state = network.state_dict()
    assert any(spelling in key for key in state)
    done = convert.convert(saved(tmp_path / "net.pth", {"params": state}), tmp_path / "net")
    assert not any("weight_" in key for key in load_file(done.folder / WEIGHTS))
    assert torch.allclose(*outputs(network, load_restorer(done.folder)), atol=1e-5)


def test_bnudc_keeps_its_weight_norm_under_any_spelling(tmp_path: Path) -> None:
    network = small("bnudc")
    state = network.state_dict()
    new = {
        key.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): value
        for key, value in state.items()
    }
    done = convert.convert(saved(tmp_path / "new.pth", new), tmp_path / "new")
    assert torch.equal(*outputs(network, load_restorer(done.folder)))

    removed = {key: value for key, value in state.items() if "weight_" not in key}
    for key, v in state.items():
        if key.endswith("weight_v"):
            g = state[key.removesuffix("v") + "g"]
            removed[key.removesuffix("_v")] = v * g / torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True)
    done = convert.convert(saved(tmp_path / "removed.pth", removed), tmp_path / "removed")
    assert torch.allclose(*outputs(network, load_restorer(done.folder)), atol=1e-4)


def test_tensors_become_float32_with_memory_of_their_own(tmp_path: Path) -> None:
    network = small()
    state = network.state_dict()
    state["conv_12.conv1.weight"] = state["conv_12.conv2.weight"]  # shared
    state["conv_11.0.weight"] = state["conv_11.0.weight"].permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    state["conv_21.0.bias"] = state["conv_21.0.bias"].half()
    state["conv_31.0.bias"] = nn.Parameter(state["conv_31.0.bias"].double())
    done = convert.convert(saved(tmp_path / "net.pth", state), tmp_path / "net")
    written = load_file(done.folder / WEIGHTS)
    assert all(value.dtype == torch.float32 for value in written.values())
    assert all(torch.equal(written[key], value.float()) for key, value in state.items())


def test_the_index_of_uformer_stays_whole_numbers(tmp_path: Path) -> None:
    network = small("uformer")
    done = convert.convert(saved(tmp_path / "net.pth", network.state_dict()), tmp_path / "net")
    types = {value.dtype for key, value in load_file(done.folder / WEIGHTS).items() if "index" in key}
    assert types == {torch.int64}


def test_the_folder_says_which_file_it_was(tmp_path: Path) -> None:
    done = convert.convert(saved(tmp_path / "net.pth", small().state_dict()), tmp_path / "net")
    with safe_open(done.folder / WEIGHTS, framework="pt") as file:
        assert file.metadata()["source"].startswith("net.pth, sha256 ")
    assert len({path.stat().st_mode for path in done.folder.iterdir()}) == 1


# --- What the weights do not tell -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("discnet", "psf_code", [0.5] * 7),
        ("nafnet", "window", 32),
        ("uformer", "img_size", 256),
        ("uformer", "shift_flag", False),
    ],
)
def test_untold_settings_can_be_given(name: str, setting: str, value: Any, tmp_path: Path) -> None:
    source = saved(tmp_path / "net.pth", small(name).state_dict())
    assert setting in convert.convert(source, tmp_path / "default").assumed
    done = convert.convert(source, tmp_path / "given", settings={setting: value})
    assert setting not in done.assumed and load_restorer(done.folder).config[setting] == value


def test_the_published_code_and_side_are_the_defaults(tmp_path: Path) -> None:
    network = reference("discnet").weights
    assert convert.convert(saved(tmp_path / "a.pth", network), tmp_path / "a").assumed == {"psf_code": PSF_CODE}
    weights = built("uformer", SMALL[4][1]).state_dict()
    done = convert.convert(saved(tmp_path / "b.pth", weights), tmp_path / "b")
    with torch.device("meta"):
        assert done.assumed == {"img_size": Uformer().config["img_size"], "shift_flag": True}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("discnet", {"width": 8}),
        ("bnudc", {"psf_code": [0.0] * 5}),
        ("discnet", {"psf_code": "abcdefg"}),
        ("discnet", {"psf_code": [float("nan")] * 7}),
        ("discnet", {"psf_code": 3}),
        ("discnet", {"psf_code": [0.0] * 3}),
        ("nafnet", {"window": [1, 2]}),
        ("uformer", {"img_size": 0}),
    ],
)
def test_settings_that_make_no_sense(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    source = saved(tmp_path / "net.pth", small(name).state_dict())
    with pytest.raises((SettingError, CheckpointError)):
        convert.convert(source, tmp_path / "net", settings=settings)
    assert not (tmp_path / "net").exists()


# --- The command line, and what it refuses ----------------------------------------------------------------------------


def test_the_command_says_what_it_recognised_and_what_it_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = official(tmp_path / "net.pth", "nafnet", reference("nafnet").weights)
    assert cli.main(["models", "convert", str(source), "--out", str(tmp_path / "net")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "nafnet, 354,603 parameters; width=8, encoder_blocks=[1,2,1,2]" in first
    assert "this is assumed: window=null; --option" in second
    options = ["--arch", "nafnet", "--option", "window=16", "--out", str(tmp_path / "windowed")]
    assert cli.main(["models", "convert", str(source), *options]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "window=16" in line and load_restorer(tmp_path / "windowed").config["window"] == 16


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


def spoiled(key: str, value: Callable[[Tensor], Any]) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        state: dict[str, Any] = small().state_dict()
        saved(path, {"params": state | {key: value(state[key])}})

    return write


def cut(path: Path) -> None:
    whole = saved(path, small().state_dict()).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def cut_legacy(path: Path) -> None:
    whole = saved(path, small().state_dict(), _use_new_zipfile_serialization=False).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def without(count: int) -> Callable[[Path], Any]:
    return lambda path: saved(path, dict(list(small().state_dict().items())[:-count]))


def holding_itself(path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    saved(path, content)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no file": (lambda path: None, "cannot be read (No such file"),
    "a folder": (lambda path: path.mkdir(), "cannot be read (Is a directory"),
    "an empty file": (lambda path: path.touch(), "not a checkpoint of PyTorch"),
    "a web page": (lambda path: path.write_text("<html>404</html>"), "not a checkpoint of PyTorch"),
    "a plain pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "not a checkpoint of PyTorch"),
    "cut": (cut, "or a truncated one"),
    "cut, old": (cut_legacy, "or a truncated one"),
    "code": (lambda path: saved(path, {"params": Evil()}), "'posix.mkdir', and loading that may run code"),
    "a whole module": (lambda path: saved(path, nn.Linear(2, 2)), "may run code"),
    "an empty dict": (lambda path: saved(path, {}), "holds no weights"),
    "an empty container": (lambda path: saved(path, {"params": {}}), "holds no weights"),
    "itself": (holding_itself, "holds no weights"),
    "no dict": (lambda path: saved(path, [torch.zeros(3)]), "holds no weights"),
    "an optimizer": (lambda path: saved(path, {"epoch": 3, "optimizer": {}}), "holds no weights"),
    "another network": (
        lambda path: saved(path, nn.Linear(2, 2).state_dict()),
        "('weight', 'bias') are of no network known here (bnudc, discnet, nafnet, udc_unet, uformer)",
    ),
    "no numbers": (spoiled("conv_11.0.bias", lambda v: v.fill_(torch.nan)), "conv_11.0.bias are not all finite"),
    "too large": (spoiled("conv_11.0.bias", lambda v: v.double() + 1e300), "conv_11.0.bias are not all finite"),
    "another shape": (spoiled("conv_12.conv1.bias", lambda v: v[1:]), "1 of another shape: 'conv_12.conv1.bias'"),
    "another type": (spoiled("conv_12.conv1.bias", lambda v: v.long()), "1 of another shape"),
    "something else": (spoiled("conv_12.conv1.bias", lambda v: "text"), "'conv_12.conv1.bias' is no plain tensor"),
    "sparse": (spoiled("conv_12.conv1.bias", lambda v: v.to_sparse()), "is no plain tensor"),
    "no values": (spoiled("conv_12.conv1.bias", lambda v: v.to("meta")), "is no plain tensor"),
    "a bomb": (spoiled("kconv_11.0.weight", lambda v: v[:1, :1].expand(4, 10**6, 3, 3)), "is no plain tensor"),
    "a part": (without(5), "5 missing: "),
}


def refused(arguments: Sequence[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence; nothing may have been written."""
    before = sorted(tmp_path.rglob("*"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cli.main(["models", "convert", *map(str, arguments)]) == 2
    assert sorted(tmp_path.rglob("*")) == before
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert not printed.out and line.startswith("udc-defense: ") and line.endswith(".")
    return line


@pytest.mark.parametrize("case", BAD)
def test_bad_files_get_one_sentence_and_leave_nothing(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write, words = BAD[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(tmp_path / "net.pth")
    assert words in refused(["net.pth", "--out", "out/net"], tmp_path, capsys)


def test_insisting_on_a_network_says_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path / "net.pth", small().state_dict())
    line = refused([source, "--arch", "nafnet", "--out", tmp_path / "net"], tmp_path, capsys)
    assert "not those of nafnet (664 missing: 'intro.weight', 'intro.bias'" in line
    assert "124 unexpected: 'conv_11.0.weight', 'conv_11.0.bias', 'conv_12.conv1.weight', …)" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arch", "resnet"], "'resnet' is not one of bnudc, discnet"),
        (["--option", "psf_code"], "not of the form NAME=VALUE"),
        (["--option", "psf_code=here"], "no JSON value"),
        (["--option", "depth=3"], "'depth' is not a setting that weights of discnet leave open (psf_code)"),
    ],
)
def test_bad_options(options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path / "net.pth", small().state_dict())
    assert words in refused([source, *options, "--out", tmp_path / "net"], tmp_path, capsys)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path / "net.pth", small().state_dict())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    for out in ("full", "net.pth"):
        assert "exists and is not an empty folder" in refused([source, "--out", tmp_path / out], tmp_path, capsys)
    (tmp_path / "empty").mkdir()
    assert cli.main(["models", "convert", str(source), "--out", str(tmp_path / "empty")]) == 0
    load_restorer(tmp_path / "empty")


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "write_checksums", full)
    source = saved(tmp_path / "net.pth", small().state_dict())
    assert "cannot be written (No space left" in refused([source, "--out", tmp_path / "net"], tmp_path, capsys)
