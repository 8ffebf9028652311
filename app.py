"""The entry of a Space, and of `python app.py`: the library's demo, its work on a lent GPU where there is one."""

try:
    import spaces  # before anything that imports torch

    gpu = spaces.GPU
except ImportError:
    from udc_defense.demo import no_gpu as gpu

from udc_defense.demo import build, launch

demo = build(gpu=gpu)

if __name__ == "__main__":
    launch(demo)
