# Two commands matter: `make demo` and `make test`. Both make the environment that they need.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
INSTALL := --constraint constraints.txt --editable '.[dev]'

# Hundreds of processes start in tests and demo; each would compile all that it imports once more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test reproduce bench chaos fuzz image check-deploy lint types format clean

demo: $(INSTALLED)
	@$(BIN)/python -m deploy.local.demo

# Four files side by side, since many wait for servers; each process has servers of its own, and one thread. In the order of
# their names the long ones come first.
test: lint types $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

# SCALE=mini OPTIONS='--data DIR' for a corpus; see docs/reproducing.md.
SCALE ?= smoke
reproduce: $(INSTALLED)
	$(BIN)/python -m trainer reproduce all --scale $(SCALE) --out build/reproduce/$(SCALE) $(OPTIONS)

# Alone on the machine; OPTIONS='--quick --only latency' for a part of it.
bench: $(INSTALLED)
	$(BIN)/python -m tests.bench $(OPTIONS)

# About half an hour; OPTIONS='--only kill,poison --scale 0.2' for a part of it.
chaos: $(INSTALLED)
	$(BIN)/python -m tests.chaos $(OPTIONS)

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.hostile.fuzz $(OPTIONS)

# Needs root on Debian: buildah, debootstrap and runc, which it installs if they are missing. OPTIONS=--fresh
image: $(INSTALLED)
	$(BIN)/python -m deploy.image build $(OPTIONS)

# Manifests, Compose, Dockerfiles, alerts and dashboards.
check-deploy: $(INSTALLED)
	$(BIN)/python -m deploy.check
	$(BIN)/python -m deploy.grafana --check
	$(BIN)/python -m pytest tests/deploy --ignore=tests/deploy/local --ignore=tests/deploy/test_image.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; say make PYTHON=...")'
	@echo "Making .venv: about 7 GB with PyTorch and its CUDA libraries, one to five minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt uv
	@# uv takes a third of pip's time, but does not read pip's configuration: where only pip knows the way, pip goes.
	UV_HTTP_TIMEOUT=300 $(BIN)/uv pip install --python $(BIN)/python $(INSTALL) || $(BIN)/python -m pip install $(INSTALL)
	@touch $@

clean:
	rm -rf build .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
