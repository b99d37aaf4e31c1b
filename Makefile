# elfolio: `make` lists the targets. Each creates what it needs; nothing is installed outside this directory.
#
# The project is installed into .venv, not linked, so that what is tested is what is shipped: a changed source
# is installed again before the next target runs.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-warm test-all test-sanitized lab bench check docs clean

PYTHON ?= python3
PY := .venv/bin/python
ASAN := .venv-asan/bin/python

# Directories too: a deleted module changes only its directory.
SOURCES := pyproject.toml setup.py MANIFEST.in \
	$(shell find native share src/elfolio -name __pycache__ -prune -o -name '*.so' -o \( -type f -o -type d \) -print)

# $(call requirements,SECTION,KEY): a list of pyproject.toml, for pips older than --group (Debian 12 has 23.0).
requirements = $$($(@D)/bin/python -c 'import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["$(1)"]["$(2)"])')
PIP = $(@D)/bin/python -m pip --disable-pip-version-check install --quiet

EVERYDAY := not slow and not network and not qemu and not suite

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

demo: .venv/.elfolio ## real tools through templates and through subprocess: equal output, both times
	$(PY) bench/demo.py

test: .venv/.elfolio .venv/.dev ## the everyday tests, a few minutes
	$(PY) -m pytest -m "$(EVERYDAY)" -o faulthandler_exit_on_timeout=true $(ARGS)

test-warm: .venv/.elfolio .venv/.dev ## tests/spawn again, where every template is warm from its first spawn
	ELFOLIO_TEST_EAGER=1 $(PY) -m pytest tests/spawn -m "$(EVERYDAY)" -o faulthandler_timeout=600 $(ARGS)

test-all: .venv/.elfolio .venv/.dev ## every test, CPython's own suites too, again warm, then the C core under sanitizers
	$(PY) -m pytest -o faulthandler_timeout=1800 $(ARGS)
	$(MAKE) test-warm
	$(MAKE) test-sanitized

# libasan must come first in the process, and Python is not linked with it. Python leaks at exit by
# design. A report ends the process, so pytest must not hold descriptor 2 back.
test-sanitized: .venv-asan/.elfolio .venv-asan/.dev ## tests/spawn with AddressSanitizer and UBSan
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 \
		UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
		$(ASAN) -m pytest --capture=sys tests/spawn -m "$(EVERYDAY)" $(ARGS)

lab: .venv/.elfolio .venv/.dev ## the model under Debian's 6.1, 6.12, 7.2 and an arm64 kernel, in qemu: docs/kernel-matrix.md
	$(PY) -m tests.lab.mm_table --write docs/kernel-matrix.md $(ARGS)

bench: .venv/.elfolio .venv/.bench ## the figures of the README, and docs/benchmarks.md: a quarter of an hour
	$(PY) bench/spawn.py $(ARGS)
	$(PY) bench/warm.py
	$(PY) bench/startup.py
	$(PY) bench/survey.py
	$(PY) bench/agent_tools.py --write docs/benchmarks.md $(AGENT_ARGS)

check: .venv/.elfolio .venv/.dev ## format, lint, types, the order of the rooms, stale docs
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy --strict
	$(PY) docs/generate.py --check
	$(PY) -m pytest -q tests/test_rooms.py

docs: .venv/.elfolio .venv/.dev ## write the command reference, manual pages, shell completion
	$(PY) docs/generate.py

clean: ## remove what the other targets made
	rm -rf .venv .venv-asan build dist src/elfolio.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find bench docs src tests -name __pycache__ -prune -exec rm -rf {} +

# A missing stamp means a new or a half-made environment: start it afresh.
.venv/.base .venv-asan/.base: pyproject.toml
	@sh .ci/preflight "$(PYTHON)"
	@[ -e $@ ] || "$(PYTHON)" -m venv --clear $(@D)
	$(PIP) $(call requirements,build-system,requires)
	@touch $@

%/.dev: %/.base
	$(PIP) $(call requirements,dependency-groups,dev)
	@touch $@

%/.bench: %/.base
	$(PIP) $(call requirements,dependency-groups,bench)
	@touch $@

# setuptools copies build/lib into the wheel whole: a module deleted since would be shipped.
INSTALL = rm -rf build && $(PIP) --no-deps --no-build-isolation --force-reinstall .

.venv/.elfolio: .venv/.base $(SOURCES)
	@sh .ci/preflight "$(PYTHON)"
	$(INSTALL)
	@touch $@

.venv-asan/.elfolio: .venv-asan/.base $(SOURCES)
	@sh .ci/preflight "$(PYTHON)"
	ELFOLIO_SANITIZE=1 && export ELFOLIO_SANITIZE && $(INSTALL)
	@touch $@
