"""Images in a row that a visitor can open and download."""

from __future__ import annotations

import gradio as gr


def add_gallery(label: str, elem_id: str, columns: int = 5) -> gr.Gallery:
    """Draw it, empty."""
    return gr.Gallery(
        label=label,
        format="png",
        columns=columns,
        height="auto",
        object_fit="cover",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_classes="udc-strip",
        elem_id=elem_id,
    )
