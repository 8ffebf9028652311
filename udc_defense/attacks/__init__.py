"""Attacks on image-to-image networks, one a file: `attacks.pgd(model, image, reference, eps=4 / 255)`.

An attack knows no purifier: it gets a module and a reference.
"""

from typing import TYPE_CHECKING

from udc_defense.attacks.base import ATTACKS, Attack, AttackResult, register

if TYPE_CHECKING:  # what the line below binds, for those who check types
    from udc_defense.attacks.apgd import apgd as apgd
    from udc_defense.attacks.cospgd import cospgd as cospgd
    from udc_defense.attacks.cw import cw as cw
    from udc_defense.attacks.fgsm import fgsm as fgsm
    from udc_defense.attacks.low_frequency import low_frequency as low_frequency
    from udc_defense.attacks.pgd import pgd as pgd
    from udc_defense.attacks.random_noise import random_noise as random_noise
    from udc_defense.attacks.simba import simba as simba
    from udc_defense.attacks.square import square as square
    from udc_defense.attacks.universal import universal as universal

# Bound here as functions, eagerly: an attack and its file share a name, and a later import of the file would win.
globals().update({name: ATTACKS.get(name) for name in ATTACKS.names()})

__all__ = ["ATTACKS", "Attack", "AttackResult", "register"]
