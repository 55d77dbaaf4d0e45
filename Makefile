# Two commands for everybody: `make demo` draws, `make test` checks. Both set themselves up on a fresh machine.
PYTHON ?= python3
TORCH_LATEST ?= torch
WEBUI_URL ?= http://127.0.0.1:7861
VENV := .venv
LATEST := .venv-latest

.PHONY: test test-latest install-check lint live ui demo demo-exact toy hint hints guidance quality table memory bench bench-gpu bench-host bench-beside bench-ranks clean

# a process a core and one more, as some of them wait for a page or another process; a file at a time, in the order of their
# names: by how many tests they have, the files of a few long ones would come last, and be waited for by one.
# One thread each: two pools of threads on the same cores would slow each other down
WORKERS = $(shell $(PYTHON) -c "import os; print(min(4, (os.cpu_count() or 1) + 1))")
test: $(VENV)/ready $(VENV)/browser
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q tests --ignore=tests/live -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# hosts outlive their pins: the algorithm on the newest torch
test-latest: $(LATEST)/ready
	$(LATEST)/bin/python -m pytest -q tests/core

# the command line's extra at both ends of its bounds, in fresh environments of Python 3.10 to 3.13: gigabytes and minutes
install-check:
	$(PYTHON) -m tests.fresh $(FRESH)

# against a running webui with the extension installed, over its HTTP API only; WEBUI_DIR=its folder installs the toy;
# if the webui was started with --allow-code (keep it on this machine then), its phases are reckoned inside it
live: $(VENV)/ready
	WEBUI_URL=$(WEBUI_URL) $(VENV)/bin/python -m pytest -q tests/live

# and its page, in Chromium; axe-core judges whether everybody can use it. What needs no webui of it is in `test` too
ui: $(VENV)/ready $(VENV)/browser
	WEBUI_URL=$(WEBUI_URL) $(VENV)/bin/python -m pytest -q tests/ui

# the toy model at four times its size; pictures in out/demo
demo: $(VENV)/ready
	$(VENV)/bin/demofusion "a red disc" --scale 4 --cfg-scale 3 --out out/demo --overwrite

# the engine on a denoiser of a known distribution, where the exact answer is known; pictures in out/demo-exact
demo-exact: $(VENV)/ready
	$(VENV)/bin/python -m bench.demo --out out/demo-exact

# trains the toy checkpoint anew, in out/toy
toy: $(VENV)/ready
	$(VENV)/bin/python -m lab.toy --out out/toy

# the toy's ControlNet, in out/hint: three minutes on a GPU; HINT="--pictures 1500 --steps 600 --batch 16" for two cores
hint: $(VENV)/ready
	$(VENV)/bin/python -m lab.hint --out out/hint $(HINT)

# where objects are with it, in out/hints: docs/quality/hints.md
hints: $(VENV)/ready
	$(VENV)/bin/python -m bench.quality.hints --out out/hints $(HINTS)

# ways to guide, by the fine texture that the second toy draws with them, in out/guidance: docs/quality/guidance.md
guidance: $(VENV)/ready
	$(VENV)/bin/python -m bench.quality.guidance_judge --out out/guidance
	$(VENV)/bin/python -m bench.quality.guidance_judge --out out/guidance --shared --images 32 --plans fast draft

# what the method does to pictures, in out/quality; QUALITY="--images 8 --scales 2" for less
quality: $(VENV)/ready
	$(VENV)/bin/python -m bench.quality --out out/quality $(QUALITY)

# the reference of settings in docs/settings.md
table: $(VENV)/ready
	$(VENV)/bin/python -m demofusion_lib.params

# what the presets cost with the toy on this CPU, in ratios: bench/results/toy.md; a quarter of an hour
bench: $(VENV)/ready
	$(VENV)/bin/python -m bench.presets $(BENCH)

# the same with an SDXL-shaped model on a GPU: bench/results, by the card's name
bench-gpu: $(VENV)/ready
	$(VENV)/bin/python -m bench.gpu $(BENCH)

# docs/memory.md's table of what decoding takes, by size of the picture; the comparison of docs/vae.md is bench.vae --compare
memory: $(VENV)/ready
	$(VENV)/bin/python -m bench.vae --memory

# a running webui with --allow-code: what the phases take on top of its UNet, and how often they wait for a device
bench-host: $(VENV)/ready
	$(VENV)/bin/python -m bench.host --url $(WEBUI_URL)

# and beside the DemoFusion script of multidiffusion-upscaler, installed in it too; pictures in out/beside
bench-beside: $(VENV)/ready
	$(VENV)/bin/python -m bench.beside --url $(WEBUI_URL) --out out/beside

# one picture by several processes, with a model that sleeps: the table of docs/ranks.md; a quarter of an hour, and no core
bench-ranks: $(VENV)/ready
	$(VENV)/bin/python -m bench.ranks $(BENCH)

# --no-compile: most of what comes is never imported; a third of the time saved
$(VENV)/ready: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --no-compile -r tests/requirements.txt
	$(VENV)/bin/python -m pip install -q --no-deps -e .
	touch $@

# the machine's Chromium, or else one by npm
$(VENV)/browser: $(VENV)/ready tests/ui/requirements.txt tests/ui/browser.py
	$(VENV)/bin/python -m pip install -q --no-compile --no-deps -r tests/ui/requirements.txt
	$(VENV)/bin/python -m tests.ui.browser
	touch $@

$(LATEST)/ready: tests/requirements.txt
	$(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/python -m pip install -q $(TORCH_LATEST)
	$(LATEST)/bin/python -m pip install -q torchvision k-diffusion==0.0.16 pytest==8.3.4 "setuptools<81"
	touch $@

clean:
	rm -rf $(VENV) $(LATEST) out
