"""Where networks run when nobody says it."""

import torch


def best_device() -> str:
    """`cuda`, else `mps` of Apple's chips, else `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
