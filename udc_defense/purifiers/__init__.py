"""Purifiers: capture to capture, perturbation removed. One sampler of the diffusion model a file."""

from udc_defense.purifiers.base import Sampler
from udc_defense.registry import Registry

SAMPLERS: Registry[Sampler] = Registry("udc_defense.purifiers", "purifier", helpers=("base", "diffusion"))
register = SAMPLERS.register
