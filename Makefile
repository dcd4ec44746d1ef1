# `make demo` and `make test` are all a newcomer needs; both do their own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
STATE := $(CURDIR)/.demo/state

# The oldest MindSpore of the range in setup.cfg, and the newest Python that it has wheels for.
OLDEST := .venv-oldest
OLDEST_PYTHON ?= python3.11
# What one process computes. Ranks together cannot run there: its CPU back end has no all-reduce in sub-groups.
ON_OLDEST := $(addprefix tests/model/, $(addsuffix .py, \
	$(addprefix network/test_, attention bloom cpu_kernels dropout float16 parity) \
	$(addprefix training/test_, gradients loss_scale optimizer overflow step) \
	$(addprefix inference/test_, generate mindir) $(addprefix weights/test_, checkpoint convert) \
	$(addprefix devices/test_, ascend_compile ascend_operators device_choice) \
	data/test_dataset parallel/test_p2p compatibility/test_auto)) \
	tests/checkpoint/test_mindspore.py tests/checkpoint/test_mindspore_layouts.py

.PHONY: demo docs test test-long check install clean

install: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed: make PYTHON=python3.11'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/install_debian.sh python3-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[worker,test]'
	@touch $@

demo: $(INSTALLED)
	@PATH="$(CURDIR)/$(BIN):$$PATH" XDG_STATE_HOME="$(STATE)" jobs/demo.sh

# The tables of docs/reference, from the code that takes the keys and options.
docs: $(INSTALLED)
	$(BIN)/python -m docs.write_reference

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	@command -v /usr/sbin/sshd >/dev/null || tests/install_debian.sh openssh-server || echo 'Without sshd: the tests over SSH are left out.'
	$(BIN)/python -m pytest

# What is too long for every change: the oldest MindSpore that is supported, then every layout of parallelism.
test-long: $(INSTALLED) $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest $(ON_OLDEST)
	LYING_HOSTS=100000 $(BIN)/python -m pytest tests/hosts/test_lying_hosts.py
	ALL_STRATEGIES=1 $(BIN)/python -m pytest tests/model/parallel/test_strategies.py

$(OLDEST)/.installed: setup.cfg pyproject.toml constraints-oldest.txt
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt --editable '.[worker,test]'
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) .demo collected build *.egg-info
