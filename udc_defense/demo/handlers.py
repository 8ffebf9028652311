"""What every handler has in common: errors become a sentence for the visitor, files stay where only he finds them."""

from __future__ import annotations

import base64
import binascii
import logging
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from gradio.context import LocalContext
from gradio.utils import get_upload_folder

from udc_defense.demo.engine import MAX_BYTES, MAX_SECONDS, total_cost
from udc_defense.demo.memory import release
from udc_defense.demo.networks import GPU_SECONDS
from udc_defense.demo.presets import choose
from udc_defense.demo.progress import status
from udc_defense.errors import ImageError, UDCDefenseError

log = logging.getLogger(__name__)

# Of an event that no client of the API is told of.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# All that computes waits in one line.
COMPUTING: dict[str, Any] = {"concurrency_id": "run", "concurrency_limit": 1, "show_progress": "hidden"}
PLACE = re.compile(r"(?<![\w@.:/-])/(?:[\w.+~@-]+/)*[\w.+~@-]+")  # an absolute path; not owner/name, not 1/255
LONGEST = 300  # characters of a message: some repeat what they were given

Update = tuple[Any, ...]

# Browser sessions whose handler is at work. Gradio loses a click on Run that comes while a stopped handler still is.
working: set[str | None] = set()


def guarded(updates: Iterator[Update], width: int, photo: str | None = None) -> Iterator[Update]:
    """The updates of a handler, the first of whose `width` outputs is the status line; closing it closes them.

    Args:
        updates: of the outputs.
        width: how many outputs there are.
        photo: path of the visitor's file, which no message may show.

    Raises:
        gr.Error: one sentence, without paths and without a traceback.
    """
    session = session_of(LocalContext.request.get(None))
    working.add(session)
    try:
        yield from updates
        return
    except UDCDefenseError as error:
        message = for_visitors(str(error), photo)
    except Exception:
        message = unknown()
    finally:
        working.discard(session)
        release()
    yield (status("failed", message), *[gr.skip()] * (width - 1))
    raise gr.Error(message, print_exception=False)


def session_of(request: Any) -> str | None:
    """A visitor's session; None outside of one."""
    return getattr(request, "session_hash", None)


def unknown() -> str:
    """For an error that is our fault: a number under which the log has it."""
    number = secrets.token_hex(4)
    log.exception("error %s of the demo", number)
    return f"Something went wrong here, and it is not the photo's fault; the server's log has it as {number}."


def for_visitors(message: str, photo: str | None = None) -> str:
    """A message without places on this machine, which are nobody's business, and not as long as somebody likes."""
    if photo:
        message = message.replace(photo, "the photo").replace(Path(photo).name, "the photo")
    message = PLACE.sub("(a place on this server)", message)
    return message[:1].upper() + (message[1:] if len(message) <= LONGEST else message[1:LONGEST] + "…")


def keep(data: bytes, name: str) -> str:
    """The path of a file that the visitor may download, deleted with the others after an hour."""
    return processing_utils.save_bytes_to_cache(data, name, get_upload_folder())


def unopened(component: gr.components.Component) -> None:
    """Hand an uploaded image on as a path: gradio fails on what is no image, with the path in its message.

    And it decodes images that an API call brings inside a `data:` URL, however large they are: only our reader may.
    Holds as long as no event has an update of the component for its output, `gr.skip()` being one, but plain values:
    gradio would make a new component.
    """

    def preprocess(payload: Any) -> str | None:
        if payload is None:
            return None
        if (payload.url or "").startswith("data:"):
            return keep(_decoded(payload.url), "photo.png")
        return payload.path

    component.preprocess = preprocess  # type: ignore[method-assign]


def _decoded(url: str) -> bytes:
    """The file inside a `data:` URL; what is none becomes an empty file, which the reader then refuses."""
    encoded = url.partition(",")[2]
    try:
        return b"" if len(encoded) > MAX_BYTES * 4 / 3 + 4 else base64.b64decode(encoded)
    except (binascii.Error, ValueError):
        return b""


def chosen_photo(photo: str | None) -> str:
    """The path of the photo.

    Raises:
        ImageError: there is none.
    """
    if not photo:
        raise ImageError("There is no photo: upload one or click a sample.")
    return photo


def lent_seconds(fields: dict[str, Any], photos: int = 1) -> int:
    """How long a lent GPU is asked for, its start included."""
    try:
        evaluations = total_cost(choose(**fields)) * photos
    except (UDCDefenseError, TypeError):
        return 10  # the run itself says what is wrong
    return min(MAX_SECONDS["cuda"], 15 + round(GPU_SECONDS * evaluations))
