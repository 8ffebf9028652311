"""Files as strangers damage them, for every reader: mutated by structure, checksums and lengths repaired.

`python fuzz.py READER COUNT SEED` reads that many files in a process whose memory is bounded, and says which exceptions
but our own came out. Which file it is reading stands in a file of its own, so that a crash can be traced as well.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from png_writer import SIGNATURE, chunk, png
from tiff_writer import Page, packed, tiff

Mutation = Callable[[bytes, random.Random], bytes]
NUMBERS = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1)
MEMORY = 3 << 30  # more than the process has at its start
SECONDS = 60  # for one file; what takes longer hangs


@dataclass(frozen=True)
class Reader:
    """A reader, sound files for it, and how they are mutated."""

    read: Callable[[bytes], object]
    samples: Callable[[], list[bytes]]
    mutate: Mutation


def blind(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut out, repeated, or replaced by numbers that are often on the edge of something."""
    file = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, kind = rng.randrange(len(file) + 1), rng.randrange(7)
        if kind == 0:
            file[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1 and at < len(file):
            file[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            file[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(NUMBERS))
        elif kind == 3:
            file[at : at + 2] = struct.pack(rng.choice("<>") + "H", rng.choice(NUMBERS) % 65536)
        elif kind == 4:
            del file[at : at + rng.choice((1, 2, 4, 100))]
        elif kind == 5:
            file[at:at] = file[at : at + rng.choice((1, 4, 50))]
        else:
            del file[rng.randrange(len(file) + 1) :]
        if not file:
            return b""
    return bytes(file)


def in_head(data: bytes, rng: random.Random) -> bytes:
    """As `blind`, where the directories and headers are."""
    size = rng.choice((64, 256, 1024))
    return blind(data[:size], rng) + data[size:] if rng.random() < 0.7 else data[:-size] + blind(data[-size:], rng)


def of_png(data: bytes, rng: random.Random) -> bytes:
    """Chunks with right checksums: changed, cut, doubled, moved, invented."""
    chunks, position = [], len(SIGNATURE)
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        chunks.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, kind = rng.randrange(len(chunks)), rng.randrange(6)
        name, content = chunks[at]
        if kind <= 1:
            chunks[at] = name, blind(content, rng) if content else rng.randbytes(3)
        elif kind == 2:
            chunks[at] = name, content[: rng.randrange(len(content) + 1)]
        elif kind == 3:
            chunks.insert(rng.randrange(len(chunks) + 1), (name, content))
        elif kind == 4:
            invented = rng.choice(PNG_NAMES), rng.randbytes(rng.choice((0, 1, 4, 9, 32)))
            chunks.insert(rng.randrange(1, len(chunks) + 1), invented)
        elif name == b"IDAT":
            chunks[at] = name, zlib.compress(blind(zlib.decompress(content), rng)) if _is_packed(content) else content
        else:
            del chunks[at]
        if not chunks:
            break
    return SIGNATURE + b"".join(chunk(name, content) for name, content in chunks)


PNG_NAMES = [b"PLTE", b"tRNS", b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"pHYs",
             b"acTL", b"fcTL", b"fdAT", b"sBIT", b"hIST", b"bKGD", b"tIME", b"sPLT", b"IHDR", b"IEND"]  # fmt: skip


def _is_packed(content: bytes) -> bool:
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True


def of_riff(data: bytes, rng: random.Random) -> bytes:
    """The size of the whole is right again."""
    changed = blind(data[8:], rng)
    return b"RIFF" + struct.pack("<I", len(changed)) + changed


def of_npy(data: bytes, rng: random.Random) -> bytes:
    """The header as text, its length right: other words, numbers, brackets and dtypes."""
    if rng.random() < 0.3:
        return blind(data, rng)
    length = int.from_bytes(data[8:10], "little")
    header, body = data[10 : 10 + length].decode("latin1"), data[10 + length :]
    header = _of_text(header, rng, NPY_WORDS)
    return data[:8] + struct.pack("<H", len(header) % 65536) + header.encode("latin1", "replace")[:65535] + body


NPY_WORDS = ["'<f4'", "'|O'", "'<f8'", "'>u2'", "'|b1'", "'<c8'", "'<M8[ns]'", "'|S5'", "'V8'", "[('a','<f4')]", "True",
             "None", "-1", "0", "10**9", "1e400", "9" * 30, "(" * 300, ")", "{", "}", "'shape'", "'descr'", ":", ",",
             "lambda: 0", "\\", "'''", "#", "\n ", "\x00", "é", "3,4,3", "(4,4,3)", "b'x'", "[[]]", "…"]  # fmt: skip


def _of_text(text: str, rng: random.Random, words: list[str]) -> str:
    """Pieces of a text removed, doubled, or replaced by words."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        pieces = re.findall(r"\w+|\s+|.", text, re.DOTALL) or [""]
        at = rng.randrange(len(pieces))
        pieces[at : at + rng.choice((0, 1, 1, 2, 5))] = rng.choice(([rng.choice(words)], [], [pieces[at]] * 2))
        text = "".join(pieces)
    return text


JSON_WORDS = ["-1", "0", "1e999", "NaN", "null", "true", '""', "[]", "{}", "9" * 400, "[" * 50, "]" * 50, '{"a":',
             ":", '"\\ud800"', '"../x"', "1.5", '"GatedUNet"', "Infinity", "\x00", "1" * 5000, "-0.0"]  # fmt: skip


def of_json(data: bytes, rng: random.Random) -> bytes:
    """Values and names replaced, sometimes by what is no JSON."""
    if rng.random() < 0.2:
        return blind(data, rng)
    return _of_text(data.decode("utf-8", "replace"), rng, JSON_WORDS).encode("utf-8", "replace")


def of_safetensors(data: bytes, rng: random.Random) -> bytes:
    """The header as JSON, its length right; or the numbers."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.5:
        header = of_json(header, rng)
        header += b" " * (-len(header) % 8)
    else:
        body = blind(body, rng)
    return struct.pack("<Q", len(header)) + header + body


def of_csv(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return blind(data, rng)
    words = ["nan", "inf", "1e999", "-1", '"', "\n", ",", "\x00", "perspective", "box", "é", "9" * 400, '"' * 3, "\r"]
    return _of_text(data.decode("utf-8", "replace"), rng, words).encode("utf-8", "replace")


def _read_image(data: bytes) -> object:
    from udc_defense.images import read_image

    return read_image(data, max_pixels=250_000)


def _read_light(data: bytes) -> object:
    from udc_defense.formats.light import read_light

    return read_light(data, 250_000)


def _convert(profile: bytes) -> object:
    from udc_defense.formats.colour import to_srgb

    for channels in (1, 3, 4):
        colours = np.linspace(0, 1, 16 * channels, dtype=np.float32).reshape(4, 4, channels)
        for eight_bit in (False, True):
            shown = to_srgb(colours, profile, eight_bit=eight_bit)
            assert shown.shape == (4, 4, 3) and np.isfinite(shown).all()
    return None


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="udc-fuzz-"))


def _from_disk(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def through(data: bytes) -> object:
        path = _folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return read(path)

    return through


def _read_pair(path: Path) -> object:
    """In either domain; what one of them takes, the other refuses."""
    from udc_defense.errors import SceneError
    from udc_defense.scenes import Pair

    with contextlib.suppress(SceneError):
        Pair("a", path, path, "linear").load()
    return Pair("a", path, path, "srgb").load()


def _read_crops(path: Path) -> object:
    from udc_defense.scenes import read_crops

    return read_crops(path)


def _read_recipe(path: Path) -> object:
    from udc_defense.photo.recipe import read_recipe

    return read_recipe(path)


def _read_panel(path: Path) -> object:
    from udc_defense.panel_file import read_panel

    return read_panel(path)


@cache
def _restorer() -> dict[str, bytes]:
    """The files of a small restorer."""
    from udc_defense.checkpoints.files import write_checksums
    from udc_defense.restorers.gated_unet import GatedUNet

    with tempfile.TemporaryDirectory() as name:
        GatedUNet(widths=(4, 8), blocks=(1, 1)).save_pretrained(name)
        write_checksums(Path(name))
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


def _load_restorer(changed: str) -> Callable[[bytes], object]:
    def load(data: bytes) -> object:
        from udc_defense.checkpoints.load import load_restorer

        folder = _folder() / f"net {changed}"
        folder.mkdir(exist_ok=True)
        for name, content in (_restorer() | {changed: data}).items():
            (folder / name).write_bytes(content)
        if changed != "checksums.json":
            (folder / "checksums.json").unlink()
        return load_restorer(folder)

    return load


@cache
def _purifier() -> dict[str, bytes]:
    """The configurations of a small purifier; its weights are never reached by what changes them."""
    from diffusers import DDPMScheduler, UNet2DModel

    with tempfile.TemporaryDirectory() as name:
        blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 2}
        UNet2DModel(block_out_channels=(4,), layers_per_block=1, **blocks).save_pretrained(f"{name}/unet")
        DDPMScheduler(clip_sample=False).save_pretrained(f"{name}/scheduler")
        Path(name, "training.json").write_text('{"last_timestep": 150}')
        return {path.relative_to(name).as_posix(): path.read_bytes() for path in Path(name).rglob("*.*")}


def _load_purifier(changed: str) -> Callable[[bytes], object]:
    def load(data: bytes) -> object:
        from udc_defense.checkpoints.load import load_purifier

        folder = _folder() / f"prior {changed.replace('/', ' ')}"
        for name, content in (_purifier() | {changed: data}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return load_purifier(folder)

    return load


def _profile_samples() -> list[bytes]:
    import imagecodecs
    from PIL import ImageCms

    from udc_defense.formats.colour import adobe_rgb, coded_profile

    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    return [adobe_rgb(), coded_profile(12, 13), imagecodecs.cms_profile("gray", gamma=2.2), _cmyk_profile(), lab]


def _cmyk_profile() -> bytes:
    nodes = b"".join(bytes([0 if black else 255, 128, 128]) for _ in range(8) for black in (0, 1))
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + nodes + ramp * 3
    header = struct.pack(">I4sI4s4s4s", 144 + len(table), bytes(4), 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return header + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


def _photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8))


def _encoded(kind: str, *modes: str, **options: object) -> Callable[[], list[bytes]]:
    def samples() -> list[bytes]:
        tags = Image.Exif()
        tags[0x0112] = 6
        found = []
        for mode in modes:
            file = io.BytesIO()
            more = {} if kind in ("BMP", "GIF") else {"exif": tags.tobytes(), "icc_profile": _profile_samples()[0]}
            if kind == "GIF":
                more = {"save_all": True, "append_images": [_photo().rotate(90)]}
            _photo().convert(mode).save(file, kind, **more, **options)
            found.append(file.getvalue())
        return found

    return samples


def _png_samples() -> list[bytes]:
    levels = np.random.default_rng(0).integers(0, 65536, (8, 9, 4))
    deep = [png(levels[..., :channels], chunk(b"cICP", bytes([12, 13, 0, 1]))) for channels in (1, 2, 3, 4)]
    palette = io.BytesIO()
    _photo().quantize(16).save(palette, "PNG", transparency=bytes(range(16)))
    return [*deep, *_encoded("PNG", "1", "L", "LA", "RGB", "RGBA")(), palette.getvalue()]


def _tiff_samples() -> list[bytes]:
    levels = np.random.default_rng(0).integers(0, 256, (8, 12))
    tags = {256: 12, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1, 278: 4}
    strips = [packed(half, 8) for half in np.split(levels, 2)]
    grey = Page(tags, strips, below=[Page(tags | {254: 1}, strips)])
    colours = Page(tags | {258: [8] * 4, 262: 2, 277: 4, 278: 8, 338: 2}, [packed(np.tile(levels, 4), 8)])
    palette = Page(tags | {262: 3, 320: list(range(768))}, strips)
    tiles = Page(
        {key: value for key, value in tags.items() if key != 278} | {322: 16, 323: 16}, [bytes(256)], tiled=True
    )
    made = [tiff(page, order=order, big=big) for page in (grey, colours, palette, tiles)
            for order in "<>" for big in (False, True)]  # fmt: skip
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd"):
        made += _encoded("TIFF", "RGB", "L", compression=compression)()
    return [*made, *_encoded("TIFF", "1", compression="group4")(), *_encoded("TIFF", "CMYK")()]


def _avif_samples() -> list[bytes]:
    import imagecodecs

    deep = np.random.default_rng(0).integers(0, 1024, (16, 20, 3)).astype(np.uint16)
    return [*_encoded("AVIF", "RGB", "RGBA")(), imagecodecs.avif_encode(deep, level=90, bitspersample=10)]


def _heic_samples() -> list[bytes]:
    import pillow_heif

    found = []
    for mode in ("RGB", "RGBA", "L"):
        file = io.BytesIO()
        pillow_heif.from_pillow(_photo().convert(mode)).save(file, quality=80)
        found.append(file.getvalue())
    return found


def _hdr_samples() -> list[bytes]:
    import cv2

    light = np.random.default_rng(0).random((12, 16, 3)).astype(np.float32)
    data = cv2.imencode(".hdr", light)[1].tobytes()
    return [data, data.replace(b"#?RADIANCE\n", b"#?RADIANCE\nEXPOSURE=2\n", 1)]


def _exr_samples() -> list[bytes]:
    import OpenEXR

    light = np.random.default_rng(0).random((12, 16, 3)).astype(np.float32)
    found = []
    for name in ("NO", "RLE", "ZIP", "PIZ", "PXR24", "B44", "DWAA"):
        header = {"compression": getattr(OpenEXR, f"{name}_COMPRESSION"), "type": OpenEXR.scanlineimage}
        with OpenEXR.File(header, {"RGB": light.astype(np.float16)}) as file:
            file.write(str(_folder() / "a.exr"))
        found.append((_folder() / "a.exr").read_bytes())
    return found


def _float_tiff_samples() -> list[bytes]:
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(file, np.random.default_rng(0).random((8, 9, 3)).astype(np.float32), photometric="rgb",
                     compression="zlib", predictor=3)  # fmt: skip
    return [file.getvalue()]


def _npy_samples() -> list[bytes]:
    found = []
    for kind in ("<f4", "<f8", "|u1", ">u2"):
        file = io.BytesIO()
        np.save(file, np.random.default_rng(0).random((4, 5, 3)).astype(kind))
        found.append(file.getvalue())
    return found


def _panel_samples() -> list[bytes]:
    from safetensors.numpy import save

    psf = np.full((3, 5, 5), 1 / 25, np.float32)
    facts = {"name": "mine", "title": "t", "transmission": [0.5, 0.5, 0.5], "light": 100.0}
    return [save({"psf": psf}, {"format": "udc-defense panel", "panel": json.dumps(facts)})]


def _recipe_samples() -> list[bytes]:
    from dataclasses import asdict

    from udc_defense.photo.recipe import Recipe
    from udc_defense.photo.settings import Settings

    networks = {"restorer": {"name": "default", "sha256": "0" * 64}}
    recipe = Recipe("0" * 64, True, 256, Settings(), None, networks, "cpu", 1, {"python": "3.11"})
    assert asdict(recipe)
    return [json.dumps(recipe.facts()).encode()]


CROPS = b"""split,path,kind,yaw_deg,pitch_deg,fov_deg,box,adaptive
val,a.hdr,perspective,-90,5.5,80,,1
val,b.png,box,,,,c,0
"""

READERS = {
    "png": Reader(_read_image, _png_samples, of_png),
    "jpeg": Reader(_read_image, _encoded("JPEG", "L", "RGB", "CMYK"), in_head),
    "webp": Reader(_read_image, _encoded("WEBP", "RGB", "RGBA"), of_riff),
    "bmp": Reader(_read_image, _encoded("BMP", "1", "L", "RGB"), in_head),
    "gif": Reader(_read_image, _encoded("GIF", "L", "RGB"), blind),
    "tiff": Reader(_read_image, _tiff_samples, in_head),
    "avif": Reader(_read_image, _avif_samples, in_head),
    "heic": Reader(_read_image, _heic_samples, in_head),
    "profile": Reader(_convert, _profile_samples, blind),
    "hdr": Reader(_read_light, _hdr_samples, in_head),
    "exr": Reader(_read_light, _exr_samples, in_head),
    "float tiff": Reader(_read_light, _float_tiff_samples, in_head),
    "npy": Reader(_from_disk("a.npy", _read_pair), _npy_samples, of_npy),
    "crops": Reader(_from_disk("crops.csv", _read_crops), lambda: [CROPS], of_csv),
    "recipe": Reader(_from_disk("recipe.json", _read_recipe), _recipe_samples, of_json),
    "panel": Reader(_from_disk("panel.safetensors", _read_panel), _panel_samples, of_safetensors),
    "config": Reader(_load_restorer("config.json"), lambda: [_restorer()["config.json"]], of_json),
    "checksums": Reader(_load_restorer("checksums.json"), lambda: [_restorer()["checksums.json"]], of_json),
    "weights": Reader(
        _load_restorer("diffusion_pytorch_model.safetensors"),
        lambda: [_restorer()["diffusion_pytorch_model.safetensors"]],
        of_safetensors,
    ),
    "unet": Reader(_load_purifier("unet/config.json"), lambda: [_purifier()["unet/config.json"]], of_json),
    "scheduler": Reader(
        _load_purifier("scheduler/scheduler_config.json"),
        lambda: [_purifier()["scheduler/scheduler_config.json"]],
        of_json,
    ),
}


def escapes(name: str, count: int, seed: int, note: Callable[[int], object] = lambda _: None) -> dict[str, str]:
    """Exceptions but our own that came out of a reader: kind -> the first file's number and its traceback."""
    from udc_defense.errors import UDCDefenseError

    reader, found = READERS[name], {}
    samples = reader.samples()
    for sample in samples:
        reader.read(sample)  # or nothing is tested
    for number in range(count):
        note(number)
        rng = random.Random(f"{name} {seed} {number}")
        data = reader.mutate(rng.choice(samples), rng)
        try:
            reader.read(data)
        except UDCDefenseError as error:
            message = str(error)
            if "\n" in message or not message.endswith(".") or len(message) > 2000:
                found.setdefault(f"message {message[:60]!r}", f"file {number}")
        except BaseException as error:
            found.setdefault(type(error).__name__, f"file {number}\n{traceback.format_exc(limit=-6)}")
            if isinstance(error, KeyboardInterrupt):
                raise
    return found


def main() -> None:
    name, count, seed, place = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    READERS[name].read(READERS[name].samples()[0])  # imports what it needs
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    with open(place, "w") as progress:

        def note(number: int) -> None:
            progress.seek(0)
            progress.write(str(number))
            progress.flush()
            signal.alarm(SECONDS)  # ends the process

        found = escapes(name, count, seed, note)
    sys.stdout.write("".join(f"{kind}: {where}\n" for kind, where in found.items()))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
