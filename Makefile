# `make run` and `make test` need Python 3.11 or newer, and nothing else; what they install goes into .venv.

PYTHON ?= python3
STUDY ?= ablations.toml
bin := .venv/bin
installed := .venv/.installed

.PHONY: install run test check bench calibrate chaos scale clean

run: $(installed)  ## train what is not done yet of $(STUDY), then write the report
	@$(bin)/python -m harness run $(STUDY); code=$$?; \
	if [ $$code -le 1 ]; then echo "the report:" && $(bin)/python -m harness report $(STUDY) || exit; fi; exit $$code

install: $(installed)

test: $(installed)  ## all tests
	@$(bin)/python -m pytest

check: $(installed)  ## style and types
	@$(bin)/ruff check . && $(bin)/ruff format --check . && $(bin)/mypy

bench: .venv/.peers  ## this project beside what one would use instead; ONLY=pattern; BASELINE=ratios.json fails what became slower
	@mkdir -p reports/bench
	@$(bin)/python -m pytest tests/benchmarks -W default --benchmark-quiet --benchmark-json=reports/bench/raw.json \
		$(if $(ONLY),-k '$(ONLY)') $(if $(BASELINE),--baseline '$(BASELINE)')

calibrate: $(installed)  ## hold the statistics to what they promise, on 2,000 simulated studies of each kind and on real ones
	@CALIBRATE=2000 $(bin)/python -m pytest tests/analysis/test_calibration.py tests/analysis/test_real_studies.py

chaos: $(installed)  ## kill KILLS=50 times at random and compare with an undisturbed study; SEED=n repeats one; 2,000 broken studies
	@$(bin)/python -m pytest tests/chaos -s
	@FUZZ=2000 $(bin)/python -m pytest tests/config/test_fuzz.py

scale: $(installed)  ## report on RUNS=10000 made-up runs of 1,000 steps: time, memory, size of the page, growth
	@SCALE=$(or $(RUNS),10000) $(bin)/python -m pytest tests/report/test_scale.py -s

clean:  ## remove what was installed; results/ and reports/ stay
	rm -rf .venv

# torch first and by itself: whatever depends on it then finds it there.
$(installed): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"needs Python 3.11 or newer, this is {sys.version}; use make PYTHON=python3.12")'
	@test -x $(bin)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv, which takes a few minutes once" >&2
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/.peers: $(installed)
	@echo "installing what the benchmarks compare with" >&2
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,peers]'
	@touch $@
