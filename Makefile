# Two commands for everybody: `make demo` draws, `make test` checks. Both set themselves up on a fresh machine.
PYTHON ?= python3
TORCH_LATEST ?= torch
WEBUI_URL ?= http://127.0.0.1:7861
VENV := .venv
LATEST := .venv-latest

.PHONY: test test-latest lint live ui demo table clean

test: $(VENV)/ready
	$(VENV)/bin/python -m pytest -q tests --ignore=tests/live --ignore=tests/ui

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# hosts outlive their pins: the algorithm on the newest torch
test-latest: $(LATEST)/ready
	$(LATEST)/bin/python -m pytest -q tests/core

# against a running webui with the extension installed, over its HTTP API only
live: $(VENV)/ready
	WEBUI_URL=$(WEBUI_URL) $(VENV)/bin/python -m pytest -q tests/live

# its page, in the Chromium that is installed
ui: $(VENV)/ready
	$(VENV)/bin/python -m pip install -q -r tests/ui/requirements.txt
	WEBUI_URL=$(WEBUI_URL) $(VENV)/bin/python -m pytest -q tests/ui

demo: $(VENV)/ready
	$(VENV)/bin/python -m bench.demo --out out/demo

# the README's reference of settings
table: $(VENV)/ready
	$(VENV)/bin/python -m demofusion_lib.params

$(VENV)/ready: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q -r tests/requirements.txt
	touch $@

$(LATEST)/ready: tests/requirements.txt
	$(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/python -m pip install -q $(TORCH_LATEST)
	$(LATEST)/bin/python -m pip install -q torchvision k-diffusion==0.0.16 pytest==8.3.4 "setuptools<81"
	touch $@

clean:
	rm -rf $(VENV) $(LATEST) out
