# `make run` and `make test` need Python 3.11 or newer and pip. Everything is installed into .venv.

PYTHON ?= python3
STUDY ?= ablations.toml
WORKERS ?= 2
bin := .venv/bin
installed := .venv/.installed
pytest := $(bin)/python -m pytest
# The modules of these tests: to import all others takes as long as many tests.
distributed = $$(grep -rlw mark.distributed tests --include='test_*.py' --exclude-dir=chaos)

.PHONY: help install run test test-all check prose faults bench gpu gpu-bench calibrate chaos \
	scale scale-out docs example clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

run: $(installed)  ## train the unfinished runs of $(STUDY), then write the report
	@$(bin)/python -m harness run $(STUDY); code=$$?; \
	if [ $$code -le 1 ]; then $(bin)/python -m harness report $(STUDY) || exit; fi; exit $$code

install: $(installed)  ## install into .venv

test: $(installed)  ## run the tests, those that start several processes last
	@$(pytest) -n $(WORKERS) --dist loadscope -m "not distributed"; code=$$?; \
	$(pytest) -n $(WORKERS) --dist loadscope -m distributed $(distributed) && exit $$code

test-all: test calibrate chaos scale  ## run the tests, and the long ones in their full size

check: $(installed)  ## check style, types and the words of tools/wordlist.toml
	@$(bin)/ruff check . && $(bin)/ruff format --check . && $(bin)/mypy && \
	$(bin)/python tools/prose.py --over

prose: $(installed)  ## list words to avoid (tools/wordlist.toml) with their places
	@$(bin)/python tools/prose.py

faults: $(installed)  ## plant the faults of tests/faults/ one by one and check that a test fails
	@$(bin)/python tools/faults.py --jobs $(WORKERS)

bench: .venv/.peers  ## time operations against their usual alternatives; ONLY=pattern, BASELINE=file or folder
	@mkdir -p reports/bench
	@$(pytest) tests/benchmarks -W default --benchmark-quiet \
		--benchmark-json=reports/bench/raw.json \
		$(if $(ONLY),-k '$(ONLY)') $(if $(BASELINE),--baseline '$(BASELINE)')

gpu: $(installed)  ## run the tests that need an NVIDIA GPU
	@$(bin)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available() and \
		"gpu: PyTorch finds no NVIDIA GPU on this machine; no test is run")'
	@$(pytest) -m cuda --durations=8

gpu-bench: $(installed)  ## measure the figures of this GPU into results/gpu/NAME.json; 4 minutes
	@$(bin)/python tests/benchmarks/gpu_figures.py $(or $(NAME),gpu)
	@$(bin)/python docs/formats.py

calibrate: $(installed)  ## check coverage and false-positive rates on 2,000 simulated studies of each kind
	@CALIBRATE=2000 $(pytest) -s tests/analysis/test_calibration.py \
		tests/analysis/test_repeated_measures.py tests/analysis/test_real_studies.py \
		tests/analysis/test_ladder_calibration.py tests/analysis/test_power_laws.py \
		tests/analysis/test_speed_calibration.py tests/analysis/test_effect_calibration.py \
		tests/analysis/test_sequential_calibration.py tests/analysis/test_overfitting.py \
		tests/analysis/test_power_calibration.py tests/analysis/test_seed_plan.py \
		tests/analysis/test_task_calibration.py

chaos: $(installed)  ## kill runs and jobs at random (KILLS=50) and at file-system operations (POINTS=40 or all; SEED=n repeats), try hostile studies, flags, variants and files, and unusual environments
	@$(pytest) tests/chaos -s
	@FUZZ=2000 $(pytest) tests/config/test_fuzz.py
	@FUZZ=5000 $(pytest) -n $(WORKERS) tests/config/test_numbers.py tests/cli/test_hostile.py \
		tests/cli/test_hostile_checkpoints.py tests/cli/test_hostile_results.py \
		tests/cli/test_hostile_values.py tests/cli/test_hostile_flags.py \
		tests/cli/test_hostile_variants.py \
		tests/launch/test_tampered_results.py tests/cli/test_tampered_commands.py \
		tests/launch/test_hostile_ranks.py
	@FUZZ=1000 $(pytest) -n $(WORKERS) tests/launch/test_environments.py
	@FUZZ=1 $(pytest) tests/variants/test_parallelism.py

scale: $(installed)  ## measure a report of RUNS=10000 synthetic runs: time, memory, page size
	@SCALE=$(or $(RUNS),10000) $(pytest) tests/report/test_scale.py -s

scale-out: $(installed)  ## train RUNS=10000 stub runs through Slurm: each once; times, calls of squeue
	@SCALE_OUT=$(or $(RUNS),10000) $(pytest) tests/slurm/test_scale_out.py -s

docs: .venv/.docs  ## write the READMEs of results/ and reports/, the example notebook, and site/
	@$(bin)/python docs/formats.py
	@$(bin)/python docs/notebook.py
	@NO_MKDOCS_2_WARNING=1 $(bin)/python -m mkdocs build --strict --quiet
	@echo site/index.html

example: $(installed)  ## train ablations.toml on tiny Shakespeare, write docs/example/; 10 minutes
	@$(bin)/python docs/example.py

clean:  ## remove .venv; results/ and reports/ are kept
	rm -rf .venv

# torch is installed first, so that packages that build against it find it.
$(installed): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		f"needs Python 3.11 or newer, this is {sys.version}; use make PYTHON=python3.12")'
	@test -x $(bin)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv; this takes a few minutes once" >&2
	@$(bin)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt torch
	@$(bin)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/.peers: $(installed)
	@echo "installing the packages that the benchmarks compare with" >&2
	@$(bin)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,peers]'
	@touch $@

.venv/.docs: $(installed)
	@echo "installing the packages that build the site" >&2
	@$(bin)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,docs]'
	@touch $@
