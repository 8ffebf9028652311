"""What strangers send to the demo over HTTP: one sentence each, no path of this machine, and the server goes on."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import re
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
pytest.importorskip("gradio", reason="the extra `demo` is not installed")

from demo_server import ROOT, Answer, Visitor, file, inputs

from udc_defense.demo import build, launch
from udc_defense.demo.door import Counted
from udc_defense.demo.handlers import PLACE, working


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Visitor, Path]]:
    """A visitor of a demo in this process, and the demo's cache."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(cache))
        demo = build()
        _, url, _ = launch(demo, host="127.0.0.1", prevent_thread_lock=True, quiet=True)
        yield Visitor(url), cache
        demo.close()


@pytest.fixture
def visitor(server: tuple[Visitor, Path]) -> Iterator[Visitor]:
    """Whatever the test sent, afterwards a photo is restored."""
    yield server[0]
    answer = server[0].restore(server[0].upload(encoded(noise(8, 8))))
    assert answer.status == 200, "the server did not survive"


def refused(answer: Answer, words: str) -> None:
    """It is a refusal in one sentence with these words, without places on this machine."""
    assert answer.status >= 400 and answer.data is None, answer
    assert re.search(words, answer.text), answer.text
    assert_discreet(answer.text)
    assert len(answer.text) < 400 and "\n" not in answer.text
    assert "log has it" not in answer.text, "nobody expected it"


def assert_discreet(text: str) -> None:
    assert "Traceback" not in text and "site-packages" not in text and 'File "' not in text
    places = [
        place for place in (str(ROOT), tempfile.gettempdir(), str(Path.home()), os.sep + "gradio") if place in text
    ]
    assert places == [] and not PLACE.search(text.replace("1/255", "")), text


# --- Photos -----------------------------------------------------------------------------------------------------------


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG that claims to have this size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photo.png", encoded(noise(8, 8)))
    return buffer.getvalue()


def gif() -> bytes:
    frames = [Image.new("P", (24, 16), colour) for colour in range(9)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>'
ENTITIES = b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg">&x;</svg>'
NO_IMAGE, DAMAGED = "The photo: not an image in one of the formats", "The photo: damaged or truncated"

BAD_PHOTOS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", NO_IMAGE),
    "random": (lambda: np.random.default_rng(0).bytes(5000), NO_IMAGE),
    "text": (lambda: b"nothing of the kind", NO_IMAGE),
    "page": (lambda: b"<html><script>alert(1)</script></html>", NO_IMAGE),
    "svg": (lambda: SVG, NO_IMAGE),
    "svg with an entity": (lambda: ENTITIES, NO_IMAGE),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", NO_IMAGE),
    "pdf": (lambda: b"%PDF-1.7\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF", "The photo: is a PDF"),
    "pickle": (lambda: b"cos\nsystem\n(S'true'\ntR.", NO_IMAGE),
    "zip": (zipped, NO_IMAGE),
    "header alone": (lambda: b"\x89PNG\r\n\x1a\n", DAMAGED),
    "truncated png": (lambda: encoded(noise(64, 64))[:3000], DAMAGED),
    "truncated jpeg": (lambda: encoded(noise(64, 64), "JPEG")[:1000], DAMAGED),
    "truncated webp": (lambda: encoded(noise(64, 64), "WEBP")[:500], f"{NO_IMAGE}|{DAMAGED}"),
    "truncated gif": (lambda: gif()[:14], f"{NO_IMAGE}|{DAMAGED}"),
    "bomb": (lambda: encoded(Image.new("1", (9000, 9000))), "9000x9000 pixels, more than the 16 MP"),
    "claims 4 gigapixels": (lambda: png(65535, 65535, chunk(b"IDAT", b"")), "more.* than the 16 MP"),
    "claims no pixels": (lambda: png(0, 0), f"{NO_IMAGE}|has no pixels|{DAMAGED}"),
    "gif of 65535": (lambda: b"GIF89a\xff\xff\xff\xff" + gif()[10:], "65535x65535 pixels|more pixels than the 16 MP"),
    "bomb in 16 bit": (lambda: png(8, 8, struct.pack(">I", 2**31 - 1) + b"IDAT", bits=16), DAMAGED),
    "bomb of words": (
        lambda: png(8, 8, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7)))] * 9),
        f"{NO_IMAGE}|{DAMAGED}",
    ),
}
# Their shape, and that of what comes back: what is too large for one machine is scaled down.
ODD_PHOTOS: dict[str, tuple[Callable[[], bytes], tuple[int, int]]] = {
    "1×1": (lambda: encoded(noise(1, 1)), (1, 1)),
    "1×5000": (lambda: encoded(noise(5000, 1)), (1, 768)),
    "5000×1": (lambda: encoded(noise(1, 5000)), (768, 1)),
    "CMYK": (lambda: encoded(noise(16, 24).convert("CMYK"), "JPEG"), (24, 16)),
    "animation": (gif, (24, 16)),
    "one bit": (lambda: encoded(noise(16, 24).convert("1")), (24, 16)),
    "16 bit": (lambda: encoded(Image.fromarray(np.full((16, 24), 40000, np.uint16))), (24, 16)),
    "palette with transparency": (lambda: encoded(noise(16, 24).convert("P"), transparency=3), (24, 16)),
    "jpeg and zip": (lambda: encoded(noise(16, 24), "JPEG") + zipped(), (24, 16)),
    "png and page": (lambda: encoded(noise(16, 24)) + b"<script>alert(1)</script>", (24, 16)),
    "broken exif": (lambda: encoded(noise(16, 24), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), (24, 16)),
}


@pytest.mark.parametrize("name", BAD_PHOTOS)
def test_bad_photos(visitor: Visitor, name: str) -> None:
    make, words = BAD_PHOTOS[name]
    refused(visitor.restore(visitor.upload(make())), words)  # the client waits for a minute, not for a hang


@pytest.mark.parametrize("name", ODD_PHOTOS)
def test_odd_photos(visitor: Visitor, name: str) -> None:
    make, size = ODD_PHOTOS[name]
    answer = visitor.restore(visitor.upload(make()))
    assert answer.status == 200, answer.text
    line, picture = answer.data
    assert 'data-state="done"' in line
    assert Image.open(io.BytesIO(visitor.http.get(picture["url"]).content)).size == size


@pytest.mark.parametrize("shape", [(1, 1), (5000, 1)])
def test_odd_photos_go_through_everything(visitor: Visitor, shape: tuple[int, int]) -> None:
    answer = visitor.run(visitor.upload(encoded(noise(*shape))), steps=1)
    assert answer.status == 200 and 'data-state="done"' in answer.data[0]


# --- What stands for a photo ------------------------------------------------------------------------------------------


def url(data: bytes, kind: str = "image/png") -> dict[str, Any]:
    return file(None, url=f"data:{kind};base64,{base64.b64encode(data).decode()}")


def nested(depth: int) -> Any:
    inside: Any = 0
    for _ in range(depth):
        inside = [inside]
    return inside


NOT_UNDERSTOOD = "The request is not understood"
ELSEWHERE = "This server fetches nothing from elsewhere"
REFERENCES: dict[str, tuple[Any, str]] = {
    "none": (None, "There is no photo"),
    "a bomb inside": (url(encoded(Image.new("1", (5000, 5000)))), "5000x5000 pixels"),
    "svg inside": (url(SVG, "image/svg+xml"), "not an image"),
    "not base64": (file(None, url="data:image/png;base64,%%%"), "not an image"),
    "nothing inside": (file(None, url="data:"), "not an image"),
    "16 MB inside": (url(bytes(16_000_000)), "not an image"),
    "a page elsewhere": (file("http://example.com/a.png"), ELSEWHERE),
    "a page elsewhere, safely": (file("https://example.com/a.png", url="https://example.com/a.png"), ELSEWHERE),
    "the metadata service": (file("http://169.254.169.254/latest/meta-data"), ELSEWHERE),
    "a system file": (file("/etc/passwd"), NOT_UNDERSTOOD),
    "a file above": (file("../../../../etc/passwd"), NOT_UNDERSTOOD),
    "a file of ours": (file("pyproject.toml"), NOT_UNDERSTOOD),
    "a file by scheme": (file("file:///etc/passwd"), NOT_UNDERSTOOD),
    "a device": (file("/dev/zero"), NOT_UNDERSTOOD),
    "a zero byte": (file("a\0b.png"), NOT_UNDERSTOOD),
    "a number": (7, NOT_UNDERSTOOD),
    "words": ("photo.png", NOT_UNDERSTOOD),
    "a list": ([1, 2], NOT_UNDERSTOOD),
    "no meta": ({"path": "/etc/passwd"}, NOT_UNDERSTOOD),
    "meta of nothing": ({"path": "/etc/passwd", "meta": None}, NOT_UNDERSTOOD),
    "deep": (nested(900), NOT_UNDERSTOOD),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_what_is_no_upload(visitor: Visitor, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, words = REFERENCES[name]
    fetched: list[str] = []

    async def fetch(address: str, cache_dir: str) -> str:
        fetched.append(address)
        return ""

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", fetch)
    refused(visitor.restore(reference), words)
    assert fetched == []


def test_photos_of_this_machine_stay_where_they_are(visitor: Visitor, tmp_path: Path) -> None:
    """Also in a gallery, which is what the lens looks at."""
    (tmp_path / "own.png").write_bytes(encoded(noise(8, 8)))
    own = str(tmp_path / "own.png")
    for reference in (file(own), {"path": own}, {"path": own, "meta": {}}, file(own, url=own)):
        refused(visitor.restore(reference), NOT_UNDERSTOOD)
        strip = [{"image": reference, "caption": None}]
        refused(visitor.event("magnify", [strip, 2, 50, 50]), NOT_UNDERSTOOD)
    strip = [{"image": visitor.upload(encoded(noise(8, 8))), "caption": None}]
    assert visitor.event("magnify", [strip, 2, 50, 50]).status == 200


def test_what_nobody_expected_is_one_sentence_too(visitor: Visitor) -> None:
    strip = [{"image": visitor.upload(encoded(noise(8, 8))), "caption": None}]
    answer = visitor.event("magnify", [strip, 2, float("nan"), 50])
    assert answer.status == 500 and "the server's log has it as" in answer.text
    assert_discreet(answer.text)


def test_the_cache_itself_is_no_photo(server: tuple[Visitor, Path]) -> None:
    visitor, cache = server
    refused(visitor.restore(file(str(cache))), "")


def test_a_photo_that_has_been_cleaned_away_meanwhile(visitor: Visitor) -> None:
    photo = visitor.upload(encoded(noise(8, 8)))
    Path(photo["path"]).unlink()
    for answer in (visitor.restore(photo), visitor.run(photo, steps=1)):
        refused(answer, "no longer on this server, which keeps uploads for an hour: upload it again")


# --- Choices ----------------------------------------------------------------------------------------------------------

CHOICES: list[tuple[dict[str, Any], str]] = [
    ({"eps": float("nan")}, "nan, not a number in 0…16"),
    ({"eps": float("inf")}, "inf, not a number"),
    ({"eps": -1}, "-1, not a number in 0…16"),
    ({"eps": 10**400}, "not a number in 0…16"),
    ({"eps": "1; import os"}, "is not a number"),
    ({"eps": {"value": 1}}, "is not a number"),
    ({"steps": 10**9}, "1000000000, not a number in 1…50"),
    ({"steps": -3}, "-3, not a number"),
    ({"steps": 2.5}, "not a whole number"),
    ({"noise_level": -1}, "-1, not a number in 0…100"),
    ({"noise_level": 10**9}, "1000000000, not a number in 0…100"),
    ({"draws": 10**6}, "1000000, not a number in 1…8"),
    ({"seed": -1}, "-1, not a number"),
    ({"seed": float("nan")}, "nan, not a number"),
    ({"attack": "magic"}, "not in the list of choices"),
    ({"attack": {"a": 1}}, "not in the list of choices"),
    ({"attack": "x" * 10**6}, "."),
    ({"method": "../../etc/passwd"}, "."),
    ({"panel": "x" * 10**6}, "."),
    ({"threat": "\0"}, "."),
    ({"sampler": ["one_step"] * 1000}, "."),
    ({"restorer": "../../etc/passwd"}, "neither an embedded restorer"),
    ({"restorer": "/etc/passwd"}, "neither an embedded restorer"),
    ({"restorer": "os:system"}, "neither an embedded restorer"),
    ({"restorer": "x" * 10**5}, "neither an embedded restorer"),
    ({"purifier": "C:\\windows\\system32"}, "neither an embedded purifier"),
    ({"options": "restarts=" + "9" * 5000}, "."),
    ({"options": "__class__=1"}, "has no option '__class__'"),
    ({"options": "a=1," * 10**5}, "."),
    ({"options": "restarts=1e9"}, "."),
]


@pytest.mark.parametrize(("fields", "words"), CHOICES, ids=[f"{list(f)[0]}-{i}" for i, (f, _) in enumerate(CHOICES)])
def test_choices_out_of_range(visitor: Visitor, fields: dict[str, Any], words: str) -> None:
    refused(visitor.run(visitor.upload(encoded(noise(8, 8))), **fields), words)


# --- Requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", " ", ".", "..", "/", "\0", "a" * 400, "C:\\photo.png"])
def test_uploads_of_any_name(visitor: Visitor, name: str) -> None:
    """An answer, and where there is none that can be used a sentence."""
    answer = visitor.http.post("/gradio_api/upload", files={"files": (name, encoded(noise(8, 8)))})
    if answer.status_code == 200:
        assert visitor.restore(file(answer.json()[0])).status == 200
    else:
        assert answer.status_code == 400
        assert_discreet(answer.json()["detail"])
        assert (
            name or answer.json()["detail"] == "The upload is not understood: it has to be a form of files with names."
        )


MANY: dict[str, Any] = {str(number): number for number in range(900_000)}


@pytest.mark.parametrize(
    "body",
    [MANY, {"data": [MANY, None]}, {"data": [[0] * 900_000, None]}, {"data": [{"path": "a", "meta": MANY}, None]}],
    ids=["alone", "as a photo", "as a list", "in a photo"],
)
def test_json_of_many_values_is_not_parsed(
    visitor: Visitor, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, parse = json.dumps(body).encode(), json.loads
    longest = 0

    def watched(text: Any, *rest: Any, **more: Any) -> Any:
        nonlocal longest
        longest = max(longest, len(text))
        return parse(text, *rest, **more)

    monkeypatch.setattr("json.loads", watched)
    for path in ("call/restore", "call/run", "queue/join", "run/restore"):
        answer = visitor.http.post(f"/gradio_api/{path}", content=content, headers={"content-type": "application/json"})
        assert (answer.status_code, len(answer.content) < 200) == (413, True)
        assert answer.json()["detail"] == "The request has more than the 20000 values allowed."
    assert longest < 10_000


def test_inputs_that_are_too_few_or_no_list(visitor: Visitor) -> None:
    refused(visitor.call("restore", []), NOT_UNDERSTOOD)
    for data in (None, {"a": 1}, "x"):
        assert visitor.call("restore", data).status == 422  # type: ignore[arg-type]


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'{"data":' + b"[" * 50_000, b"\xff\xfe"])
def test_bodies_that_are_no_json(visitor: Visitor, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = visitor.http.post("/gradio_api/call/restore", content=body, headers=headers)
    assert 400 <= answer.status_code < 500
    assert_discreet(answer.json()["detail"] if isinstance(answer.json()["detail"], str) else "")


@pytest.mark.parametrize(
    ("path", "megabytes", "status"), [("call/run", 31, 413), ("queue/join", 10**6, 413), ("upload", 400, 413)]
)
def test_a_body_too_large_is_not_read(visitor: Visitor, path: str, megabytes: int, status: int) -> None:
    assert promise(visitor, path, "content-length", str(megabytes * 10**6)) == status


def test_a_length_and_chunks_contradict_each_other(visitor: Visitor) -> None:
    for path in ("call/run", "upload", "queue/join"):
        assert promise(visitor, path, "content-length", "5", ("transfer-encoding", "chunked")) == 400


def test_a_body_in_chunks_is_read_as_any_other(visitor: Visitor) -> None:
    photo = visitor.upload(encoded(noise(8, 8)))
    parts = iter([json.dumps({"data": [photo, None]}).encode()])
    headers = {"content-type": "application/json"}
    answer = visitor.http.post("/gradio_api/call/restore", content=parts, headers=headers)
    assert answer.status_code == 200
    assert visitor.end("restore", answer.json()["event_id"]).status == 200


def test_a_body_in_chunks_is_counted_as_it_arrives(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udc_defense.demo.door.MAX_JSON", 10**6)
    connection = http.client.HTTPConnection(visitor.http.base_url.host, visitor.http.base_url.port or 80, timeout=20)
    connection.putrequest("POST", "/gradio_api/call/run")
    connection.putheader("content-type", "application/json")
    connection.putheader("transfer-encoding", "chunked")
    connection.endheaders()
    sent, part = 0, b'"' + b"a" * 99_999
    with contextlib.suppress(OSError):  # it hangs up
        while sent < 10**8:
            connection.send(b"%x\r\n%s\r\n" % (len(part), part))
            sent += len(part)
    assert sent < 10**8, "all of it was taken"
    answer = connection.getresponse()
    assert answer.status == 413 and b"more than the 1 MB allowed" in answer.read()
    connection.close()


def test_no_byte_too_many_reaches_the_application() -> None:
    seen: list[int] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            seen.append(len(message["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(1000), "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    sent: list[dict[str, Any]] = []
    counted = Counted(receive, send, 10_500)
    asyncio.run(application({}, counted.receive, counted.send))
    assert sum(seen) == 10_000 and counted.excessive and sent == []


def promise(visitor: Visitor, path: str, header: str, value: str, *more: tuple[str, str]) -> int:
    """The status of a request of which only the first lines are sent."""
    connection = http.client.HTTPConnection(visitor.http.base_url.host, visitor.http.base_url.port or 80, timeout=5)
    connection.putrequest("POST", f"/gradio_api/{path}")
    connection.putheader("content-type", "application/json")
    for name, said in ((header, value), *more):
        connection.putheader(name, said)
    connection.endheaders()
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_file_too_large_is_not_kept(server: tuple[Visitor, Path]) -> None:
    visitor, cache = server
    answer = visitor.http.post("/gradio_api/upload", files={"files": ("a.png", bytes(16_000_000))})
    assert answer.status_code == 413
    assert_discreet(answer.text)
    assert max(path.stat().st_size for path in cache.rglob("*") if path.is_file()) < 16_000_000


@pytest.mark.parametrize("name", ["../../../escaped.png", "/tmp/escaped.png", "a\\..\\escaped.png", "é" * 300 + ".png"])
def test_names_do_not_leave_the_cache(server: tuple[Visitor, Path], name: str) -> None:
    visitor, cache = server
    path = Path(visitor.upload(encoded(noise(8, 8)), name)["path"])
    assert path.resolve().is_relative_to(cache.resolve())
    assert visitor.restore(file(str(path))).status == 200


@pytest.mark.parametrize(
    "page",
    [
        "monitoring",
        "monitoring/summary",
        "gradio_api/monitoring/summary",
        "gradio_api/runs",
        "gradio_api/run-history/records",
        "gradio_api/file=/etc/passwd",
        "gradio_api/file=pyproject.toml",
        "gradio_api/file=../../../../etc/passwd",
        "gradio_api/file/../../etc/passwd",
        "gradio_api/file=http://example.com/",
        "gradio_api/file=https://example.com/",
        "gradio_api/file/http://example.com/",
        "gradio_api/proxy=http://example.com/",
        "static/../../../etc/passwd",
        "gradio_api/custom_component/x/client/y/..%2f..%2f..%2fetc%2fpasswd",
    ],
)
def test_pages_that_are_nobodys_business(visitor: Visitor, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    async def fetch(address: str, _: Any) -> None:
        fetched.append(address)

    monkeypatch.setattr("gradio.routes.secure_url_stream_response", fetch)
    answer = visitor.http.get(f"/{page}")
    assert 400 <= answer.status_code < 500 and "root:" not in answer.text and "[project]" not in answer.text
    assert fetched == [] and str(ROOT) not in answer.text


def test_nobody_computes_past_the_queue(visitor: Visitor) -> None:
    photo = visitor.upload(encoded(noise(8, 8)))
    for way in ("run", "api"):
        assert visitor.http.post(f"/gradio_api/{way}/restore", json={"data": [photo, None]}).status_code == 404


# --- Whoever does not listen ------------------------------------------------------------------------------------------


def test_runs_that_nobody_listens_to_are_stopped(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight of them, each of a minute; then a visitor comes, who listens and is served."""
    monkeypatch.setattr("udc_defense.demo.listeners.PATIENCE", 1.0)
    photo = visitor.upload(encoded(noise(256, 256)))
    long = inputs(photo, attack="strong", method="pgd", steps=50, threat="exact")
    tickets = [visitor.join("run", long) for _ in range(8)]
    assert all(ticket.status == 200 for ticket in tickets)
    answer = visitor.restore(photo)  # whose client gives up after a minute
    assert answer.status == 200 and 'data-state="done"' in answer.data[0]
    assert not working, "one of them still runs"


def test_who_listens_is_served_however_long_it_takes(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udc_defense.demo.listeners.PATIENCE", 1.0)
    photo = visitor.upload(encoded(noise(48, 48)))
    started = time.perf_counter()
    answer = visitor.run(photo, attack="strong", method="pgd", steps=20, threat="exact")
    assert answer.status == 200 and 'data-state="done"' in answer.data[0]
    assert time.perf_counter() - started > 1.0
