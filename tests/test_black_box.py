"""Black boxes: budget, cache, retries, kills, and a Gradio application on a loopback port."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from processes import exit_status
from torch import Tensor, nn

from udc_defense import black_box
from udc_defense.black_box import BlackBox, Target, find_target
from udc_defense.checkpoints.files import checksum
from udc_defense.checkpoints.load import load_restorer
from udc_defense.checkpoints.resolve import resolve
from udc_defense.errors import CheckpointError, SettingError
from udc_defense.images import quantize, read_image, write_png
from udc_defense.noise import seeded
from udc_defense.scenes import read_pairs


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 9, 7, generator=seeded(seed))


def darker(image: Tensor) -> Tensor:
    return image * 0.7 + 0.1


class Asked:
    """Counts calls and images; fails whenever `fails` says so of the number of the call."""

    def __init__(self, fails: Callable[[int], bool] = lambda call: False) -> None:
        self.fails, self.calls, self.images = fails, 0, 0

    def __call__(self, image: Tensor) -> Tensor:
        self.calls += 1
        if self.fails(self.calls):
            raise ConnectionError("no route\nto host")
        self.images += len(image)
        return darker(image)


def box(folder: Path, ask: Callable[[Tensor], Tensor] = darker, budget: int = 100, **options: Any) -> BlackBox:
    return BlackBox(Target({"target": "darker"}, ask, **options), folder, budget=budget)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Taken instead of slept, by the black box alone: the threads of Gradio share `time`."""
    taken: list[float] = []
    monkeypatch.setattr(black_box, "time", SimpleNamespace(sleep=taken.append))
    return taken


class TestAnswers:
    @pytest.mark.parametrize("bits", [8, 16])
    def test_they_are_those_of_the_query_as_it_was_sent(self, bits: int, tmp_path: Path) -> None:
        queries = images(3)
        answers = box(tmp_path, bits=bits)(queries)
        assert torch.allclose(answers, darker(quantize(queries, bits)), atol=0.51 / 65535)

    def test_an_image_is_a_query_and_goes_in_batches(self, tmp_path: Path) -> None:
        ask = Asked()
        asked = box(tmp_path, ask, batch=3)
        asked(images(8))
        assert (ask.calls, ask.images, asked.queries) == (3, 8, 8)

    def test_nothing_is_asked_twice(self, tmp_path: Path) -> None:
        """In a call, in a later call, in a later run."""
        ask = Asked()
        first = box(tmp_path, ask)
        expected = first(images(4).repeat(2, 1, 1, 1))
        assert torch.equal(first(images(4)), expected[:4])
        again = box(tmp_path, ask)
        assert again.queries == 4 and torch.equal(again(images(4).flip(0)), expected[:4].flip(0))
        assert ask.images == again.queries == 4

    def test_a_value_more_in_one_pixel_is_another_query(self, tmp_path: Path) -> None:
        asked, image = box(tmp_path), quantize(images(1))
        other = image.clone()
        other[0, 2, 8, 6] = (other[0, 2, 8, 6] + 0.5) % 1
        asked(torch.cat([image, other]))
        asked(image.transpose(-1, -2))
        assert asked.queries == 3

    def test_what_is_kept_are_pairs(self, tmp_path: Path) -> None:
        """Of the project's own kind, so that they can be trained on."""
        queries = quantize(images(2))
        box(tmp_path)(queries)
        pairs = read_pairs(tmp_path / "queries", tmp_path / "answers")
        assert len(pairs) == 2
        for captured, answer in (pair.load() for pair in pairs):
            assert any(torch.allclose(captured[0], query, atol=1e-6) for query in queries)
            assert torch.allclose(answer, darker(captured), atol=1e-4)


class TestBudget:
    def test_it_is_not_exceeded_by_one_image(self, tmp_path: Path) -> None:
        ask = Asked()
        asked = box(tmp_path, ask, budget=5)
        asked(images(3))
        with pytest.raises(SettingError, match=r"^3 queries are more than the 2 left of a budget of 5\.$"):
            asked(images(3, seed=1))
        assert ask.images == 3
        asked(torch.cat([images(3), images(2, seed=2)]))  # three of them are known
        assert asked.queries == ask.images == 5

    def test_earlier_runs_count(self, tmp_path: Path) -> None:
        box(tmp_path, budget=5)(images(4))
        with pytest.raises(SettingError, match="more than the 1 left"):
            box(tmp_path, budget=5)(images(2, seed=1))


class TestFailures:
    def test_what_fails_now_and_then_is_asked_again(self, tmp_path: Path, pauses: list[float]) -> None:
        ask = Asked(fails=lambda call: call % 3 != 0)
        asked = box(tmp_path, ask, batch=2)
        assert torch.allclose(asked(images(4)), darker(quantize(images(4))), atol=1e-5)
        assert pauses == [1, 2, 1, 2] and asked.queries == ask.images == 4

    def test_it_gives_up_in_one_sentence_and_keeps_what_was_answered(self, tmp_path: Path, pauses: list[float]) -> None:
        ask = Asked(fails=lambda call: call > 2)
        asked = box(tmp_path, ask, batch=1)
        sentence = r"^darker: failed 5 times in a row \(ConnectionError: no route\); its 2 answers are kept\.$"
        with pytest.raises(CheckpointError, match=sentence):
            asked(images(4))
        assert pauses == [1, 2, 4, 8]
        assert box(tmp_path).queries == 2

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (lambda image: image[..., :5], r"gives \(1, 3, 9, 5\) for images of \(1, 3, 9, 7\)"),
            (lambda image: image.numpy(), "gives a ndarray"),
            (lambda image: image / 0, "not finite"),
        ],
    )
    def test_what_no_waiting_mends_is_refused_at_once(
        self, answer: Any, words: str, tmp_path: Path, pauses: list[float]
    ) -> None:
        with pytest.raises(CheckpointError, match=rf"^darker: .*{words}"):
            box(tmp_path, answer)(images(1))
        assert not pauses

    def test_another_targets_answers_are_refused(self, tmp_path: Path) -> None:
        box(tmp_path)(images(1))
        for other in (Target({"target": "lighter"}, darker), Target({"target": "darker", "sha256": "0"}, darker)):
            with pytest.raises(SettingError, match=r"was made with .*; choose another folder\.$"):
                BlackBox(other, tmp_path, budget=9)
        with pytest.raises(SettingError, match="was made with bits 8, not 16"):
            box(tmp_path, bits=16)

    def test_a_statement_that_is_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "target.json").write_text("[]")
        with pytest.raises(SettingError, match=r"target\.json: cannot be read as JSON"):
            box(tmp_path)


def test_after_kill_9_only_the_batch_in_flight_is_asked_again(tmp_path: Path) -> None:
    def fails(call: int) -> bool:
        if call == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    assert exit_status(lambda: box(tmp_path, Asked(fails), batch=2)(images(6))) == -signal.SIGKILL
    ask = Asked()
    again = box(tmp_path, ask)
    assert again.queries == 4
    assert torch.allclose(again(images(6)), darker(quantize(images(6))), atol=1e-5) and ask.images == 2


def test_a_pair_that_was_cut_in_two_is_no_answer(tmp_path: Path) -> None:
    box(tmp_path)(images(2))
    next((tmp_path / "queries").iterdir()).unlink()
    assert box(tmp_path).queries == 1
    assert (
        box(tmp_path)(images(2)).isfinite().all() and len(read_pairs(tmp_path / "queries", tmp_path / "answers")) == 2
    )


class Doubling(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return 2 * image


NOTHING_TO_CALL = 3


class TestTargets:
    def test_a_restorer(self) -> None:
        found = find_target("default")
        assert found.facts == {"target": "default", "sha256": checksum(resolve("default", "restorer"))}
        image = torch.rand(1, 3, 16, 16, generator=seeded(0))
        assert torch.equal(found.ask(image), load_restorer()(image))

    def test_a_function_a_network_and_a_class(self) -> None:
        for name, factor in (("darker", 0.7), ("Doubling", 2)):
            assert torch.allclose(
                find_target(f"test_black_box:{name}").ask(torch.ones(1, 3, 4, 4)).sub(1).abs(),
                torch.full((1, 3, 4, 4), abs(factor + 0.1 * (name == "darker") - 1)),
            )

    @pytest.mark.parametrize(
        ("source", "error", "words"),
        [
            ("test_black_box:nothing", CheckpointError, "cannot be imported"),
            ("no_such_module:x", CheckpointError, "cannot be imported"),
            ("test_black_box:NOTHING_TO_CALL", CheckpointError, "a int, which cannot be called"),
            ("nowhere", CheckpointError, "neither an embedded restorer"),
            ("gradio:restore", SettingError, "not of the form gradio:ADDRESS/ENDPOINT"),
            ("gradio:http://localhost/", SettingError, "not of the form"),
            ("gradio:http://localhost", SettingError, "not of the form"),
        ],
    )
    def test_what_is_none(self, source: str, error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words) as caught:
            find_target(source)
        assert str(caught.value).startswith(source) and str(caught.value).endswith(".")

    def test_without_gradio_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "gradio_client", None)
        with pytest.raises(SettingError, match=r'pip install "udc-defense\[demo\]"'):
            find_target("gradio:http://localhost:1/restore")

    def test_bits(self) -> None:
        with pytest.raises(SettingError, match="queries of 12 bits"):
            find_target("default", bits=12)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An application that inverts an image, one that answers with a file's name, and one that fails at first."""
    gr: Any = pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    elsewhere = tmp_path_factory.mktemp("private") / "photo.png"
    write_png(torch.zeros(1, 3, 9, 7), elsewhere)
    failures = iter([True, True])

    def invert(path: str) -> str:
        write_png(1 - read_image(path), path, bits=16)
        return path

    def flaky(path: str) -> str:
        if next(failures, False):
            raise gr.Error("too busy")
        return invert(path)

    def upload() -> Any:
        return gr.Image(type="filepath", image_mode=None, format="png")

    with gr.Blocks() as app:
        for function in (invert, flaky):
            gr.Button().click(function, upload(), gr.File(), api_name=function.__name__)
        gr.Button().click(lambda path: str(elsewhere), upload(), gr.Textbox(), api_name="lie")
    _, url, _ = app.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield url.rstrip("/")
    app.close()


class TestGradio:
    @pytest.mark.parametrize("bits", [8, 16])
    def test_images_travel_without_loss(self, bits: int, address: str, tmp_path: Path) -> None:
        asked = BlackBox(find_target(f"gradio:{address}/invert", bits=bits), tmp_path, budget=2)
        queries = quantize(images(2), bits)
        assert torch.allclose(asked(queries), 1 - queries, atol=1e-6) and asked.queries == 2

    def test_an_application_that_fails_is_asked_again(self, address: str, tmp_path: Path, pauses: list[float]) -> None:
        asked = BlackBox(find_target(f"gradio:{address}/flaky"), tmp_path, budget=1)
        assert torch.allclose(asked(images(1)), 1 - quantize(images(1)), atol=1e-5)
        assert pauses == [1, 2]

    def test_a_file_that_was_not_sent_is_neither_read_nor_removed(
        self, address: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        with pytest.raises(CheckpointError, match="/lie: answers with a text, not with an image"):
            BlackBox(find_target(f"gradio:{address}/lie"), tmp_path, budget=1)(images(1))
        assert list(tmp_path_factory.getbasetemp().glob("private*/photo.png"))

    def test_an_address_where_nobody_answers(self, tmp_path: Path) -> None:
        pytest.importorskip("gradio_client", reason="the extra `demo` is not installed")
        with pytest.raises(CheckpointError, match=r"^gradio:.*: failed 5 times in a row .*; its 0 answers are kept\.$"):
            BlackBox(find_target("gradio:http://127.0.0.1:9/restore"), tmp_path, budget=1)(images(1))


def test_state_is_plain_json(tmp_path: Path) -> None:
    box(tmp_path)
    assert json.loads((tmp_path / "target.json").read_text()) == {"target": "darker", "bits": 8}
