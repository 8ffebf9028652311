"""Method, limits, cards and citation."""

from __future__ import annotations

import re

import gradio as gr

from udc_defense.demo.files import found
from udc_defense.samples import CREDITS

METHOD = """### What happens to a photo
1. **Capture.** The light of the photo passes the pixels of a display (diffraction from the panel's layout, per
   wavelength), loses most of itself there, meets a sensor with noise and saturation, and is tone-mapped.
2. **Restoration.** A network that was trained on such captures repairs it.
3. **Attack.** A change of at most ε per value, found with the network's own gradients or by asking it, makes the repair
   fail. *Random noise* of the same size is the control: an attack that does no better than it is none.
4. **Purification.** Noise drowns the change and is taken out again: by a diffusion model, in one step or in many, or by
   a network that was trained against attacks to do it in one, which is the default. Then the capture is restored.
5. **Detection.** Where purification changes the restored image much, the capture was probably attacked.

The two stages after the attack are those of "Adversarial Purification and Fine-tuning for Robust UDC Image Restoration"
([arXiv 2402.13629](https://arxiv.org/abs/2402.13629); Sensors 2025, 25, 3386), whose code is not public: networks,
optics and numbers here are our own.
"""
LIMITS = """### What it is not
- Trained and measured on simulated optics; real phones differ in colours and noise.
- One photo proves nothing: the tab *Robustness* has the means, also against the attacker who knows the defense, who is
  the one that counts.
- A share of what was given back flatters a fragile restorer; dB beside it do not.
- Every number under attack is an upper bound: a stronger attack may come. Only the tab *Certify* bounds all attacks,
  within radii far below those of the usual attack.
- Photos are processed on this server and deleted with their results within two hours. Nothing is kept in your
  browser, and a link carries choices only.
"""
CITATION = """### Citation
```bibtex
@software{udc_defense,
  title   = {udc-defense: attack, purify and restore photos of under-display cameras},
  author  = {The udc-defense authors},
  license = {Apache-2.0}
}
```
"""


def add_about_tab() -> None:
    """Draw it, with the cards that are there."""
    gr.Markdown(METHOD)
    gr.Markdown(LIMITS)
    gr.Markdown(f"### Networks\n{'Their cards:' if found('weights_card') else 'Their cards are in the repository.'}")
    for title, text in cards().items():
        with gr.Accordion(title, open=False):
            gr.Markdown(text, elem_classes="udc-wide")
    gr.Markdown(CITATION)
    gr.Markdown(CREDITS, elem_classes="udc-small")


def cards() -> dict[str, str]:
    """Title -> Markdown of every model card, without what is meant for machines."""
    folder = found("weights_card")
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))] if folder else []
    bodies = [re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL).strip() for text in texts]
    return {body.splitlines()[0].lstrip("# ").replace("`", ""): body.partition("\n")[2] for body in bodies}
