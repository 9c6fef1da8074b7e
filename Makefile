# make setup | sim [GOALS=N] [TASK=reach] | test | test-jazzy | test-browser | test-foreign | lint | reference | clean
PYTHON ?= python3
GOALS ?= 0
TASK ?= reach
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
BUILT := install/.built-by-make
# setup.py's requirements, a line each; the extras that follow are added to the package's own.
REQUIRED = $(BIN)/python -c 'import sys, setuptools, distutils.core as d; \
  s = d.run_setup("setup.py", stop_after="init"); \
  print(*s.install_requires, *(r for e in sys.argv[1:] for r in s.extras_require[e]), sep="\n")'
PURELIB = import sysconfig; print(sysconfig.get_paths()["purelib"])

JAZZY := .venv-jazzy
# Most tests wait for processes that start: one at a time leaves the cores idle.
TESTS_AT_ONCE ?= 4

.PHONY: setup sim test test-jazzy test-browser test-foreign lint reference clean
.DELETE_ON_ERROR:

setup: $(BUILT)

# One stamp a stage, so that an interrupted set-up goes on where it was.
$(VENV)/.created:
	@$(PYTHON) .ci/check_python.py
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.created constraints.txt
	@echo "Installing torch (the largest part) ..."
	$(PIP) torch==2.13.0
	@touch $@

$(VENV)/.installed: $(VENV)/.torch setup.py constraints.txt
	@echo "Installing ROS 2 and the other libraries ..."
	$(PIP) "setuptools<80"
	$(REQUIRED) ros build test view > $(VENV)/requirements.txt
	$(PIP) -r $(VENV)/requirements.txt
	@touch $@

# The environment's Python finds the package from any folder; the current one and PYTHONPATH come first.
$(VENV)/.linked: $(VENV)/.installed
	ln -sfn "$(CURDIR)/world_model_ros" "$$($(BIN)/python -c '$(PURELIB)')/"
	@touch $@

$(BUILT): $(VENV)/.linked setup.py setup.cfg package.xml
	$(BIN)/python -m colcon --log-level error build --symlink-install --event-handlers console_direct-
	@touch $@

sim: setup
	@exec $(BIN)/python -m world_model_ros sim --task $(TASK) --goals $(GOALS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Bytecode is kept, whatever the environment says: each of several processes compiled all tests anew.
test: lint
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist worksteal -m "not browser and not foreign_robot"

# ROS 2 Jazzy in an environment of its own, which only borrows torch.
$(JAZZY)/.installed: $(VENV)/.installed constraints-jazzy.txt
	$(BIN)/python -m venv --clear $(JAZZY)
	ours="$$($(BIN)/python -c '$(PURELIB)')"; theirs="$$($(JAZZY)/bin/python -c '$(PURELIB)')"; \
	  for part in torch torchgen functorch torch-*.dist-info nvidia nvidia_*.dist-info triton triton-*.dist-info; do \
	    for path in "$$ours"/$$part; do [ ! -e "$$path" ] || ln -sfn "$$path" "$$theirs/"; done; done
	$(REQUIRED) ros-jazzy test view > $(JAZZY)/requirements.txt
	grep -v "^ros-" constraints.txt > $(JAZZY)/constraints.txt
	$(JAZZY)/bin/python -m pip install --disable-pip-version-check --quiet -c $(JAZZY)/constraints.txt \
	  -c constraints-jazzy.txt -r $(JAZZY)/requirements.txt
	@touch $@

test-jazzy: setup $(JAZZY)/.installed
	$(JAZZY)/bin/python -m pytest -n $(TESTS_AT_ONCE) --dist worksteal test/nodes test/launch

# The page in a real Chromium, of the system: apt install chromium.
test-browser: setup
	$(PIP) playwright
	$(BIN)/python -m pytest -m browser

# The parts of docs/reference.md that are made of the declarations.
reference: setup
	$(BIN)/python docs/reference.py

# Another robot, recorded, trained and run: docs/your_robot.md as a test, of half an hour.
test-foreign: setup
	$(BIN)/python -m pytest -s test/foreign

clean:
	rm -rf $(VENV) $(JAZZY) build install log .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
