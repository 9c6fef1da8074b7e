# make setup | sim [GOALS=N] [TASK=reach] | test | lint | clean
PYTHON ?= python3
GOALS ?= 0
TASK ?= reach
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
BUILT := install/.built-by-make

.PHONY: setup sim test lint clean
.DELETE_ON_ERROR:

setup: $(BUILT)

# One stamp a stage, so that an interrupted set-up goes on where it was.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.created constraints.txt
	@echo "Installing torch (the largest part) ..."
	$(PIP) torch==2.13.0
	@touch $@

$(VENV)/.installed: $(VENV)/.torch setup.py constraints.txt
	@echo "Installing ROS 2 and the other libraries ..."
	$(PIP) "setuptools<80"
	$(BIN)/python -c 'import setuptools, distutils.core as d; s = d.run_setup("setup.py", stop_after="init"); \
	  print(*s.install_requires, *(r for e in ("ros", "build", "test") for r in s.extras_require[e]), sep="\n")' \
	  > $(VENV)/requirements.txt
	$(PIP) -r $(VENV)/requirements.txt
	@touch $@

$(BUILT): $(VENV)/.installed setup.py setup.cfg package.xml
	$(BIN)/python -m colcon --log-level error build --symlink-install --event-handlers console_direct-
	@touch $@

sim: setup
	@exec $(BIN)/python -m world_model_ros sim --task $(TASK) --goals $(GOALS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) build install log .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
