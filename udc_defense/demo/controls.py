"""The left side: photo, panel, attack, defense, and Run; all that is finer is folded away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from udc_defense import threats
from udc_defense.checkpoints.files import embedded_names
from udc_defense.demo import presets, view
from udc_defense.demo.choices import DEFENSES, step_limits, takes
from udc_defense.demo.engine import seconds
from udc_defense.demo.fields import ATTACK, DEFENSE, FIELDS, details
from udc_defense.demo.handlers import QUIET, for_visitors, unopened
from udc_defense.demo.link import named
from udc_defense.demo.networks import Networks
from udc_defense.demo.presets import choose
from udc_defense.errors import CheckpointError, SettingError
from udc_defense.optics import PANELS
from udc_defense.purifiers import SAMPLERS
from udc_defense.samples import write_samples

AS_PRESET = [("As the preset", "")]
SAMPLER_WORDS = {
    "one_step": "One step",
    "ddim": "DDIM, 5 steps",
    "ddpm": "DDPM, every step",
    "dpm_solver": "DPM-Solver++, 5 steps",
    "ode": "Probability flow, 5 steps",
}
NORMS = [("L∞: each value by at most ε", "linf"), ("L2: ε on average (root mean square)", "l2")]
HUB = "or owner/name[@revision] on the Hub"


@dataclass(frozen=True)
class Controls:
    """What a visitor sets.

    Attributes:
        photo: his photo.
        fields: every choice, by name, in the order of `FIELDS`.
        samples: title -> file that is shown.
        run: the button.
        stop: the button.
    """

    photo: gr.Image
    fields: dict[str, Any]
    samples: dict[str, str]
    run: gr.Button
    stop: gr.Button

    @property
    def inputs(self) -> list[gr.components.Component]:
        """Photo and choices in the order of the handlers' arguments."""
        return [self.photo, *self.fields.values()]


def add_controls(networks: Networks, folder: Path) -> Controls:
    """Draw them; `folder` is where samples are written, of which gradio keeps copies."""
    files = write_samples(folder)
    photo = gr.Image(
        value=str(next(iter(files.values()))),
        label="Photo",
        type="filepath",
        image_mode=None,
        format="png",
        sources=["upload", "webcam", "clipboard"],
        height=220,
        alt_text="The photo that is run",
        elem_id="photo",
    )
    unopened(photo)
    samples = _offer(files, photo)
    fields: dict[str, Any] = {"captured": gr.Checkbox(label="It is already a UDC photo", elem_id="captured")}
    fields["panel"] = gr.Dropdown(
        [(panel.title, name) for name, panel in PANELS.items()],
        value="axon20",
        label="Panel in front of the camera",
        filterable=False,
        elem_id="panel",
    )
    fields |= _attack() | _defense() | _more()
    plan = gr.Markdown(plan_words(networks, *FIELDS.values()), elem_id="plan")
    with gr.Row(elem_classes="udc-buttons"):
        run = gr.Button("Run", variant="primary", scale=3, min_width=120, elem_id="run")
        stop = gr.Button("Stop", variant="secondary", scale=1, min_width=80, elem_id="stop")
    controls = Controls(photo, {name: fields[name] for name in FIELDS}, samples, run, stop)
    _follow(networks, controls, plan)
    return controls


def _offer(files: dict[str, Path], photo: gr.Image) -> dict[str, str]:
    """A strip of samples; a click makes one the photo."""
    strip = gr.Gallery(
        [(str(path), title) for title, path in files.items()],
        label="Or a sample",
        columns=5,
        height="auto",
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_classes="udc-strip",
        elem_id="samples",
    )
    shown = [item["image"]["path"] for item in strip.value]  # gradio's copies, kept as long as it runs

    def pick(event: gr.SelectData) -> str:
        return shown[event.index]

    strip.select(pick, None, photo, **QUIET)
    return dict(zip(files, shown, strict=True))


def _attack() -> dict[str, Any]:
    fields: dict[str, Any] = {"attack": _row("Attack", presets.ATTACKS, ATTACK, "attack")}
    _, eps, steps, *_ = attack_details(ATTACK, "")
    with gr.Accordion("Details of the attack", open=False, elem_id="attack-details"):
        fields["method"] = gr.Dropdown(
            AS_PRESET + view.attack_choices(), value="", label="Method", filterable=False, elem_id="method"
        )
        with gr.Row():
            fields["eps"] = _number("Largest change ε, of 255", "eps", eps["placeholder"])
            fields["steps"] = _number("Steps", "steps", steps["placeholder"])
        fields["threat"] = gr.Dropdown(
            AS_PRESET + [(words, kind) for kind, words in threats.TITLES.items()],
            value="",
            label="What the attacker knows of the defense",
            info="Attacks that see outputs only query it and differentiate nothing.",
            filterable=False,
            elem_id="threat",
        )
        fields["objective"] = gr.Dropdown(
            AS_PRESET + view.objective_choices(),
            value="",
            label="What the attack makes worse",
            filterable=False,
            elem_id="objective",
        )
        fields["norm"] = gr.Dropdown(
            AS_PRESET + NORMS, value="", label="Its size is measured in", filterable=False, elem_id="norm"
        )
        fields["options"] = gr.Textbox(
            "", label="Options of the method", placeholder="name=value, name=value", max_lines=1, elem_id="options"
        )
    return fields


def _defense() -> dict[str, Any]:
    fields: dict[str, Any] = {"defense": _row("Defense", presets.DEFENSES, DEFENSE, "defense")}
    _, level, draws = defense_details(DEFENSE, "", "")
    words = [(SAMPLER_WORDS.get(name) or view.defense_words(name), name) for name in DEFENSES if name != "none"]
    with gr.Accordion("Details of the defense", open=False, elem_id="defense-details"):
        fields["sampler"] = gr.Dropdown(
            AS_PRESET + words, value="", label="Method", filterable=False, elem_id="sampler"
        )
        with gr.Row():
            fields["noise_level"] = _number("Noise level, 0 to 100", "noise_level", level["placeholder"])
            fields["draws"] = _number("Draws, averaged", "draws", draws["placeholder"])
    return fields


def _more() -> dict[str, Any]:
    with gr.Accordion("Networks and seed", open=False, elem_id="networks"):
        restorer, purifier = _network("restorer", "default"), _network("purifier", "as the defense says")
        seed = _number("Seed", "seed", "a new one for every run")
    return {"restorer": restorer, "purifier": purifier, "seed": seed}


def _network(kind: str, placeholder: str) -> gr.Textbox:
    info = f"{', '.join(embedded_names(kind))}; {HUB}"
    return gr.Textbox("", label=kind.capitalize(), info=info, placeholder=placeholder, max_lines=1, elem_id=kind)


def _row(label: str, table: dict[str, presets.Preset], value: str, name: str) -> gr.Radio:
    choices = [(preset.title, key) for key, preset in table.items()]
    return gr.Radio(choices, value=value, label=label, elem_id=name, elem_classes="udc-presets")


def _number(label: str, name: str, placeholder: str) -> gr.Textbox:
    """A number, or nothing where the preset decides: of an empty `gr.Number` the browser sends 0."""
    field = gr.Textbox("", label=label, placeholder=placeholder, max_lines=1, min_width=120, elem_id=name)
    field.api_info = lambda: {"type": "number"}  # type: ignore[method-assign]
    return field


def _follow(networks: Networks, controls: Controls, plan: gr.Markdown) -> None:
    """Say what the choices mean, and show what can be chosen beside them."""
    fields = controls.fields
    fields["captured"].change(
        lambda known: gr.update(interactive=not known), fields["captured"], fields["panel"], **QUIET
    )
    gr.on(
        [field.change for field in fields.values()],
        lambda *values: plan_words(networks, *values),
        list(fields.values()),
        plan,
        trigger_mode="always_last",
        **QUIET,
    )
    shown = [fields[name] for name in ("method", "eps", "steps", "threat", "objective", "norm", "options")]
    gr.on(
        [fields["attack"].change, fields["method"].change],
        attack_details,
        [fields["attack"], fields["method"]],
        shown,
        trigger_mode="always_last",
        **QUIET,
    )
    gr.on(
        [fields["defense"].change, fields["sampler"].change, fields["purifier"].change],
        defense_details,
        [fields["defense"], fields["sampler"], fields["purifier"]],
        [fields["sampler"], fields["noise_level"], fields["draws"]],
        trigger_mode="always_last",
        **QUIET,
    )


def attack_details(attack: str, method: str) -> tuple[Any, ...]:
    """Updates of method, ε, steps, threat, objective, norm and options: those that the attack takes are shown."""
    preset = presets.ATTACKS[attack].choices
    used = "none" if attack == "off" else method or preset["method"]
    takes_, words = takes(used), view.options_words(used)
    steps = preset.get("steps") if used == preset["method"] else step_limits(used)[0]
    return (
        gr.update(visible=attack != "off", info=view.attack_words(used)),
        gr.update(visible="eps" in takes_, placeholder=f"{preset.get('eps', 0):g}"),
        gr.update(visible="steps" in takes_, placeholder=str(steps)),
        gr.update(visible=used != "none"),
        gr.update(visible="objective" in takes_),
        gr.update(visible="norm" in takes_),
        gr.update(visible=bool(words), info=words),
    )


def defense_details(defense: str, sampler: str, purifier: str) -> tuple[Any, ...]:
    """Updates of method, noise level and draws; only a diffusion model has the last two."""
    choices = choose(defense=defense, sampler=sampler, purifier=purifier)
    diffuses = choices.sampler in SAMPLERS.names()
    return (
        gr.update(visible=defense != "off"),
        gr.update(visible=diffuses, placeholder=str(choices.noise_level)),
        gr.update(visible=diffuses, placeholder=str(choices.draws)),
    )


def plan_words(networks: Networks, *values: Any) -> str:
    """What will be done and what it costs, or why it cannot be."""
    fields = named(values)
    try:
        choices = choose(**fields)
    except (SettingError, CheckpointError) as error:
        return f"⚠ {for_visitors(str(error))}"
    attack, defense = presets.ATTACKS[fields["attack"]], presets.DEFENSES[fields["defense"]]
    changed = [
        name
        for name in FIELDS
        if name in (*details("attack"), *details("defense"), "purifier") and fields[name] not in (None, "")
    ]
    overridden = f" Your details override: {', '.join(changed).replace('_', ' ')}." if changed else ""
    return (
        f"**Attack:** {attack.words}\n\n**Defense:** {defense.words}\n\n"
        f"{overridden} For a photo of 256×256 that takes {_about(seconds(networks, choices))} here."
    )


def _about(time: float) -> str:
    return f"about {max(1, round(time))} s" if time < 100 else f"about {round(time / 60)} min"
