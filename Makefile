# One command each. `make demo` and `make test` set everything up in .venv first; `make` alone lists the targets.

# Which Python makes .venv: the first of these that runs and is new enough, or the one named by PY=.
NAMES := python3.13 python3.12 python3.11 python3
is-new = $(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
PY ?= $(shell for p in $(NAMES); do if $(call is-new,$$p); then command -v $$p; break; fi; done)

# The one version of torch that everything here was run with, and where its CPU builds are. PyPI's Linux build brings
# several GB of CUDA packages, so without an NVIDIA GPU it is the last resort.
TORCH := 2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

VENV := .venv
STAMP := $(VENV)/.stamp
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip
UDC := $(VENV)/bin/udc-defense

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow check space format results publish train-all screenshots wheel clean need-scenes

help: ## list the targets
	@echo "Targets of udc-defense:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile
	@echo "Settings: PY=python3.12 (which Python), TORCH_INDEX=URL (where CPU builds of torch are)"

demo: $(STAMP) ## the demo in the browser [PORT=7860]
	$(if $(PORT),GRADIO_SERVER_PORT=$(PORT)) $(PYTHON) app.py

# Python 3.12 and later count lines at little cost; 3.11 would take two thirds more processor time for it.
COVER = $(shell $(PYTHON) -c 'import sys; print("--cov=udc_defense --cov-report=" if sys.version_info >= (3, 12) else "")')

test: $(STAMP) ## the test suite without the slow tests; prints the coverage, with Python 3.12 or later
	COVERAGE_CORE=sysmon OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -n auto --dist loadfile $(COVER)
	@$(if $(COVER),echo "Coverage of udc_defense: $$($(PYTHON) -m coverage report --format=total) %")

test-slow: $(STAMP) ## every test, the slow ones too
	$(PYTHON) -m pytest -q -m "slow or not slow"

check: $(STAMP) ## lint, format, types and who imports whom, changing nothing
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports --no-cache
	$(PYTHON) -m pyright --pythonpath $(PYTHON)

# The pins of a Space and the gradio that README.md names for it, in an environment of their own.
SPACE := .venv-space
SPACE_TORCH = $(shell sed -n 's/^torch==//p' requirements.txt)
SPACE_GRADIO = $(shell sed -n 's/^sdk_version: *//p' README.md)

space: ## a Space's environment from requirements.txt: start app.py there and ask /run once
	$(PY) -m venv --clear $(SPACE)
	$(SPACE)/bin/python -m pip install --quiet --index-url "$(TORCH_INDEX)" "torch==$(SPACE_TORCH)" || \
	  $(SPACE)/bin/python -m pip install --quiet "torch==$(SPACE_TORCH)"
	$(SPACE)/bin/python -m pip install --quiet -r requirements.txt "gradio==$(SPACE_GRADIO)"
	PYTHONPATH=. $(SPACE)/bin/python tests/helpers/ask_space.py

format: $(STAMP) ## format the code and mend what lint can
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

MEASURE = $(PYTHON) -m study measure
ON_CROPS = --scenes "$(SCENES)" --crops "$(CROPS)"

# Each restorer on captures of a panel that it knows.
PAPER = $(UDC) evaluate --preset paper $(ON_CROPS) --split heldout --precision bfloat16
OF_AXON20 = default adversarial purified_adversarial axon20 nafnet purified noisy de_unet uformer udc_unet

# The purifier that chooses a level for each photo is calibrated by what is measured before it.
results: need-scenes $(STAMP) ## measure again what results/ holds, README and cards too [SCENES=DIR CROPS=FILE]
	for name in default_defense attacks detection purifiers architectures finetuning denoising noise_level \
	  generalisation panels; do $(MEASURE) $$name $(ON_CROPS) || exit 1; done
	$(PYTHON) -m study calibrate
	for name in per_photo cost ducd certification; do $(MEASURE) $$name $(ON_CROPS) || exit 1; done
	$(PAPER) --panel axon20 $(addprefix --restorer ,$(OF_AXON20)) --out results/evaluation/axon20
	$(PAPER) --panel toled --restorer toled --out results/evaluation/toled
	$(PAPER) --panel poled --restorer poled --out results/evaluation/poled
	$(PYTHON) -m study publish

publish: $(STAMP) ## README, RESULTS.md and cards again, from what results/ holds
	$(PYTHON) -m study publish

ON_SCENES = --scenes "$(SCENES)" --crops "$(CROPS)" --panel axon20 --panel axon20 --panel toled --panel poled

# About half an hour each on one thread of a CPU.
SHORT = --batch 1 --precision bf16 --resume

# From the default restorer on. Those of runs/panels differ in the panels that they are shown, and are only compared.
FURTHER = $(UDC) finetune default $(SHORT) --option log=1
PURIFIED = --defense one_step:weights=direct --option noise_levels=5,20
PLAIN = $(FURTHER) --recipe noisy --option noisy=0
ON_ONE = --scenes "$(SCENES)" --crops "$(CROPS)" --panel

train-all: need-scenes $(STAMP) ## train the embedded networks again, or go on with it [SCENES=DIR CROPS=FILE]
	$(UDC) train restorer $(ON_SCENES) --steps 9000 --precision bf16 --out runs/restorer --resume
	$(UDC) train restorer $(ON_SCENES) --architecture nafnet --option width=12 --option encoder_blocks=[1,1,1,2] \
	  --option middle_blocks=2 --option decoder_blocks=[1,1,1,1] --option window=192 $(SHORT) --steps 4200 --out runs/nafnet
	$(UDC) train restorer $(ON_SCENES) --architecture de_unet --option width=16 $(SHORT) --steps 9000 --out runs/de_unet
	$(UDC) train restorer $(ON_SCENES) --architecture udc_unet --option width=16 $(SHORT) --steps 1700 --out runs/udc_unet
	$(UDC) train restorer $(ON_SCENES) --architecture uformer --option img_size=64 --option embed_dim=16 \
	  --option depths=[1,1,1,1,1,1,1,1,1] $(SHORT) --steps 1600 --out runs/uformer
	$(UDC) train purifier $(ON_SCENES) --steps 6500 --precision bf16 --out runs/purifier --resume
	$(UDC) train guide $(ON_SCENES) --steps 3000 --out runs/guide --resume
	$(UDC) train direct_purifier $(ON_SCENES) --steps 4000 --learning-rate 2e-4 --precision bf16 --out runs/direct --resume
	$(FURTHER) --steps 3000 $(ON_SCENES) --recipe noisy --out runs/noisy
	$(FURTHER) --steps 3000 $(ON_SCENES) --recipe purified $(PURIFIED) --out runs/purified
	$(FURTHER) --steps 3000 $(ON_SCENES) --recipe adversarial --option attack_steps=3 --out runs/adversarial
	$(FURTHER) --steps 3000 $(ON_SCENES) --recipe purified_adversarial $(PURIFIED) --option attack_steps=3 \
	  --out runs/purified_adversarial
	$(PLAIN) --steps 1000 $(ON_SCENES) --out runs/panels/blind
	for panel in axon20 toled poled; do \
	  $(PLAIN) --steps 1000 $(ON_ONE) $$panel --out runs/panels/$$panel || exit 1; done
	$(PLAIN) --steps 6000 --learning-rate 2e-4 $(ON_ONE) axon20 --out runs/axon20
	$(PLAIN) --steps 3000 --learning-rate 2e-4 $(ON_ONE) toled --out runs/toled
	$(PLAIN) --steps 3000 --learning-rate 2e-4 $(ON_ONE) poled --out runs/poled

screenshots: $(STAMP) ## the README's pictures of the demo, by Chromium: docs/*.png
	$(PYTHON) benchmarks/screenshots.py

wheel: $(STAMP) ## build the wheel and the source archive into dist/
	$(PYTHON) -m build --no-isolation

clean: ## remove what was built and cached; .venv, runs and results stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

need-scenes:
	$(if $(and $(SCENES),$(CROPS)),,$(error Name the scenes and the crop list: make $(MAKECMDGOALS) SCENES=DIR CROPS=FILE))
	@:

# The first three lines only check, and say in one sentence what is missing; make expands them all before it runs any.
# torch goes first and alone, so that the second install finds it there and chooses no other build.
$(STAMP): pyproject.toml
	$(if $(PY),,$(error Python 3.11 or newer is missing (tried $(NAMES)): install it, or name it with PY=/path/to/python))
	$(if $(shell $(call is-new,$(PY)) && echo yes),,$(error PY=$(PY) is not a Python 3.11 or newer: name another with PY=/path/to/python))
	$(if $(shell $(PY) -c 'import venv' 2>/dev/null && { $(PY) -c 'import ensurepip' || $(PY) -m pip --version; } >/dev/null 2>&1 && echo yes),,$(error $(PY) can make no virtual environment: install its venv module or pip (on Debian and Ubuntu: apt install python3-venv)))
	@if $(PIP) --version >/dev/null 2>&1; then :; \
	elif $(PY) -c 'import ensurepip' 2>/dev/null; then $(PY) -m venv $(VENV); \
	else $(PY) -m venv --without-pip $(VENV) && $(PY) -m pip --python $(PYTHON) install --quiet pip; fi
	@if nvidia-smi -L >/dev/null 2>&1; then \
	  echo "Installing torch $(TORCH) with CUDA, for the NVIDIA GPU found here: several GB."; \
	  $(PIP) install "torch==$(TORCH)"; \
	elif $(PIP) install --quiet --no-index --no-deps "torch==$(TORCH)" 2>/dev/null; then :; \
	elif [ "$$(uname -s)" != Linux ]; then \
	  $(PIP) install "torch==$(TORCH)"; \
	elif $(PYTHON) -c 'import sys, urllib.request as web; web.urlopen(sys.argv[1], timeout=10)' "$(TORCH_INDEX)/torch/" 2>/dev/null; then \
	  $(PIP) install --no-deps --index-url "$(TORCH_INDEX)" "torch==$(TORCH)"; \
	else \
	  echo "Warning: $(TORCH_INDEX) does not answer, so torch comes from the default package index, which on Linux may bring several GB of CUDA packages (Ctrl-C stops; TORCH_INDEX=URL names another index of CPU builds)."; \
	  $(PIP) install "torch==$(TORCH)"; \
	fi
	@echo "Installing what the demo, the tests and training need: a minute or two."
	@$(PIP) install --quiet -e ".[demo,dev,train]"
	@$(PYTHON) -c 'import platform; from importlib.metadata import version as v; print("Ready: Python", platform.python_version(), "with torch", v("torch"), "in $(VENV)")'
	@touch $@
