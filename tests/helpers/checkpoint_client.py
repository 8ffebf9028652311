"""Checkpoints spoilt on purpose, and a process of its own that loads them from a Hub."""

from __future__ import annotations

import json
from pathlib import Path

import loopback_hub
import pytest
from torch import nn

from udc_defense.errors import CheckpointError


def sentence(caught: pytest.ExceptionInfo[CheckpointError]) -> str:
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def flip(path: Path, position: int) -> None:
    """Invert one bit, keeping the size."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# `resolve` needs no torch; loaded weights are told apart by a sum over them.
CLIENT = """
import json, sys
from udc_defense.checkpoints.resolve import resolve
from udc_defense.errors import CheckpointError
for call in sys.argv[1:]:
    function, _, source = call.partition(":")
    try:
        if function.startswith("load_"):
            from udc_defense.checkpoints import load
            module = getattr(load, function)(*[source] * bool(source))
            answer = [type(module).__name__, sum(float(p.double().abs().sum()) for p in module.parameters())]
        else:
            answer = str(resolve(source, function))
    except CheckpointError as error:
        answer = f"error {error}"
    print(json.dumps(answer))
"""


def client(cache: Path, endpoint: str, *calls: str, **environment: str) -> list:
    """What a process of its own answers to `load_restorer:SOURCE`, or `restorer:SOURCE` to only resolve it."""
    return loopback_hub.start(CLIENT, cache, endpoint, *calls, **environment).done().answers


def total(module: nn.Module) -> float:
    return sum(float(parameter.double().abs().sum()) for parameter in module.parameters())
