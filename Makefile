# Every target starts from a bare checkout: it makes or reuses an environment and installs what it needs.
SHELL := /bin/sh
ENV := $(shell sh scripts/environment.sh path)
PY := $(ENV)/bin/python
RECORD := build/reliability.jsonl
PLUGINS := $(sort $(wildcard plugins/*))
SOURCES := constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml) tests/toy/pyproject.toml

.PHONY: help demo test test-all test-nightly test-transformers check plugin build audit dependencies cards docs verify-online clean
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(ENV)/.hub-mim-demo ## install the core and one plugin, fill the gaps of a real table
	@$(ENV)/bin/hub-mim demo --out demo --overwrite

test: $(ENV)/.hub-mim-test ## fast tests of the core and of every plugin (under 10 minutes on 2 cores)
	$(PY) -m pytest -q

test-all: $(ENV)/.hub-mim-test ## every test but the nightly ones (some 55 CPU minutes)
	$(PY) scripts/transformers_suite.py
	HUB_MIM_FUZZ=1000 HUB_MIM_SUITES=transformers $(PY) -m pytest -q -m "not nightly"

test-transformers: $(ENV)/.hub-mim-test ## transformers' own model tests over every plugin; fetches them once
	$(PY) scripts/transformers_suite.py
	HF_HUB_OFFLINE=1 HUB_MIM_SUITES=transformers $(PY) -m pytest -q -m transformers tests/test_transformers_suite.py

test-nightly: $(ENV)/.hub-mim-test ## every fault, 20,000 spoiled files a reader, long reproductions; writes docs/reliability.md's table
	mkdir -p build && rm -f $(RECORD)
	HUB_MIM_FUZZ=20000 HUB_MIM_RECORD=$(RECORD) $(PY) -m pytest -q -m "not nightly" tests/reliability
	HUB_MIM_FUZZ=20000 HUB_MIM_RECORD=$(RECORD) $(PY) -m pytest -q -m nightly
	$(PY) scripts/reliability_table.py $(RECORD)

check: $(ENV)/.hub-mim-test ## format, lint, types, spelling
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(ENV)/bin/typos

plugin: $(ENV)/.hub-mim-demo ## install one plugin for work on it: make plugin NAME=remasker
	@test -d "plugins/$(NAME)" || { echo "make plugin NAME=x, where plugins/x exists: $(notdir $(PLUGINS))"; exit 2; }
	$(PY) -m pip install -qq -c constraints.txt -e "plugins/$(NAME)[test]"

build: $(ENV)/.hub-mim-test ## wheels and source distributions of the core and of every plugin, in dist/; the same bytes for a commit
	$(PY) scripts/make_dist.py . $(PLUGINS)

audit: $(ENV)/.hub-mim-test ## ask for known vulnerabilities of constraints.txt; fails where nobody answers (SERVICE=osv asks OSV)
	@test -x build/audit/bin/pip-audit || { $(PY) -m venv build/audit && build/audit/bin/pip install -qq pip-audit; }
	@$(PY) scripts/audit.py build/audit/bin/pip-audit constraints.txt --service $(or $(SERVICE),pypi)

dependencies: $(ENV)/.hub-mim-test ## try the lowest and the newest versions that the ranges allow, each in an environment of its own
	$(PY) scripts/dependency_ranges.py lowest
	$(PY) scripts/dependency_ranges.py newest

docs: $(ENV)/.hub-mim-test ## write the generated pages and build the site into build/site
	$(PY) scripts/make_docs.py
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build -q --strict

verify-online: $(ENV)/.hub-mim-test ## what needs a network: released weights, a real Hub (HF_TOKEN); prints what was not run
	$(PY) scripts/verify_online.py

cards: $(ENV)/.hub-mim-test ## write the cards under model_cards/ again
	$(PY) -c "from pathlib import Path; from hub_mim import sharing; [sharing.add_results(d, []) for d in Path('model_cards').iterdir()]"

clean: ## remove what these targets made, the environment too if it is ours
	rm -rf .venv dist build demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name "*.egg-info" -prune -exec rm -rf {} +

$(ENV)/.hub-mim-demo: $(SOURCES)
	@sh scripts/environment.sh make
	@$(PY) scripts/download_size.py -c constraints.txt -e . -e plugins/remasker
	@$(PY) -m pip install -qq -c constraints.txt -e . -e plugins/remasker
	@touch $@

$(ENV)/.hub-mim-test: $(SOURCES)
	@sh scripts/environment.sh make
	@$(PY) scripts/download_size.py -c constraints.txt -e ".[dev]" $(foreach place,$(PLUGINS),-e "$(place)[test]") -e tests/toy
	@$(PY) -m pip install -qq -c constraints.txt -e ".[dev]" $(foreach place,$(PLUGINS),-e "$(place)[test]") -e tests/toy
	@touch $@ $(ENV)/.hub-mim-demo
