# One command per thing that a person does with this repository; `make` alone lists them.
# Every target creates .venv and installs what it needs; it installs again only when setup.cfg or pyproject.toml changes.

PYTHON ?= python3#        3.11, 3.12 or 3.13; the default also tries python3.13, python3.12 and python3.11
VENV ?= .venv
EXTRAS ?= dev#            extras of setup.cfg to install, e.g. dev,cuda (nvdiffrast, whose licence is non-commercial) or dev,deepspeed
# What pip is asked for, and an extra package index for it. Left alone: where there is an NVIDIA GPU the newest torch, elsewhere a
# tested CPU build, on Linux from PyTorch's CPU index when it can be reached (the general index has only the much larger CUDA builds).
# TORCH=torch==2.13.0 TORCH_INDEX= asks the general index alone.
CPU_TORCH := torch==2.13.0
CPU_TORCH_INDEX := https://download.pytorch.org/whl/cpu
GPU_TORCH := torch>=2.11

# What the user types reaches the shell through the environment, as it is: quotes, apostrophes and dollars are only characters.
# ARGS alone is shell text, so that its words are split and may be quoted: ARGS="trainer.max_steps=20 seed=3".
override TEACHER := $(value TEACHER)
override EXPERIMENT := $(value EXPERIMENT)
override PROMPT := $(value PROMPT)
override OUT := $(value OUT)
override SWEEP := $(value SWEEP)
export TEACHER EXPERIMENT PROMPT OUT SWEEP

# Waiting threads sleep instead of spinning: where cores are shared, spinning can make two threads ten times slower than one.
export OMP_WAIT_POLICY ?= passive
# glibc gives every large block back to the system and faults its pages in again at the next use. Keeping the blocks made forward and
# backward passes of the tiny UNet and decoder 1.4 times as fast for a tenth more memory, and large grids up to twice as fast.
KEEP_MEMORY := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4294967296

PRD := $(VENV)/bin/prd
comma := ,
INSTALLED := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

.PHONY: help setup train generate evaluate sweep weights doctor tinyworld test lint bench surface soak notebooks validate clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@printf 'usage: make TARGET [VARIABLE=value ...]\n\n'
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/\1\t\2/p' Makefile | while IFS='	' read -r name line; do printf '  %-10s %s\n' "$$name" "$$line"; done
	@printf '\nARGS="..." adds any further argument or Hydra override: make train TEACHER=mvdream ARGS="trainer.max_steps=20 seed=3"\n'

setup: $(INSTALLED)  ## create .venv and install the package, its tests and tools (PYTHON=, EXTRAS=, TORCH=, TORCH_INDEX=)

train: $(INSTALLED)  ## distil teachers into a generator (TEACHER=richdreamer, EXPERIMENT=, ARGS=)
	@$(KEEP_MEMORY) $(PRD) train $${TEACHER:+"teacher=$$TEACHER"} $${EXPERIMENT:+"experiment=$$EXPERIMENT"} $(value ARGS)

generate: $(INSTALLED)  ## turn a prompt into a mesh (PROMPT="a red cone", OUT=out.glb, ARGS=)
	@$(KEEP_MEMORY) $(PRD) generate $${PROMPT:+"$$PROMPT"} $${OUT:+--output "$$OUT"} $(value ARGS)

evaluate: $(INSTALLED)  ## score a run's generator on held-out prompts (ARGS=)
	@$(KEEP_MEMORY) $(PRD) evaluate $(value ARGS)

sweep: $(INSTALLED)  ## train over several settings, then tabulate and plot them (SWEEP=name of a sweep config, or TEACHER=mvdream,richdreamer; ARGS=)
	@if [ -n "$$SWEEP" ]; then set -- "sweep=$$SWEEP"; \
	elif [ -n "$$TEACHER$$EXPERIMENT" ]; then set -- seed=0,1; else set -- teacher=mvdream,richdreamer seed=0,1; fi; \
	$(KEEP_MEMORY) $(PRD) train -m $${TEACHER:+"teacher=$$TEACHER"} $${EXPERIMENT:+"experiment=$$EXPERIMENT"} "$$@" $(value ARGS)

weights: $(INSTALLED)  ## download the real weights that a config needs (EXPERIMENT=triplaneturbo_sd21, ARGS=)
	@$(PRD) weights $${EXPERIMENT:+"experiment=$$EXPERIMENT"} $(value ARGS)

doctor: $(INSTALLED)  ## show versions, devices, optional backends and which weights are there (ARGS=)
	@$(PRD) doctor $(value ARGS)

tinyworld: $(INSTALLED)  ## train the tiny models that ship with the package again (ARGS=)
	@$(KEEP_MEMORY) $(PRD) tinyworld $(value ARGS)

test: $(INSTALLED)  ## run the tests on two processes (ARGS="-k mesh")
	@OMP_NUM_THREADS=1 $(KEEP_MEMORY) $(VENV)/bin/python -m pytest -n 2 $(value ARGS)

lint: $(INSTALLED)  ## check the code's style
	@$(VENV)/bin/ruff check src tests $(wildcard benchmarks) $(value ARGS)

bench: $(INSTALLED)  ## measure speed and memory (ARGS=)
	@$(VENV)/bin/python -m benchmarks $(value ARGS)

surface: $(INSTALLED)  ## compare the sparse search for surfaces with the dense evaluation, one to two hours of a core; goes on where it was stopped (ARGS="--minutes 10")
	@OMP_NUM_THREADS=1 $(KEEP_MEMORY) $(VENV)/bin/python -m benchmarks.surface_check --output .make/surface_check.json --overwrite $(value ARGS)

soak: $(INSTALLED)  ## kill small trainings, let them go on, and compare them bit for bit with one that was left alone (ARGS="--kills 20")
	@OMP_NUM_THREADS=1 $(KEEP_MEMORY) $(VENV)/bin/python -m benchmarks.soak $(value ARGS)

notebooks: $(INSTALLED)  ## run the notebooks and keep their outputs in place
	@$(VENV)/bin/jupyter execute --inplace $(value ARGS) notebooks/*.ipynb

validate: $(INSTALLED)  ## check GLB files of every held-out prompt with Khronos' validator, which npm puts into .make (needs node; ARGS="my.glb")
	@npm install --silent --no-save --no-package-lock --prefix .make/gltf-validator "gltf-validator@>=2.0.0-dev.3 <3"
	@OMP_NUM_THREADS=1 $(KEEP_MEMORY) $(VENV)/bin/python -m benchmarks.validate $(value ARGS)

clean:  ## remove build products and caches (neither runs nor .venv)
	@rm -rf build dist src/*.egg-info .pytest_cache .ruff_cache
	@find src tests benchmarks notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} + 2>/dev/null || true

$(INSTALLED): setup.cfg pyproject.toml
	@[ -x $(VENV)/bin/python ] || { $(find_python) && { "$$python" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; }; }
	@$(VENV)/bin/python -c 'from importlib.metadata import version; version("torch")' 2>/dev/null || { $(choose_torch) && \
	echo "installing $$torch$${index:+ (preferring $$index)}" && \
	$(VENV)/bin/python -m pip install -qq --retries 2 $${index:+--extra-index-url "$$index"} "$$torch"; }
	@echo "installing prd_lightning[$(EXTRAS)] into $(VENV); the first time takes a few minutes"
	@$(VENV)/bin/python -m pip install -qq --editable '.[$(EXTRAS)]'
	@touch $@

# Sets the shell's $python: the interpreter that PYTHON names, or, where PYTHON was not given, the first suitable one.
define find_python
for python in "$(PYTHON)" $(if $(filter file,$(origin PYTHON)),python3.13 python3.12 python3.11); do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && break; python=; \
done; [ -n "$$python" ] || { echo 'error: $(PYTHON) is not Python 3.11, 3.12 or 3.13; name one with PYTHON=, e.g. make setup PYTHON=python3.12' >&2; exit 1; }
endef

# Sets the shell's $torch and $index.
define choose_torch
torch="$(TORCH)"; index="$(TORCH_INDEX)"; \
if nvidia-smi -L 2>/dev/null | grep -q GPU; then : "$${torch:=$(GPU_TORCH)}"; \
else \
	: "$${torch:=$(CPU_TORCH)}"; \
	[ "$(origin TORCH_INDEX)" != undefined ] || [ "$$(uname -s)" != Linux ] || index='$(CPU_TORCH_INDEX)'; \
fi
endef
