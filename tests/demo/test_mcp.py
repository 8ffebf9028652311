"""The demo as a server of MCP tools: `udc-defense demo --mcp`."""

from __future__ import annotations

import asyncio
import base64
import io
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
pytest.importorskip("gradio", reason="the extra `demo` is not installed")

from udc_defense import cli, demo


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert cli.main(["demo", "--mcp"]) != 0
    said = capsys.readouterr().err
    assert said == 'udc-defense: the MCP server needs mcp; install it with pip install "udc-defense[mcp]".\n'


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
    page = demo.build()
    _, url, _ = demo.launch(page, host="127.0.0.1", prevent_thread_lock=True, quiet=True, mcp_server=True)
    yield f"{url}gradio_api/mcp/"
    page.close()


def test_the_endpoints_are_tools(address: str) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def ask() -> tuple[Any, Any]:
        async with streamablehttp_client(address) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            return await session.list_tools(), await session.call_tool("restore", {"photo": photo(), "restorer": ""})

    tools, answer = asyncio.run(ask())
    assert {tool.name for tool in tools.tools} == {"run", "attack", "purify", "restore"}
    run = next(tool for tool in tools.tools if tool.name == "run")
    assert "Attack, purify and restore one photo" in run.description and "eps" in run.inputSchema["properties"]
    assert not answer.isError and "Done" in str(answer.content)


def photo() -> str:
    """As tools get it: in a `data:` URL."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
