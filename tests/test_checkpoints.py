"""Names, folders and the Hub: what loads, and one sentence for everything that does not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from udc_defense.checkpoints import (
    CHECKSUMS,
    EMBEDDED,
    WEIGHTS,
    checksum,
    embedded_names,
    load_purifier,
    load_restorer,
    resolve,
    verify,
    write_checksums,
)
from udc_defense.errors import CheckpointError, SettingError
from udc_defense.noise import seeded
from udc_defense.restorers.gated_unet import GatedUNet


def sentence(caught: pytest.ExceptionInfo[CheckpointError]) -> str:
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def save_restorer(folder: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GatedUNet(widths=(4, 8), blocks=(1, 1)).half().save_pretrained(folder)
    write_checksums(folder)
    return folder


def save_purifier(folder: Path, prediction_type: str = "epsilon") -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet2DModel(
            block_out_channels=(4, 8),
            layers_per_block=1,
            norm_num_groups=2,
            add_attention=False,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
        )
    scheduler = DDPMScheduler(clip_sample=False, prediction_type=prediction_type)
    DDPMPipeline(network.half(), scheduler).save_pretrained(folder)
    (folder / "training.json").write_text('{"last_timestep": 150}')
    write_checksums(folder)
    return folder


@pytest.fixture
def restorer(tmp_path: Path) -> Path:
    return save_restorer(tmp_path / "net")


@pytest.fixture
def purifier(tmp_path: Path) -> Path:
    return save_purifier(tmp_path / "prior")


def flip(path: Path, position: int) -> None:
    """Invert one bit, keeping the size."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestEmbedded:
    @pytest.mark.parametrize("kind", ["restorer", "purifier"])
    def test_every_embedded_checkpoint_is_whole(self, kind: str) -> None:
        assert "default" in embedded_names(kind)
        for name in embedded_names(kind):
            folder = resolve(name, kind)
            assert folder == EMBEDDED / kind / name
            listed = json.loads((folder / CHECKSUMS).read_text())
            present = {p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.suffix != ".md"}
            assert set(listed) == present - {CHECKSUMS}
            assert max(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 10_000_000

    @pytest.mark.parametrize("kind", ["restorer", "purifier"])
    def test_weights_are_frozen_float32_in_evaluation_mode(self, kind: str) -> None:
        module = load_restorer() if kind == "restorer" else load_purifier(noise_level=150)
        assert not module.training
        for parameter in module.parameters():
            assert parameter.dtype == torch.float32 and not parameter.requires_grad and parameter.isfinite().all()

    def test_the_default_purifier_refuses_what_it_was_not_trained_for(self) -> None:
        with pytest.raises(SettingError, match=r"151 is not in 0…150"):
            load_purifier(noise_level=151)

    @pytest.mark.parametrize("kind", ["restorer", "purifier"])
    def test_a_flipped_bit_anywhere_is_found(self, kind: str, tmp_path: Path) -> None:
        for name in json.loads((EMBEDDED / kind / "default" / CHECKSUMS).read_text()):
            copy = tmp_path / name.replace("/", "_")
            shutil.copytree(EMBEDDED / kind / "default", copy)
            flip(copy / name, (copy / name).stat().st_size // 2)
            with pytest.raises(CheckpointError, match="damaged") as caught:
                resolve(copy, kind)
            assert name in sentence(caught)

    def test_the_checksum_is_that_of_the_weights_file(self) -> None:
        for kind, file in (("restorer", WEIGHTS), ("purifier", f"unet/{WEIGHTS}")):
            folder = EMBEDDED / kind / "default"
            assert checksum(folder) == json.loads((folder / CHECKSUMS).read_text())[file]["sha256"]


class TestChecksums:
    def test_round_trip(self, purifier: Path) -> None:
        listed = json.loads((purifier / CHECKSUMS).read_text())
        assert f"unet/{WEIGHTS}" in listed and "scheduler/scheduler_config.json" in listed
        for name, entry in listed.items():
            data = (purifier / name).read_bytes()
            assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        verify(purifier, purifier)

    def test_written_twice_they_stay_the_same(self, restorer: Path) -> None:
        before = (restorer / CHECKSUMS).read_bytes()
        write_checksums(restorer)
        assert (restorer / CHECKSUMS).read_bytes() == before

    def test_only_what_a_download_brings_is_listed(self, restorer: Path) -> None:
        """A card beside the weights is not fetched, so it must not be missed."""
        (restorer / "README.md").write_text("A card.")
        write_checksums(restorer)
        assert "README.md" not in json.loads((restorer / CHECKSUMS).read_text())

    def test_a_folder_without_them_loads(self, restorer: Path) -> None:
        (restorer / CHECKSUMS).unlink()
        load_restorer(restorer)

    def test_missing_file(self, restorer: Path) -> None:
        (restorer / WEIGHTS).unlink()
        with pytest.raises(CheckpointError, match=f"its file {WEIGHTS} is missing") as caught:
            load_restorer(restorer)
        assert str(restorer) in sentence(caught)

    @pytest.mark.parametrize("text", ["[]", '{"config.json": 1}', '{"config.json": {"bytes": 1}}', "{", "\udcff"])
    def test_a_list_that_is_none(self, restorer: Path, text: str) -> None:
        (restorer / CHECKSUMS).write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(CheckpointError) as caught:
            load_restorer(restorer)
        assert CHECKSUMS in sentence(caught)


Change = Callable[[Path], object]
UNREADABLE: dict[str, tuple[Change, str]] = {
    "unknown architecture": (lambda folder: edit(folder / "config.json", _class_name="Stranger"), "'Stranger'"),
    "no architecture": (lambda folder: (folder / "config.json").write_text("{}"), "'None'"),
    "widths that do not fit the weights": (lambda folder: edit(folder / "config.json", widths=[8, 8]), "do not fit"),
    "a configuration that builds nothing": (lambda folder: edit(folder / "config.json", blocks=[1]), "GatedUNet"),
    "words instead of numbers": (lambda folder: edit(folder / "config.json", widths="wide"), "GatedUNet"),
    "bad JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
    "bytes that are no text": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"), "JSON"),
    "a list for an object": (lambda folder: (folder / "config.json").write_text("[1]"), "no JSON object"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
    "half the weights": (lambda folder: os.truncate(folder / WEIGHTS, 1000), "cannot be read"),
    "a pickle for weights": (lambda folder: torch.save({"a": torch.ones(1)}, folder / WEIGHTS), "cannot be read"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_restorer_that_cannot_be_used(name: str, restorer: Path) -> None:
    change, words = UNREADABLE[name]
    (restorer / CHECKSUMS).unlink()
    change(restorer)
    with pytest.raises(CheckpointError) as caught:
        load_restorer(restorer)
    assert words in sentence(caught) and str(restorer) in str(caught.value)


BAD_PURIFIERS: dict[str, tuple[Change, str]] = {
    "a restorer": (lambda folder: shutil.rmtree(folder / "unet"), "has no config.json"),
    "no scheduler": (lambda folder: shutil.rmtree(folder / "scheduler"), "has no scheduler_config.json"),
    "no such schedule": (
        lambda folder: edit(folder / "scheduler" / "scheduler_config.json", beta_schedule="parabola"),
        "DDPMScheduler",
    ),
    "blocks that do not exist": (
        lambda folder: edit(folder / "unet" / "config.json", down_block_types=["A", "B"]),
        "UNet2DModel",
    ),
    "a level in words": (lambda folder: edit(folder / "training.json", last_timestep="many"), "'many'"),
    "no weights": (lambda folder: (folder / "unet" / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
}


@pytest.mark.parametrize("name", BAD_PURIFIERS)
def test_a_purifier_that_cannot_be_used(name: str, purifier: Path) -> None:
    change, words = BAD_PURIFIERS[name]
    (purifier / CHECKSUMS).unlink()
    change(purifier)
    with pytest.raises(CheckpointError) as caught:
        load_purifier(purifier)
    assert words in sentence(caught) and str(purifier) in str(caught.value)


def test_a_purifier_that_predicts_something_else(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r": predicts 'v_prediction', not epsilon or sample\.$") as caught:
        load_purifier(save_purifier(tmp_path / "prior", prediction_type="v_prediction"))
    sentence(caught)


def test_a_purifier_that_predicts_the_image_itself(tmp_path: Path) -> None:
    assert load_purifier(save_purifier(tmp_path / "prior", prediction_type="sample")).prediction == "sample"


def test_a_purifier_loads_from_a_folder(purifier: Path) -> None:
    loaded = load_purifier(purifier, sampler="ddim", noise_level=12, steps=3, draws=2, aggregate="median")
    assert (loaded.evaluations, loaded.last_timestep) == (6, 150)
    image = torch.rand(1, 3, 9, 10, generator=seeded(0))
    assert loaded(image, generator=seeded(1)).shape == image.shape


def test_a_limit_above_the_schedule_is_the_schedule(purifier: Path) -> None:
    (purifier / CHECKSUMS).unlink()
    edit(purifier / "training.json", last_timestep=5000)
    with pytest.raises(SettingError, match="1001 is not in 0…1000"):
        load_purifier(purifier, noise_level=1001)


@pytest.mark.parametrize("kind", ["restorer", "purifier"])
@pytest.mark.parametrize("source", ["defualt", "a/b/c", "/no/such/folder", "default@main", "öä ü", "http://a/b"])
def test_an_unknown_name_lists_the_known_ones(source: str, kind: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve(source, kind)
    assert source in sentence(caught) and "default" in str(caught.value)


def test_a_file_is_no_checkpoint(restorer: Path) -> None:
    with pytest.raises(CheckpointError, match="nor a folder"):
        resolve(restorer / WEIGHTS, "restorer")


def test_an_empty_folder(tmp_path: Path) -> None:
    for load in (load_restorer, load_purifier):
        with pytest.raises(CheckpointError, match=r"has no config\.json\.$") as caught:
            load(tmp_path)
        sentence(caught)


@dataclass
class Hub:
    """A loopback Hub of folders: what `snapshot_download` asks for, and nothing else."""

    repositories: dict[str, Path]
    corrupt: set[str] = field(default_factory=set)  # repositories whose weights arrive with a flipped bit
    asked: list[str] = field(default_factory=list)
    address: str = ""

    @staticmethod
    def commit(repository: str) -> str:
        return hashlib.sha1(repository.encode()).hexdigest()

    def files(self, repository: str) -> list[str]:
        folder = self.repositories[repository]
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def body(self, repository: str, file: str) -> bytes:
        data = bytearray((self.repositories[repository] / file).read_bytes())
        if repository in self.corrupt and file.endswith(WEIGHTS):
            data[len(data) // 2] ^= 1
        return bytes(data)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    repositories = {
        "me/net": save_restorer(tmp_path / "hub" / "net"),
        "me/prior": save_purifier(tmp_path / "hub" / "prior"),
        "me/damaged": save_restorer(tmp_path / "hub" / "damaged"),
    }
    (repositories["me/net"] / "README.md").write_text("A card that no loader needs.")
    hub = Hub(repositories, corrupt={"me/damaged"})

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:  # noqa: N802
            self.answer(with_body=False)

        def do_GET(self) -> None:  # noqa: N802
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            hub.asked.append(self.path)
            code, headers, body = self.found(self.path.partition("?")[0].strip("/").split("/"))
            self.send_response(code)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def found(self, parts: list[str]) -> tuple[int, dict[str, str], bytes]:
            match parts:
                case ["api", "models", owner, name, kind, revision] if kind in ("revision", "tree"):
                    repository, file = f"{owner}/{name}", ""
                case [owner, name, "resolve", revision, *rest]:
                    repository, file = f"{owner}/{name}", "/".join(rest)
                case _:
                    return 404, {"X-Error-Code": "EntryNotFound"}, b""
            if repository not in hub.repositories:
                return 404, {"X-Error-Code": "RepoNotFound"}, b""
            commit = hub.commit(repository)
            if revision not in ("main", commit):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            if not file:
                kind = parts[4]
                listing = [
                    {"type": "file", "path": f, "size": len(hub.body(repository, f)), "oid": commit}
                    for f in hub.files(repository)
                ]
                siblings = [{"rfilename": entry["path"]} for entry in listing]
                answer = listing if kind == "tree" else {"id": repository, "sha": commit, "siblings": siblings}
                return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()
            if file not in hub.files(repository):
                return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
            body = hub.body(repository, file)
            return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}, body

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


# The real client reads its settings at import, so it runs in a process of its own; `resolve` needs no torch.
CLIENT = """
import json, sys
from udc_defense import checkpoints
for call in sys.argv[1:]:
    function, source = call.split(":", 1)
    try:
        if function == "resolve":
            answer = str(checkpoints.resolve(source, "restorer"))
        else:
            answer = type(getattr(checkpoints, function)(source)).__name__
    except checkpoints.CheckpointError as error:
        answer = f"error {error}"
    print(json.dumps(answer))
"""


def client(cache: Path, endpoint: str, *calls: str, **environment: str) -> list[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *calls],
        env=kept | settings | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_hub(hub: Hub, tmp_path: Path) -> None:
    """The real client against a loopback Hub: up, then gone, then switched off."""
    cache = tmp_path / "cache"
    answers = client(
        cache,
        hub.address,
        "load_restorer:me/net@main",
        "load_purifier:me/prior",
        "resolve:me/nothing",
        "resolve:me/net@v9",
        "resolve:me/damaged",
        "resolve:../net",
    )
    assert answers[:2] == ["GatedUNet", "DiffusionPurifier"]
    assert answers[2] == "error me/nothing: no such repository on the Hub, or it is private."
    assert answers[3] == "error me/net@v9: the repository has no revision 'v9'."
    assert (
        answers[4] == f"error me/damaged: its file {WEIGHTS} is damaged (sha256 differs); fetch the checkpoint again."
    )
    assert answers[5] == "error ../net: not a valid name of a repository."
    assert any("/me/net/resolve/" in path for path in hub.asked)
    assert not any(path.endswith("README.md") for path in hub.asked)

    gone = "http://127.0.0.1:9"  # the port of `discard`, where nothing listens
    offline: list[dict[str, str]] = [{}, {"HF_HUB_OFFLINE": "1"}]
    for environment in offline:
        cached, unknown = client(cache, gone, "resolve:me/net@main", "resolve:me/other", **environment)
        assert cached.endswith(Hub.commit("me/net"))
        assert unknown == "error me/other: the Hub cannot be reached and the cache does not hold it."
