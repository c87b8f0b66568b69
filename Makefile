# make demo   build a digit classifier for a Raspberry Pi and prove it        make lint      style and types
# make test   the tests that take seconds                                     make test-all  the slow ones too
# make site   the documentation as HTML, in site/
# make test-arm64   artifacts on arm64 and armv7, under qemu-user; fetches packages and wheels into .emulated (400 MB)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-all test-arm64 lint site install

install: $(INSTALLED)

# torch comes through the constraints: by itself pip would take a build with gigabytes of CUDA. Where `python3 -m venv`
# cannot bring pip along (Debian without python3-venv), the pip outside installs into the environment.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || $(PYTHON) -m venv --clear --without-pip $(VENV)
	if $(BIN)/python -m pip --version >/dev/null 2>&1; then pip="$(BIN)/python -m pip"; \
	else pip="$(PYTHON) -m pip --python $(BIN)/python"; fi; \
	$$pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[torch,dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/edgekit build --config examples/digits/edgekit.toml --out build \
		--target raspberry-pi-4-litert --target raspberry-pi-4-onnxruntime

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow and not arm64"

test-all: $(INSTALLED)
	$(BIN)/python -m pytest

test-arm64: $(INSTALLED)
	PYTHON=$(BIN)/python tests/emulated/root.sh .emulated
	$(BIN)/python -m pytest -m arm64

site: $(INSTALLED)
	$(BIN)/mkdocs build --strict

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy
