"""The samples of the demo: those of the library."""

from udc_defense.samples import CREDITS, NIGHT, PHOTOS, light, night_street, write_samples

__all__ = ["CREDITS", "NIGHT", "PHOTOS", "light", "night_street", "write_samples"]
