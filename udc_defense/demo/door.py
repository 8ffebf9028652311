"""What is refused before a handler sees it: large bodies, addresses to fetch, inputs that none of our fields sends."""

from __future__ import annotations

import logging
import math
import re
from typing import Any

import gradio as gr
from gradio_client.utils import is_file_obj, is_file_obj_with_meta, is_http_url_like, traverse
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from udc_defense.demo.batch_tab import MOST
from udc_defense.demo.engine import MAX_BYTES
from udc_defense.demo.handlers import for_visitors, unknown
from udc_defense.demo.listeners import Listeners, listener

log = logging.getLogger(__name__)

MAX_JSON = 2 * MAX_BYTES  # a photo inside a `data:` URL is a third longer
MAX_UPLOAD = (MOST + 1) * MAX_BYTES  # of a batch, and what is said around its photos
MOST_VALUES = 20_000
FOREIGN = re.compile(r"/file[=/]https?:")  # gradio would fetch the page and hand it on


class Door:
    """ASGI middleware: refuses a request by its first lines or when it grows too large, and knows who listens."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.listeners: Listeners | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if refusal := _refusal(scope):
            return await refusal(scope, receive, send)
        if self.listeners is None:
            self.listeners = Listeners(scope["app"].get_blocks()._queue)
        if name := listener(scope):
            with self.listeners.present(name):
                return await self.app(scope, receive, send)
        counted = Counted(receive, send, _most(scope["path"]), _most_values(scope["path"]))
        try:
            await self.app(scope, counted.receive, counted.send)
        except ClientDisconnect:
            if not counted.excessive:
                raise
        except Exception:  # of gradio, for which a form without files is one
            if counted.started:
                raise
            await _not_understood(scope["path"])(scope, receive, send)
        finally:
            self.listeners.watch()
        if counted.excessive and not counted.started:
            await counted.refusal()(scope, receive, send)


class Counted:
    """A request whose bytes and values are counted as they arrive, whatever its headers say; then no more are read."""

    def __init__(self, receive: Receive, send: Send, most: int, most_values: float = math.inf) -> None:
        self._receive, self._send, self.most, self.most_values = receive, send, most, most_values
        self.bytes, self.values, self.started = 0, 0, False

    @property
    def excessive(self) -> bool:
        return self.bytes > self.most or self.values > self.most_values

    def refusal(self) -> JSONResponse:
        if self.values > self.most_values:
            return _answer(f"The request has more than the {self.most_values} values allowed.", 413)
        return _answer(f"The request has more than the {self.most / 1e6:g} MB allowed.", 413)

    async def receive(self) -> Message:
        """The next part; of one that is too large, the end, as if the visitor had left."""
        if self.excessive:
            return {"type": "http.disconnect"}
        message = await self._receive()
        body = message.get("body", b"")
        self.bytes += len(body)
        self.values += body.count(b",") + body.count(b"[") + body.count(b"{")  # each value follows one of them
        return {"type": "http.disconnect"} if self.excessive else message

    async def send(self, message: Message) -> None:
        """What the application answers; of a request that was cut short, nothing."""
        if self.started or not self.excessive:
            self.started = True
            await self._send(message)


def _refusal(scope: Scope) -> JSONResponse | None:
    if FOREIGN.search(scope["path"]):
        return _answer("This server fetches nothing from elsewhere.", 403)
    headers, most = Headers(scope=scope), _most(scope["path"])
    length = headers.get("content-length")
    if length is not None and "transfer-encoding" in headers:
        return _answer("A request has either a length or chunks, not both.", 400)
    if length is not None and int(length) > most:
        return _answer(f"The request has {int(length) / 1e6:.1f} MB, more than the {most / 1e6:g} MB allowed.", 413)
    return None


def _most(path: str) -> int:
    return MAX_UPLOAD if _is_upload(path) else MAX_JSON


def _most_values(path: str) -> float:
    """Of JSON, each of whose values costs a hundred times its length; files may have any bytes."""
    return math.inf if _is_upload(path) else MOST_VALUES


def _not_understood(path: str) -> JSONResponse:
    """What is said instead of an error that is being handled."""
    if _is_upload(path):
        log.info("an upload was refused", exc_info=True)
        return _answer("The upload is not understood: it has to be a form of files with names.", 400)
    return _answer(unknown(), 500)


def _is_upload(path: str) -> bool:
    return path.rstrip("/").endswith("/upload")


def _answer(sentence: str, status: int) -> JSONResponse:
    # What is left of the request is not read.
    return JSONResponse({"detail": sentence}, status, headers={"connection": "close"})


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
