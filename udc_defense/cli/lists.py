"""What there is to choose from: `attack --list`, `purify --list`."""

from __future__ import annotations

import argparse
from typing import Any

from udc_defense.cli.common import say


class ListPurifiers(argparse.Action):
    """Of `purify --list`: like --help, prints and leaves, whatever else is or is not given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from udc_defense.guides import GUIDES
        from udc_defense.purification import DEFAULT
        from udc_defense.purifiers import SAMPLERS
        from udc_defense.registry import first_line
        from udc_defense.transforms import TRANSFORMS

        say(f"The default: {DEFAULT.words}, by a network that was trained against attacks.")
        say("Samplers of the diffusion model (--purifier NAME, --noise-level, --draws):")
        for name in SAMPLERS.names():
            say(f"  {name}: {first_line(SAMPLERS.get(name).iterate)}")
        say("Guides of the samplers (--guide NAME, --guidance STRENGTH):")
        for name in GUIDES.names():
            say(f"  {name}: {first_line(GUIDES.get(name))}")
        say("Plain transforms (--purifier NAME, --strength VALUE):")
        for name in TRANSFORMS.names():
            transform = TRANSFORMS.get(name)
            strength = transform.strength
            say(f"  {name}: {first_line(transform)}")
            say(f"      --strength {strength.default:g}: {strength.name}, {strength.words}")
        parser.exit()


class ListAttacks(argparse.Action):
    """Of `attack --list`, likewise."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from udc_defense.attacks import ATTACKS
        from udc_defense.attacks.objectives import OBJECTIVE_WORDS
        from udc_defense.threats import WORDS

        say("Attacks (--attack NAME, --option NAME=VALUE):")
        for name in ATTACKS.names():
            attack = ATTACKS.get(name)
            takes = [flag for flag in ("eps", "steps", "norm", "objective") if flag in attack.defaults]
            sees = "gradients" if attack.white_box else "outputs only"
            say(f"  {name} (sees {sees}; takes {', '.join(takes) or 'none of the shared flags'})")
            say(f"      {attack.summary}")
            for option in attack.options:
                choices = f" ({' or '.join(option.choices)})" if option.choices else ""
                say(f"      --option {option.name}={option.default}{choices}: {option.words}")
        for title, words in (("Objectives (--objective)", OBJECTIVE_WORDS), ("Threats (--threat)", WORDS)):
            say(f"{title}:")
            for name, meaning in words.items():
                say(f"  {name}: {meaning}")
        parser.exit()
