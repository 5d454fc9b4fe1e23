# Two commands on a fresh machine: `make demo` and `make test`. Everything they need is installed into .venv from requirements.lock.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Installed once for each state of the lock file and of the project's metadata.
READY  := $(VENV)/.ready

.PHONY: demo test lint bench models clean
.DELETE_ON_ERROR:

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("crossgraft needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

models: $(READY)
	$(BIN)/crossgraft models pull pocket

demo: models
	$(BIN)/crossgraft fewshot demo/emoji/noto.json --model pocket-lite --method zero-shot,linear-probe,tip-adapter,gda,proker,xmadapter,auto --shots 1,2,4 --protocol min4 \
		--test demo/emoji/fluent.json --test demo/emoji/twemoji.json --out runs/demo
	$(BIN)/crossgraft predict runs/demo/adapters/xmadapter demo/emoji/fluent/fruit/*.webp
	$(BIN)/crossgraft report runs/demo --out runs/demo/report.html

test: models
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Data of your own: make bench DATA=photos
DATA ?= demo/emoji/noto.json
bench: models
	$(BIN)/python benchmarks/preprocess.py
	$(BIN)/python benchmarks/encode.py
	$(BIN)/python benchmarks/fewshot.py $(DATA) --model pocket-lite --shots 1,2,4

clean:
	rm -rf $(VENV) runs build *.egg-info src/*.egg-info
