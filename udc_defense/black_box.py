"""A restorer known by its answers only: asked within a budget, again where it fails, and never twice about an image."""

from __future__ import annotations

import functools
import hashlib
import json
import pkgutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from udc_defense.checkpoints.files import checksum
from udc_defense.checkpoints.load import IMPORTABLE, load_restorer
from udc_defense.checkpoints.resolve import resolve
from udc_defense.errors import CheckpointError, SettingError, UDCDefenseError
from udc_defense.images import quantize, read_image, write_png
from udc_defense.output import write_json
from udc_defense.tensors import check_image

GRADIO = "gradio:"
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds between tries
ANSWER_SECONDS = 120.0
ANSWER_BITS = 16


@dataclass(frozen=True)
class Target:
    """What is asked.

    Attributes:
        facts: what tells it from others, its name first; the folder of its answers states them.
        ask: captures (B, 3, H, W) in [0, 1] -> restored images of that shape.
        bits: of a query, 8 or 16 per channel.
        batch: queries per call.
    """

    facts: dict[str, Any]
    ask: Callable[[Tensor], Tensor]
    bits: int = 8
    batch: int = 16

    def __post_init__(self) -> None:
        if self.bits not in (8, 16):
            raise SettingError(f"queries of {self.bits} bits: a PNG has 8 or 16.")

    @property
    def name(self) -> str:
        """For messages."""
        return str(next(iter(self.facts.values())))


def find_target(source: str, *, bits: int = 8) -> Target:
    """What a name stands for.

    Args:
        source: a restorer (embedded name, folder, `owner/name[@revision]`); `package.module:attribute`, a network or a
            function of a batch; or `gradio:ADDRESS/ENDPOINT`, the address being a URL or a Space's `owner/name`, and
            the endpoint one that takes an image first and gives an image first.
        bits: of a query, per channel; an application may read no more than 8.

    Raises:
        CheckpointError: there is no such thing.
        SettingError: gradio_client is not installed, the address has no endpoint, or the bits are neither 8 nor 16.
    """
    if source.startswith(GRADIO):
        address, _, endpoint = source.removeprefix(GRADIO).rpartition("/")
        if not endpoint or not address.strip("/") or address.endswith(":/"):
            raise SettingError(f"{source} is not of the form gradio:ADDRESS/ENDPOINT.")
        return Target({"target": source}, GradioEndpoint(address, endpoint, bits), bits, batch=1)
    if not IMPORTABLE.fullmatch(source) or Path(source).exists():
        facts = {"target": source, "sha256": checksum(resolve(source, "restorer"))}
        return Target(facts, load_restorer(source), bits)
    try:
        found: Any = pkgutil.resolve_name(source)
    except Exception as error:
        raise CheckpointError(f"{source}: cannot be imported ({_problem(error)}).") from error
    if isinstance(found, nn.Module) or (isinstance(found, type) and issubclass(found, nn.Module)):
        found = load_restorer(source)
    if not callable(found):
        raise CheckpointError(f"{source}: a {type(found).__name__}, which cannot be called with images.")
    return Target({"target": source}, found, bits)


class GradioEndpoint:
    """A Gradio application as a function of one image, which travels as a PNG.

    What an application does to its answers belongs to it: `gr.Image` sends lossy WebP unless its format is "png".

    Args:
        address: URL, or `owner/name` of a Space.
        endpoint: its `api_name`, without the slash.
        bits: of the PNG.

    Raises:
        SettingError: gradio_client is not installed.
    """

    def __init__(self, address: str, endpoint: str, bits: int) -> None:
        try:
            import gradio_client
        except ImportError as error:
            raise SettingError(
                f'a Gradio target needs {error.name}; install it with pip install "udc-defense[demo]".'
            ) from error
        self.address, self.endpoint, self.bits, self.library = address, endpoint, bits, gradio_client
        self.folder = tempfile.TemporaryDirectory(prefix="udc-queries-")

    def __call__(self, image: Tensor) -> Tensor:
        """The restored image of a capture, both (1, 3, H, W)."""
        query = Path(self.folder.name) / "query.png"
        write_png(image, query, bits=self.bits)
        job = self._client.submit(self.library.handle_file(query), api_name=f"/{self.endpoint}")
        answer = Path(_first_text(job.result(timeout=ANSWER_SECONDS))).resolve()
        if not answer.is_relative_to(Path(self.folder.name).resolve()):  # a text that a stranger's server made up
            raise CheckpointError(f"{self.address}/{self.endpoint}: answers with a text, not with an image.")
        restored = read_image(answer)
        answer.unlink()
        return restored

    @functools.cached_property
    def _client(self) -> Any:
        """Connects when first asked: that may fail, and be tried again, as any question."""
        return self.library.Client(
            self.address, verbose=False, analytics_enabled=False, download_files=self.folder.name
        )


def _first_text(result: Any) -> str:
    """The first path in what an endpoint gives, which may be lists and dictionaries around one."""
    while not isinstance(result, str):
        if isinstance(result, dict):
            result = next((result[key] for key in ("path", "image", "value") if result.get(key)), None)
        elif isinstance(result, list | tuple) and result:
            result = result[0]
        else:
            raise CheckpointError(f"the endpoint answers with a {type(result).__name__}, not with an image.")
    return result


class BlackBox:
    """Captures -> the target's restored images; an image that is new is a query.

    Queries and answers are kept as `queries/KEY.png` and `answers/KEY.png` (16 bit), KEY being a hash of the query:
    pairs, as `read_pairs` reads them. A later run in the same folder asks about nothing that was answered; a kill loses
    one batch at most.

    Args:
        target: what is asked.
        folder: of the pairs; it states whose they are.
        budget: queries at most, those of earlier runs counted.

    Raises:
        SettingError: the folder holds answers of another target, or to queries of another depth.
    """

    def __init__(self, target: Target, folder: Path, *, budget: int) -> None:
        self.target, self.folder, self.budget = target, folder, budget
        state_once(folder / "target.json", target.facts | {"bits": target.bits})
        self.queries = sum(1 for _ in (folder / "queries").glob("[!.]*.png"))

    def __call__(self, images: Tensor) -> Tensor:
        """Restored images, in [0, 1], of captures (B, 3, H, W), which are rounded to the grid of a PNG first.

        Raises:
            SettingError: the budget does not suffice; nothing is asked then.
            CheckpointError: the target gave no usable answer, however often it was asked.
        """
        check_image(images)
        images = quantize(images, self.target.bits)
        keys = [self._key(image) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if not self._answered(key)}
        if self.queries + len(new) > self.budget:
            raise SettingError(
                f"{len(new)} queries are more than the {self.budget - self.queries} left of a budget of {self.budget}."
            )
        waiting = list(new)
        for start in range(0, len(waiting), self.target.batch):
            part = waiting[start : start + self.target.batch]
            answers = self._ask(torch.stack([new[key] for key in part]))
            for key, answer in zip(part, answers, strict=True):
                # The query last: where it is, the pair is whole.
                write_png(answer, self._file("answers", key), bits=ANSWER_BITS)
                write_png(new[key], self._file("queries", key), bits=self.target.bits)
                self.queries += 1
        return torch.cat([read_image(self._file("answers", key)) for key in keys])

    def _ask(self, images: Tensor) -> Tensor:
        """One batch, tried again after a pause where the target fails."""
        for pause in (*PAUSES, None):
            try:
                with torch.no_grad():
                    return self._checked(self.target.ask(images), images)
            except UDCDefenseError:
                raise
            except Exception as error:
                if pause is None:
                    raise CheckpointError(
                        f"{self.target.name}: failed {len(PAUSES) + 1} times in a row ({_problem(error)}); "
                        f"its {self.queries} answers are kept."
                    ) from error
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _checked(self, answers: Any, images: Tensor) -> Tensor:
        given = tuple(answers.shape) if isinstance(answers, Tensor) else f"a {type(answers).__name__}"
        asked = tuple(images.shape)
        if given != asked:
            raise CheckpointError(
                f"{self.target.name}: gives {given} for images of {asked}; a restorer keeps the shape."
            )
        if not answers.isfinite().all():
            raise CheckpointError(f"{self.target.name}: gives values that are not finite.")
        check_image(answers, f"the answer of {self.target.name}")
        return answers

    def _answered(self, key: str) -> bool:
        return self._file("queries", key).is_file()

    def _key(self, image: Tensor) -> str:
        values = (image * (2**self.target.bits - 1)).round().to(torch.int32).contiguous()
        return hashlib.sha256(repr(tuple(values.shape)).encode() + values.numpy().tobytes()).hexdigest()[:32]

    def _file(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.png"


def state_once(path: Path, facts: dict[str, Any]) -> None:
    """Write what a folder's files were made with; a folder that states something else is refused.

    Raises:
        SettingError: it does, or states nothing readable.
    """
    if not path.is_file():
        write_json(path, facts)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key in facts.keys() | found.keys() if facts.get(key) != found.get(key)]
    except (ValueError, AttributeError):
        raise SettingError(f"{path}: cannot be read as JSON; choose another folder.") from None
    if differing:
        key = min(differing)
        raise SettingError(
            f"{path}: was made with {key} {found.get(key)!r}, not {facts.get(key)!r}; choose another folder."
        )


def _problem(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(" .:")
