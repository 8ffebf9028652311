"""What a recipe is, and what recipes share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from udc_defense.attacks.gradients import CHUNK_PIXELS
from udc_defense.attacks.objectives import mse
from udc_defense.attacks.pgd import pgd
from udc_defense.errors import SettingError
from udc_defense.registry import Registry
from udc_defense.training.perceptual import perceptual_distance
from udc_defense.training.purified import Cache, PerSample, draw_levels
from udc_defense.vgg import Vgg

LOG_FLOOR = 1e-6  # of a squared error: no crop is worth more than 60 dB


@dataclass(frozen=True)
class Tools:
    """What recipes work with besides the network.

    Attributes:
        purifier: on the device of the captures; None for recipes that purify nothing.
        perceptual: the backbone of the perceptual part, where it can be had.
        cache: keeps purified copies.
    """

    purifier: nn.Module | None = None
    perceptual: Vgg | None = None
    cache: Cache | None = None

    @torch.no_grad()
    def purified(self, captured: Tensor, levels: tuple[int, int], generators: list[torch.Generator]) -> Tensor:
        """Copies of captures (B, 3, H, W), each purified at a level of its own between the two."""
        assert self.purifier is not None
        drawn = draw_levels(*levels, generators)
        if self.cache:
            return self.cache.purified(self.purifier, captured, drawn)
        return PerSample(self.purifier, drawn, generators)(captured)


def option(default: Any, lowest: float, highest: float, words: str) -> Any:
    """A setting of a recipe: its default, its range and what it means."""
    return dataclasses.field(default=default, metadata={"range": (lowest, highest), "words": words})


@dataclass(frozen=True)
class Recipe:
    """Base of recipes: frozen dataclasses whose fields are their settings.

    The pixel loss is the paper's L2 (arXiv 2402.13629), or its logarithm, so that recipes differ in what they show and
    not in how they count. Radii are in units of 1/255, for people set them.

    Attributes:
        name: in the registry.
        purifies: it needs a purifier.

    Raises:
        SettingError: a setting is out of its range.
    """

    name: ClassVar[str]
    purifies: ClassVar[bool] = False

    perceptual: float = option(0.01, 0, 10, "weight of VGG19's relu3_3 and relu4_2 beside L2, where they can be had")
    jitter: float = option(0.05, 0, 0.5, "colour jitter: each channel times 1 ± this")
    log: int = option(0, 0, 1, "1: the logarithm of each crop's loss counts, so that none outweighs the others")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, (lowest, highest) = getattr(self, field.name), field.metadata["range"]
            low, high = value if isinstance(value, tuple) else (value, value)
            if not lowest <= low <= high <= highest:  # nan neither
                raise SettingError(
                    f"{field.name} {shown_value(value)} is not in {lowest:g}…{highest:g}, in rising order."
                )

    def loss(
        self, network: nn.Module, captured: Tensor, clean: Tensor, generators: list[torch.Generator], tools: Tools
    ) -> Tensor:
        """Mean loss of the samples; all that is drawn comes from the generator of the sample."""
        raise NotImplementedError

    def fidelity(self, output: Tensor, clean: Tensor, tools: Tools) -> Tensor:
        """L2 and, where there is a backbone, the perceptual distance, per sample (B,)."""
        error = mse(output, clean)
        if tools.perceptual is None or self.perceptual == 0:
            return error
        return error + self.perceptual * perceptual_distance(tools.perceptual, output, clean)

    def mean(self, losses: Tensor) -> Tensor:
        """What is minimised, of the losses of the samples (B,)."""
        return (torch.log10(losses + LOG_FLOOR) if self.log else losses).mean()


def shown_value(value: Any) -> str:
    """As the command line takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"


def changed(captured: Tensor, chosen: Tensor, change: Callable[[list[int]], Tensor]) -> Tensor:
    """Captures (B, 3, H, W) of which the chosen (B,) are replaced by what `change` makes of their indices."""
    indices = chosen.nonzero().squeeze(1).tolist()
    if not indices:
        return captured
    captured = captured.clone()
    captured[indices] = change(indices)
    return captured


def chance(generators: list[torch.Generator]) -> Tensor:
    """A number in [0, 1) for each sample, (B,)."""
    return torch.cat([torch.rand(1, generator=generator) for generator in generators])


def radii(eps_in_255ths: float, generators: list[torch.Generator]) -> Tensor:
    """A radius for each sample, (B,), up to ε: small perturbations must not be forgotten over large ones."""
    return chance(generators) * eps_in_255ths / 255


def attacked(
    model_of: Callable[[slice], nn.Module],
    image: Tensor,
    reference: Tensor,
    eps: Tensor,
    steps: int,
    generators: list[torch.Generator],
) -> Tensor:
    """Captures (B, 3, H, W) after PGD on the mean squared error.

    Args:
        model_of: some samples of the batch -> the module that the attacker has of them.
        image: captures in [0, 1].
        reference: what damage is measured against.
        eps: radius of each, (B,).
        steps: of PGD.
        generators: of the random starts.
    """
    # Noise is bound to samples, so the model must be given no fewer of them than it was made for.
    size = max(1, CHUNK_PIXELS.get(image.device.type, CHUNK_PIXELS["cpu"]) // (image.shape[-1] * image.shape[-2]))
    found = []
    for start in range(0, len(image), size):
        part = slice(start, start + size)
        result = pgd(
            model_of(part), image[part], reference[part], eps=eps[part], steps=steps, generator=generators[part]
        )
        found.append(result.image)
    return torch.cat(found)


R = TypeVar("R", bound=type[Recipe])
RECIPES: Registry[type[Recipe]] = Registry("udc_defense.training.recipes", "recipe", helpers=("base",))


def register(name: str) -> Callable[[R], R]:
    """Decorator: put a recipe under its file's name."""

    def keep(recipe: R) -> R:
        recipe.name = name
        RECIPES.register(name)(recipe)
        return recipe

    return keep


def parse_recipe(name: str, given: Mapping[str, str]) -> Recipe:
    """A recipe with its defaults, or with what the command line says: numbers, and pairs such as `10,50`.

    Raises:
        SettingError: the name or a setting is unknown, or its value unusable.
    """
    recipe = RECIPES.get(name)
    types = get_type_hints(recipe)
    known = [field.name for field in dataclasses.fields(recipe)]
    for setting in given:
        if setting not in known:
            raise SettingError(f"recipe {name} has no option {setting!r}; it has {', '.join(known)}.")
    return recipe(**{setting: _parsed(setting, text, types[setting]) for setting, text in given.items()})


def _parsed(name: str, text: str, kind: Any) -> Any:
    try:
        if get_origin(kind) is tuple:
            lowest, highest = map(int, text.split(","))
            return lowest, highest
        return kind(text)
    except ValueError as error:
        words = "two whole numbers LOWEST,HIGHEST" if get_origin(kind) is tuple else f"of the type {kind.__name__}"
        raise SettingError(f"option {name}={text!r} is not {words}.") from error
