# `make demo` and `make test` are all a newcomer needs; both do their own set-up.
PYTHON ?= python3
# The tests start thousands of processes from this folder: where none may keep what it has compiled, each does it anew.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
STATE := $(CURDIR)/.demo/state
# Ranks of MindSpore keep a core busy for each test. Three at a time took a fifth less on two cores, and two of ten
# thousand tests were not in time then.
JOBS ?= 2

# The oldest MindSpore of the range in setup.cfg, and the newest Python that it has wheels for.
OLDEST := .venv-oldest
OLDEST_PYTHON ?= python3.11
OLDEST_MINDSPORE := 2.7.1
# What one process computes. Ranks together cannot run there: its CPU back end has no all-reduce in sub-groups.
ON_OLDEST := $(addprefix tests/model/, $(addsuffix .py, \
	$(addprefix network/test_, attention bloom cpu_kernels dropout float16 parity) \
	$(addprefix training/test_, gradients loss_scale optimizer overflow step) \
	$(addprefix inference/test_, generate mindir) $(addprefix weights/test_, checkpoint convert) \
	$(addprefix devices/test_, ascend_compile ascend_operators device_choice) \
	data/test_dataset parallel/test_p2p compatibility/test_auto)) \
	tests/checkpoint/test_mindspore.py tests/checkpoint/test_mindspore_layouts.py

# The real MindFormers, which tests run as a worker. What it asks for does not go together with what we do.
MINDFORMERS := .venv-mindformers
MINDFORMERS_VERSION := 1.9.0
OF_ITS_OWN := dill fsspec huggingface-hub tokenizers

PIP_INSTALL := pip install --quiet --disable-pip-version-check
# Hashes are asked of all or of none, and a folder has none: what we need comes first, then we ourselves.
EDITABLE := $(PIP_INSTALL) --no-deps --no-build-isolation --editable .

LOCKER := .venv-lock
LOCK = $(LOCKER)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make constraints' $(UPGRADE)

.PHONY: help install demo docs check quick test test-long release dist constraints clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t14

install: $(INSTALLED)  ## set up .venv with everything: MindSpore, the tools of the tests, this folder

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed: make PYTHON=python3.11'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/install_debian.sh python3-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP_INSTALL) --require-hashes --requirement constraints.txt
	$(BIN)/$(EDITABLE)
	@touch $@

demo: $(INSTALLED)  ## train on two local hosts with four ranks, collect, ask a question
	@PATH="$(CURDIR)/$(BIN):$$PATH" XDG_STATE_HOME="$(STATE)" jobs/demo.sh

docs: $(INSTALLED)  ## write the tables of docs/reference anew, from the code that takes the keys and options
	$(BIN)/python -m docs.write_reference

check: $(INSTALLED)  ## ruff, mypy, and that hosts need no Python newer than we say
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vermin --no-tips --violations --target=3.8- orchestrator/__init__.py orchestrator/core orchestrator/formats orchestrator/agent
	$(BIN)/vermin --no-tips --violations --target=3.10- orchestrator/checkpoint orchestrator/families model

quick: $(INSTALLED)  ## in 90 s what needs neither MindSpore nor root nor sshd, nor a run from end to end
	$(BIN)/python -m pytest --numprocesses 2 --ignore tests/e2e -m 'not mindspore and not root and not sshd'

test: check  ## check, then every test that this machine allows: 40 minutes on two cores
	@command -v /usr/sbin/sshd >/dev/null || tests/install_debian.sh openssh-server || echo 'Without sshd: the tests over SSH are left out.'
	@command -v ssh >/dev/null || tests/install_debian.sh openssh-client || echo 'Without ssh: its configuration is held against nothing.'
	@$(MAKE) --no-print-directory $(MINDFORMERS)/.installed || echo 'Without MindFormers: the tests that run it are left out.'
	@command -v podman >/dev/null || tests/install_debian.sh podman runc || echo 'Without podman: the tests of containers are left out.'
	$(BIN)/python -m pytest --numprocesses $(JOBS)

# Its wheel names the MindSpore before ours, with which it works as well: so nothing but this list is asked for.
$(MINDFORMERS)/.installed: constraints-mindformers.txt
	$(PYTHON) -m venv $(MINDFORMERS)
	$(MINDFORMERS)/bin/$(PIP_INSTALL) --no-deps --require-hashes --requirement constraints-mindformers.txt
	@touch $@

# What is too long for every change: the oldest MindSpore that is supported, then every layout of parallelism.
test-long: $(INSTALLED) $(OLDEST)/.installed  ## the oldest MindSpore, and every layout of parallelism
	$(OLDEST)/bin/python -m pytest $(ON_OLDEST)
	LYING_HOSTS=100000 $(BIN)/python -m pytest tests/hosts/test_lying_hosts.py
	ANY_INPUT=200000 $(BIN)/python -m pytest tests/test_any_input.py
	SSH_CONFIGS=2000 $(BIN)/python -m pytest tests/hosts/test_ssh_config.py
	VERDICTS=2000 $(BIN)/python -m pytest --numprocesses $(JOBS) tests/simulation/test_verdicts.py tests/simulation/test_invariants.py
	REALITY=1 $(BIN)/python -m pytest tests/simulation/test_against_reality.py tests/e2e/test_resume.py \
		tests/e2e/test_hangs.py tests/e2e/test_faults.py tests/e2e/test_restarts.py tests/e2e/test_disk_gone.py \
		tests/e2e/test_other_layouts.py tests/e2e/test_training_on_fewer_hosts.py tests/e2e/test_whole_way.py \
		tests/e2e/test_ssh_runs.py tests/e2e/test_networking.py tests/e2e/test_resumed_run.py \
		tests/model/training/test_fewer_replicas.py tests/model/training/test_pipeline.py \
		tests/model/training/test_saves_behind_steps.py tests/model/devices/test_ascend_operators.py \
		tests/model/training/test_trainer.py tests/transfer/test_mindformers_real.py
	ALL_STRATEGIES=1 $(BIN)/python -m pytest tests/model/parallel/test_strategies.py

$(OLDEST)/.installed: setup.cfg pyproject.toml constraints-oldest.txt
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/$(PIP_INSTALL) --require-hashes --requirement constraints-oldest.txt
	$(OLDEST)/bin/$(EDITABLE)
	@touch $@

# The rest of the way: docs/release.md.
release: $(INSTALLED)  ## cut VERSION=1.2.3: into the code, and CHANGELOG's entries under it
	$(BIN)/python -m docs.cut_release $(VERSION)

dist: $(INSTALLED)  ## the sdist, and the wheel that is built from it, in dist/
	$(BIN)/python -m build --no-isolation

# The light install has the versions of the whole, but for a NumPy that MindSpore does not know and Python 3.13 needs.
constraints:  ## pin versions and hashes anew; UPGRADE=--upgrade takes the newest
	$(PYTHON) -m venv $(LOCKER)
	$(LOCKER)/bin/$(PIP_INSTALL) uv
	$(LOCK) setup.cfg --extra worker --extra test --output-file constraints.txt
	sed -n '/^mindspore==/d; s/^numpy==[^ ]*/& ; python_version < "3.13"/; s/ \\$$//; /^[a-z]/p' constraints.txt >$(LOCKER)/same.txt
	echo 'mindspore==$(OLDEST_MINDSPORE)' | $(LOCK) setup.cfg - --extra worker --extra test \
		--constraint $(LOCKER)/same.txt --output-file constraints-oldest.txt
	printf '%s\n' setuptools 'numpy>=2.1; python_version >= "3.13"' | $(LOCK) setup.cfg - \
		--constraint $(LOCKER)/same.txt --output-file constraints-light.txt
	sed -n 's/^\(mindspore==[^ ]*\).*/\1/p' constraints.txt >$(LOCKER)/instead.txt
	sed '$(OF_ITS_OWN:%=/^%==/d;)' $(LOCKER)/same.txt >$(LOCKER)/shared.txt
	echo 'mindformers==$(MINDFORMERS_VERSION)' | $(LOCK) - --constraint $(LOCKER)/shared.txt \
		--override $(LOCKER)/instead.txt --output-file constraints-mindformers.txt

clean:  ## remove what these targets made
	rm -rf $(VENV) $(OLDEST) $(MINDFORMERS) $(LOCKER) .demo collected build dist *.egg-info
