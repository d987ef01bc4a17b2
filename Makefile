# GNU make 4.0 or newer. `make` lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory --no-builtin-rules

VENV := .venv
RAG := $(VENV)/bin/rag
PY := $(VENV)/bin/python
override STATE := .rag
override SAMPLE := $(STATE)/sample

# 3.11 first: the constraints were made with it. Only asked for when .venv is made.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
EXTRA := $(shell command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
INSTALLED := $(VENV)/.installed-$(EXTRA)

# What the user typed reaches the commands as it is: $(value ...) does not expand it, a simply expanded variable is not
# expanded again when it is exported, and the recipes name it as a shell variable in quotes. The originals must not be
# exported: make would expand them, and so run a $(shell ...) inside a question.
override export ASK_QUESTION := $(value Q)
override export ASK_DOCS := $(value DOCS)
override export ASK_INDEX := $(value INDEX)
override export ASK_DATA := $(value DATA)
override export ASK_OUT := $(value OUT)
override export ASK_FORCE := $(value FORCE)
override export ASK_PORT := $(value PORT)
override export ASK_TORCH_INDEX := $(value TORCH_INDEX)
unexport Q DOCS INDEX DATA OUT FORCE PORT TORCH_INDEX
MAKEOVERRIDES :=

# Sets $docs and $index. Two folders of documents never share an index that nobody named.
define choose_docs_and_index
if [ -n "$$ASK_DOCS" ]; then \
	docs=$$(CDPATH= cd -- "$$ASK_DOCS" 2>/dev/null && pwd -P && echo .) && docs=$${docs%?.} || docs=$$ASK_DOCS; \
	index=$(STATE)/index-$$(printf %s "$$docs" | cksum | cut -d' ' -f1); \
else docs=$(SAMPLE); index=$(STATE)/index; fi; \
if [ -n "$$ASK_INDEX" ]; then index=$$ASK_INDEX; fi
endef

refresh = $(choose_docs_and_index); $(RAG) ingest --prune --quiet --index="$$index" -- "$$docs"
documents = $(if $(value DOCS),,$(SAMPLE)/.rag-sample)

# Questions that were named are asked of what they bring along, or of DOCS or INDEX; without any, some are made from the
# documents, the same ones as long as these do not change.
define evaluate
$(choose_docs_and_index); \
given=$${ASK_DATA:-$$docs}; \
name=$$(basename -- "$$given" | LC_ALL=C tr -c 'A-Za-z0-9.\n-' _)-$$(printf %s "$$given" | cksum | cut -d' ' -f1); \
out=$${ASK_OUT:-$(STATE)/eval/$$name}; questions=$$ASK_DATA; over=(); force=(); \
if [ -n "$$ASK_FORCE" ]; then force=(--force); fi; \
if [ -z "$$ASK_DATA" ] || [ -n "$$ASK_DOCS" ]; then $(RAG) ingest --prune --quiet --index="$$index" -- "$$docs"; fi; \
if [ -z "$$ASK_DATA" ] || [ -n "$$ASK_DOCS$$ASK_INDEX" ]; then over=(--index="$$index"); fi; \
if [ -z "$$ASK_DATA" ]; then \
	questions=$(STATE)/eval/$$name.jsonl; force=(--force); mkdir -p $(STATE)/eval; \
	$(RAG) eval generate --force --out="$$questions" --index="$$index"; fi; \
$(RAG) eval run $${over[@]+"$${over[@]}"} $${force[@]+"$${force[@]}"} --out="$$out" -- "$$questions"
endef

.PHONY: help setup ask search index serve eval test coverage stress bench bench-evaluation bench-reader fmt check doctor clean question

help: ## Show this list
	@printf 'usage: make TARGET [NAME=value]...\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile
	@printf '\n  Q="question"      what to ask or to search for\n'
	@printf '  DOCS=folder       your documents; without it, the Python language reference\n'
	@printf '  DATA=questions    for eval: a BEIR folder, SQuAD JSON, CSV or JSONL; OUT=folder for the run, FORCE=1 anew\n'
	@printf '  PORT=number       for serve: where to listen, 8300 if not given; 0 takes a free one\n'
	@printf '  INDEX=folder      where the index is kept; without it, one folder in $(STATE) for each DOCS\n'
	@printf '  TORCH_INDEX=url   for setup: a package index that has CPU builds of torch\n'
	@printf '  PYTHON=program    for setup: the Python to use, 3.11 or newer\n'

setup: $(INSTALLED) ## Make .venv and install the pinned packages

ask: question $(INSTALLED) $(documents) ## Answer Q="question" from the documents, with citations
	@$(refresh); $(RAG) ask --index="$$index" -- "$$ASK_QUESTION"

search: question $(INSTALLED) $(documents) ## Show the passages nearest to Q="question"
	@$(refresh); $(RAG) search --index="$$index" -- "$$ASK_QUESTION"

index: $(INSTALLED) $(documents) ## Bring the index up to date with the documents
	@$(refresh); echo "index in $$index"

serve: $(INSTALLED) $(documents) ## Serve a page to ask the documents on, and an OpenAI-compatible API, on this machine
	@$(refresh); exec $(RAG) serve --index="$$index" $${ASK_PORT:+--port="$$ASK_PORT"}

eval: $(INSTALLED) $(if $(value DATA),,$(documents)) ## Score answers to the questions in DATA, or to some made from the documents
	@$(evaluate)

# A file's tests stay together: their fixtures are dear. Each process holds an encoder, so there are four at most.
test: $(INSTALLED) ## Run the whole test suite: no network, no GPU, no downloaded weights
	@$(PY) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

coverage: $(INSTALLED) ## Run the suite and show which lines it does not reach (half as slow again)
	@$(PY) -m pytest --cov --cov-report=term-missing:skip-covered

stress: $(INSTALLED) ## Kill, damage and mutate far more often than the suite does (an hour)
	@RAG_STRESS=1 $(PY) -m pytest --timeout=7200 tests/durability tests/ingest/test_mutations.py

bench: $(INSTALLED) ## Measure speed and quality, each beside its baseline
	@$(PY) -m bench

bench-evaluation: $(INSTALLED) ## Evaluate on every open set, beside dense, BM25 and their fusion (indexing takes an hour)
	@$(PY) -m bench evaluation extracting calibrating

bench-reader: $(INSTALLED) ## Measure the written reader: the model's speed, compression, verification, citations
	@$(PY) -m bench reading compressing verifying citing

fmt: $(INSTALLED) ## Format the code
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

check: $(INSTALLED) ## Check format, lint and types
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy

doctor: $(INSTALLED) ## Show what this machine can do, and how to fix what it cannot
	@$(RAG) doctor

clean: ## Remove indexes, the sample and caches; .venv stays
	@rm -rf $(STATE) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov build dist *.egg-info
	@find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@if [ -d $(VENV) ]; then echo 'kept $(VENV); remove it with: rm -rf $(VENV)'; fi

question:
	@if [ -z "$${ASK_QUESTION//[[:space:]]/}" ]; then \
		echo 'usage: make $(firstword $(filter ask search,$(MAKECMDGOALS)) ask) Q="your question" [DOCS=folder] [INDEX=folder]' >&2; \
		exit 2; fi

$(SAMPLE)/.rag-sample: $(INSTALLED) app/sample.py
	@$(PY) -m app.sample $(SAMPLE)

# faiss-cpu and faiss-gpu are the same module: the other one goes first where the machine has changed.
# pip's own words go to a log; shown are the large downloads, and the end of the log where it fails.
$(INSTALLED): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo 'error: no Python 3.11 or newer was found; install one, or name it: make setup PYTHON=/path/to/python' >&2; \
		exit 1; fi
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
		echo "making $(VENV) with $$("$(PYTHON)" --version)"; "$(PYTHON)" -m venv --clear $(VENV); }
	@if [ -e $(VENV)/.installed-$(if $(filter gpu,$(EXTRA)),cpu,gpu) ]; then \
		$(PY) -m pip uninstall --quiet --yes faiss-cpu faiss-gpu; fi
	@rm -f $(VENV)/.installed-*
	@echo 'installing pinned packages, extra $(EXTRA); the first time takes a minute or more'
	@pip() { $(PY) -m pip install --progress-bar off --disable-pip-version-check --constraint constraints.txt "$$@"; }; \
	{ pip --quiet setuptools && pip $${ASK_TORCH_INDEX:+--extra-index-url "$$ASK_TORCH_INDEX"} \
		--no-build-isolation --editable '.[$(EXTRA),eval,map,server,dev]'; } 2>&1 \
	| tee $(VENV)/setup.log \
	| awk '/^ *(Downloading|Using cached) / && ($$NF == "GB)" || ($$NF == "MB)" && substr($$(NF-1), 2) + 0 >= 20)) { \
			file = $$(NF-2); sub(/.*[/]/, "", file); split(file, part, "-"); \
			print "  " part[1], part[2], $$(NF-1), $$NF; fflush() } \
		/^Installing collected packages/ { print "  unpacking"; fflush() }' \
	|| { echo 'error: pip failed; the whole log is $(VENV)/setup.log, and ends:' >&2; tail -n 15 $(VENV)/setup.log >&2; exit 1; }
	@echo 'ready: $(VENV)/bin/rag'
	@touch $@
