# `make demo` and `make test` are all a newcomer needs; both do their own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
STATE := $(CURDIR)/.demo/state

.PHONY: demo test check install clean

install: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed: make PYTHON=python3.11'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/install_debian.sh python3-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[worker,test]'
	@touch $@

demo: $(INSTALLED)
	@PATH="$(CURDIR)/$(BIN):$$PATH" XDG_STATE_HOME="$(STATE)" jobs/demo.sh

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	@command -v /usr/sbin/sshd >/dev/null || tests/install_debian.sh openssh-server || echo 'Without sshd: the tests over SSH are left out.'
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) .demo collected build *.egg-info
