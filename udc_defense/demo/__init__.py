"""The demo in the browser: the only place that imports gradio, and only when it is built."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udc_defense.errors import SettingError

if TYPE_CHECKING:
    import gradio as gr

MAX_UPLOAD = "15mb"
# That gradio remembers, more than the queue has places: every call of the API is one and takes 0.6 MB, and no handler
# keeps anything there.
SESSIONS = 30


def no_gpu(handler: Callable[..., Any] | None = None, **_: Any) -> Any:
    """Stands in for `spaces.GPU` where no GPU is lent: `@no_gpu` and `@no_gpu(duration=…)` change nothing."""
    return handler if handler else lambda function: function


def build(gpu: Callable[..., Any] = no_gpu, restorer: str = "default") -> gr.Blocks:
    """The demo, not launched.

    Args:
        gpu: decorator of the handlers that compute, such as `spaces.GPU`.
        restorer: what visitors meet who name none: an embedded name, a folder, or `owner/name[@revision]` on the Hub.

    Raises:
        SettingError: gradio is not installed.
        CheckpointError: the restorer cannot be loaded.
    """
    # Read when gradio and huggingface_hub are first imported: a photo is nobody else's business.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from udc_defense.demo.interface import build as build_interface
    except ModuleNotFoundError as error:
        raise SettingError(f'the demo needs {error.name}; install it with pip install "udc-defense[demo]".') from error
    return build_interface(gpu, restorer)


def launch(demo: gr.Blocks, host: str | None = None, port: int | None = None, share: bool = False, **more: Any) -> Any:
    """Serve the demo; host and port come from GRADIO_SERVER_NAME and PORT (or GRADIO_SERVER_PORT) by default.

    Args:
        demo: from `build`.
        host: address to listen on.
        port: the first free one from 7860 by default.
        share: also open a public link through Gradio's servers.
        more: options of gradio's `launch`.
    """
    from starlette.middleware import Middleware

    from udc_defense.demo.door import Door
    from udc_defense.demo.memory import settle
    from udc_defense.demo.theme import theme

    settle()
    wanted = os.environ.get("PORT")
    # Open, the API would let a client compute past the queue.
    return demo.queue(max_size=20, default_concurrency_limit=1, api_open=False).launch(
        server_name=host,
        server_port=port or (int(wanted) if wanted and wanted.isdigit() else None),
        share=share,
        theme=theme(),
        css_paths=[Path(__file__).with_name("style.css")],
        js=Path(__file__).with_name("page.js").read_text(encoding="utf-8"),
        footer_links=["api", "settings"],
        max_file_size=MAX_UPLOAD,
        enable_monitoring=False,  # its summary needs no key
        run_history=False,  # a browser should not keep what somebody uploaded
        ssr_mode=False,  # would need Node
        state_session_capacity=SESSIONS,
        app_kwargs={"middleware": [Middleware(Door)]},
        **more,
    )


def main(
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    restorer: str = "default",
    mcp: bool = False,
) -> None:
    """`udc-defense demo`: build and serve until interrupted.

    Raises:
        SettingError: a package is missing.
        CheckpointError: the restorer cannot be loaded.
    """
    if mcp and find_spec("mcp") is None:
        raise SettingError('the MCP server needs mcp; install it with pip install "udc-defense[mcp]".')
    launch(build(restorer=restorer), host, port, share, mcp_server=mcp)
