"""Guides: edits of the prediction at every reverse step that keep a purified capture near its input. One a file."""

from __future__ import annotations

from udc_defense.guides.base import GUIDES, Guide, check_guidance, register

__all__ = ["GUIDES", "Guide", "check_guidance", "register"]
