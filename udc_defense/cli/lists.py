"""What there is to choose from: `attack --list`, `purify --list`."""

from __future__ import annotations

import argparse
from typing import Any

from udc_defense.cli.common import say
from udc_defense.options import Option


class ListPurifiers(argparse.Action):
    """`purify --list`: like --help, prints and leaves, whatever else is or is not given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from udc_defense.guides import GUIDES
        from udc_defense.purification import DEFAULT, defense_options
        from udc_defense.purifiers import SAMPLERS
        from udc_defense.registry import first_line
        from udc_defense.transforms import TRANSFORMS

        say(f"default: {DEFAULT.words}, a network that was trained against attacks")
        say("Samplers of the diffusion model (--defense NAME or NAME:OPTION=VALUE,…):")
        options = {name: defense_options(name) for name in SAMPLERS.names()}
        shared = [option for option in options[DEFAULT.sampler] if all(option in own for own in options.values())]
        for name, own in options.items():
            say(f"  {name}: {first_line(SAMPLERS.get(name).iterate)}")
            for option in own:
                if option not in shared:
                    say(f"      {_words(option)}")
        say("Options of every sampler:")
        for option in shared:
            say(f"      {_words(option)}")
        say("Guides (guide=NAME):")
        for name in GUIDES.names():
            say(f"  {name}: {first_line(GUIDES.get(name))}")
        say("Plain transforms (--defense NAME or NAME:OPTION=VALUE):")
        for name in TRANSFORMS.names():
            say(f"  {name}: {first_line(TRANSFORMS.get(name))}")
            say(f"      {_words(TRANSFORMS.get(name).strength)}")
        parser.exit()


class ListAttacks(argparse.Action):
    """`attack --list`: like --help, prints and leaves."""

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
                say(f"      --option {_words(option)}")
        for title, words in (("Objectives (--objective)", OBJECTIVE_WORDS), ("Threats (--threat)", WORDS)):
            say(f"{title}:")
            for name, meaning in words.items():
                say(f"  {name}: {meaning}")
        parser.exit()


def _words(option: Option) -> str:
    """`name=default (choices): what it is`; a number is written as short as it can be."""
    choices = f" ({' or '.join(option.choices)})" if option.choices else ""
    default = f"{option.default:g}" if isinstance(option.default, float) else option.default
    return f"{option.name}={default}{choices}: {option.words}"
