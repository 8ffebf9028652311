"""What model cards say besides what was measured: one template, and texts by kind and name of a checkpoint."""

from __future__ import annotations

from udc_defense.evaluation import architecture_suite
from udc_defense.optics import PANELS

CARD = """---
{front}
---

# {kind} `{name}`

{purpose}

- **Architecture**: {architecture}, {parameters:,} parameters.
- **Weights**: sha256 `{sha256}`, {bytes:,} bytes, safetensors.
- **Load**: `udc_defense.load_{kind}("{name}")`; `load_{kind}("OWNER/NAME@REVISION")` from the Hub.

## Intended use

{use}

## Training

- **Data**: {scenes} scenes (Poly Haven panoramas, CC0; photos under CC0 and the Unsplash licence) as simulated captures
  of the panels {panels}; none of the scenes that are measured below.
- **Loss**: {loss}
- **Steps**: {steps:,} of {batch} captures; learning rate {learning_rate}, mixed precision {precision},
  seed {seed}.{remark}
- **Time and hardware**: {minutes:.0f} minutes, {processes} process, {threads} thread, {device}, torch {torch}.
- **Command**: `{command}`

## Measured

{measured}

## Limits

{limits}

## Licence and citation

Apache-2.0. Cite the repository and {citation}.
"""

ARXIV = "[arXiv {0}](https://arxiv.org/abs/{0})"
PAPER = "2402.13629"
PURIFICATION = "the paper on purifying under-display captures, " + ARXIV.format(PAPER)

AS_A_DEFENSE = (
    "As a defense ({defense}): mean PSNR in dB of the restored held-out crops. {protocol} Made by {made}\n\n"
    "The attacker does not know it:\n\n{psnr-heldout}\n\n"
    "The attacker who knows it, held-out adaptive crops:\n\n{adaptive-heldout}"
)

# After what else was measured of a restorer.
EVALUATED = (
    "\n\nBy `udc-defense evaluate --preset paper` on held-out crops of 128², PSNR in dB under the worst attack of "
    "either kind at ε = 4/255:\n\n{}"
)

# In braces: a fact of the training, `timesteps` of the scheduler, or the name of a table.
TEXTS = {
    "restorer": {
        "pipeline": "image-to-image",
        "purpose": "A small gated U-Net: captures of under-display cameras to clean images, in the tone-mapped domain.",
        "use": "Research on attacks and defenses of image restoration: a network of which the damage can be measured. "
        "Not for photos that matter, and not where an adversary chooses the input.",
        "loss": "mean log squared error per crop, as in NAFNet.",
        "measured": "Mean PSNR in dB against the clean image. {protocol} Made by {made}\n\n"
        "The attacker does not know the defense ({defense}), held-out crops:\n\n{psnr-heldout}\n\n"
        "The attacker who knows it, held-out adaptive crops:\n\n{adaptive-heldout}",
        "limits": "Trained on simulated optics only; colours and noise of real phones differ from the simulation's. "
        "Its output under attack is what this project measures.",
        "citation": f"{PURIFICATION}, and NAFNet, {ARXIV.format('2204.04676')}",
    },
    "purifier": {
        "pipeline": "image-to-image",
        "purpose": "A diffusion model of captures for t < {last_timestep} of {timesteps}: a denoiser for purification, "
        "not a generator.",
        "use": "Adversarial purification before a restorer: a few steps of forward diffusion drown the perturbation, "
        "the reverse takes the noise out. It loads in stock diffusers, but samples from pure noise are meaningless.",
        "loss": "DDPM's simple loss over t < {last_timestep}.",
        "measured": "As a denoiser: PSNR in dB on captures of the validation crops.\n\n{denoising}\n\n" + AS_A_DEFENSE,
        "limits": "An attacker who differentiates through it gets further than one who does not, and it costs quality "
        "on clean captures: see the tables. It keeps the sensor noise of captures, by design.",
        "citation": f"{PURIFICATION}, and DDPM, {ARXIV.format('2006.11239')}",
    },
    "guide": {
        "pipeline": "image-feature-extraction",
        "purpose": "A small encoder whose latent of a capture an attack moves little, for the guide `feature`.",
        "use": "Steering the reverse steps of a purifier towards its input, in a latent instead of in pixels. "
        "It restores nothing: its head was needed for training alone.",
        "loss": "restoration from the latent of clean and attacked captures, and a latent that the attack leaves where "
        "it was, as TRADES does (ε = {attack_eps_in_255ths:g}/255).",
        "measured": "It has no score of its own. What it does for a purifier is in the table of purifiers among the "
        "repository's results.",
        "limits": "Trained on simulated optics only, against one attack on itself. An adaptation to regression of a "
        "method for classifiers that has no public code; a pull towards an attacked input may keep the attack.",
        "citation": f"{PURIFICATION}, and AGDM, {ARXIV.format('2403.16067')}",
    },
}
# What differs for a checkpoint of another name than `default`.
OTHERS = {
    "purifier/direct": {
        "trained_by": "direct_purifier",
        "purpose": "A denoiser of captures that was trained against attacks: one evaluation purifies, at "
        "t < {last_timestep} of {timesteps}.",
        "use": "Adversarial purification before a restorer in one evaluation. It was trained for the embedded restorer "
        "and against attacks on it; it is no generator.",
        "loss": "log squared error of the restored and of the purified capture, under an attack through the purifier "
        "up to ε = {attack_eps_in_255ths:g}/255, under random noise or under none.",
        "measured": AS_A_DEFENSE
        + "\n\nWhat it saves and costs beside every other purifier is in the table of purifiers "
        "among the repository's results.",
    },
}
# Restorers that were fine-tuned after the recipe of their name: what each was shown, and the method's paper.
FINETUNED = {
    "noisy": ("captures with random noise and plain ones", PAPER),
    "purified": ("purified captures and plain ones", PAPER),
    "adversarial": ("captures under attack, beside the plain ones that they come from", "1901.08573"),
    "purified_adversarial": ("captures that were attacked through the purifier and purified, and others", "1706.06083"),
}
for _name, (_shown, _paper) in FINETUNED.items():
    OTHERS[f"restorer/{_name}"] = {
        "trained_by": _name,
        "purpose": f"The restorer `default` fine-tuned on {_shown} (recipe `{_name}`).",
        "loss": "{recipe_loss}.",
        "measured": "Mean PSNR in dB against the clean image, {images}. Made by {made}\n\nThe attacker does not know "
        "the purifier, held-out crops:\n\n{finetuned}\n\nThe attacker who knows all there is, held-out adaptive "
        "crops:\n\n{finetuned-known}\n\nThe other recipes stand in the same tables among the repository's results.",
        "citation": f"{PURIFICATION}, and {ARXIV.format(_paper)}" if _paper != PAPER else PURIFICATION,
    }
# Restorers of one panel bear its name.
for _name in PANELS:
    OTHERS[f"restorer/{_name}"] = {
        "purpose": f"The restorer `default` trained on for captures of the panel `{_name}` alone.",
        "loss": "mean logarithm of each crop's squared error.",
        "measured": "What it adds to held-out captures of 256², in dB of PSNR, beside `default`, which knows three "
        "panels; in brackets how many each makes worse. Made by {made}\n\n{unlike}",
        "limits": f"Of little use on captures of other panels. {TEXTS['restorer']['limits']}",
    }
# Restorers that are there to be compared, by the paper of their architecture.
COMPARED = {"nafnet": "2204.04676", "de_unet": "2003.04857", "udc_unet": "2209.01809", "uformer": "2106.03106"}
for _name, _paper in COMPARED.items():
    OTHERS[f"restorer/{_name}"] = {
        "purpose": f"A small {architecture_suite.NETWORKS[_name]} that was trained for about half an hour, to compare "
        "architectures under attack. The restorer `default` restores more.",
        "measured": "Mean PSNR in dB against the clean image, {images}. Made by {made}\n\n{compared}\n\n"
        "The other architectures stand in the same table among the repository's results.",
        "citation": f"{PURIFICATION}, and {ARXIV.format(_paper)}",
    }
