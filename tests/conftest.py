"""What tests of several packages share; helpers that are no fixtures are in tests/helpers/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import loopback_hub
import pytest
from loopback_hub import Hub
from tiny_networks import save_purifier, save_restorer


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A loopback Hub with a restorer, a purifier, and a restorer that never arrives whole."""
    repositories = {
        "me/net": save_restorer(tmp_path / "hub" / "net"),
        "me/prior": save_purifier(tmp_path / "hub" / "prior"),
        "me/damaged": save_restorer(tmp_path / "hub" / "damaged"),
    }
    (repositories["me/net"] / "README.md").write_text("A card that no loader needs.")
    with loopback_hub.serve(repositories, tmp_path / "hub", corrupt={"me/damaged"}) as hub:
        yield hub
