"""Checkpoints: files, verified; names, resolved; networks, loaded. `files` -> `hub` -> `resolve` -> `load`."""
