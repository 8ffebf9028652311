"""Attacks on image-to-image networks, one a file: `attacks.pgd(model, image, reference, eps=4 / 255)`.

An attack knows no purifier: it gets a module and a reference.
"""

from udc_defense.attacks.base import ATTACKS, Attack, AttackResult, register

# Bound here as functions, eagerly: an attack and its file share a name, and a later import of the file would win.
globals().update({name: ATTACKS.get(name) for name in ATTACKS.names()})

__all__ = ["ATTACKS", "Attack", "AttackResult", "register"]
