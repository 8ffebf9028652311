"""What is refused before a handler sees it: large bodies, addresses to fetch, inputs that none of our fields sends."""

from __future__ import annotations

import logging
import re
from typing import Any

import gradio as gr
from gradio_client.utils import is_file_obj, is_file_obj_with_meta, is_http_url_like, traverse
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from udc_defense.demo.batch_tab import MOST
from udc_defense.demo.engine import MAX_BYTES
from udc_defense.demo.handlers import for_visitors, unknown

log = logging.getLogger(__name__)

MAX_JSON = 2 * MAX_BYTES  # a photo inside a `data:` URL is a third longer
MAX_UPLOAD = (MOST + 1) * MAX_BYTES  # of a batch, and what is said around its photos
FOREIGN = re.compile(r"/file[=/]https?:")  # gradio would fetch the page and hand it on


class Door:
    """ASGI middleware: refuses a request by its first lines."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)


def _refusal(scope: Scope) -> JSONResponse | None:
    if FOREIGN.search(scope["path"]):
        return _answer("This server fetches nothing from elsewhere.", 403)
    if scope["method"] != "POST":
        return None
    length, most = Headers(scope=scope).get("content-length"), _most(scope["path"])
    if length is None:
        return _answer("A request has to say its length.", 411)
    if int(length) > most:
        return _answer(f"The request has {int(length) / 1e6:.1f} MB, more than the {most / 1e6:g} MB allowed.", 413)
    return None


def _most(path: str) -> int:
    return MAX_UPLOAD if path.rstrip("/").endswith("/upload") else MAX_JSON


def _answer(sentence: str, status: int) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status)


class Page(gr.Blocks):
    """Blocks that fetch nothing for a visitor, and say in a sentence what else gradio would be silent about."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **more: Any) -> list[Any]:
        try:
            traverse(inputs, _checked, is_file_obj)
            return await super().preprocess_data(block_fn, inputs, *rest, **more)
        except gr.Error as error:
            message = for_visitors(error.message)
        except Exception:  # whatever a component makes of what none of its kind would send
            log.info("an input was refused", exc_info=True)
            message = "The request is not understood: an input is not what its field takes."
        raise gr.Error(message, print_exception=False)

    async def process_api(self, *inputs: Any, **more: Any) -> dict[str, Any]:
        try:
            return await super().process_api(*inputs, **more)
        except gr.Error:
            raise
        except Exception:
            message = unknown()
        raise gr.Error(message, print_exception=False)


def _checked(file: dict[str, Any]) -> dict[str, Any]:
    if is_http_url_like(file["path"]):
        raise gr.Error("This server fetches nothing from elsewhere: upload the photo.")
    if not is_file_obj_with_meta(file):
        raise ValueError("gradio would open this path without looking where it is")
    return file
