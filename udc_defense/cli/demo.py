"""`udc-defense demo`."""

from __future__ import annotations

import argparse
from typing import Any

from udc_defense.cli.flags import command
from udc_defense.errors import SettingError


def add(commands: Any) -> None:
    """Add the command."""
    demo = command(commands, "demo", _demo, "the browser demo")
    demo.add_argument("--host", default=None)
    demo.add_argument("--port", type=int, default=None)
    demo.add_argument(
        "--restorer", default="default", metavar="NAME", help="embedded name, folder or owner/name[@revision]"
    )
    demo.add_argument("--share", action="store_true", help="a public link through Gradio's servers")
    demo.add_argument("--mcp", action="store_true", help="also serve the API to language models, as MCP tools")


def _demo(options: argparse.Namespace) -> int:
    try:
        from udc_defense.demo import main as serve
    except ImportError as error:
        raise SettingError(f'the demo needs {error.name}; install it with pip install "udc-defense[demo]".') from error
    serve(host=options.host, port=options.port, share=options.share, restorer=options.restorer, mcp=options.mcp)
    return 0
