# Needs Python 3.10 or newer and make; everything else is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
# Number of test processes; each takes up to 1.5 GB of memory.
JOBS ?= 2
# Where make package puts what it builds.
DIST ?= dist
RUN = $(VENV)/bin/python
# Real TensorRT bindings for tests/gpu/trt, each in its own folder; never imported.
TENSORRT_BINDINGS = 10.16.1.11 11.4.0.106

# There are wheels of 10.16 only up to Python 3.13; without them its tests are skipped.
define install-bindings
test "$$(uname -sm)" != "Linux x86_64" || for version in $(TENSORRT_BINDINGS); do \
	$(RUN) -m pip install --quiet --no-deps --upgrade --target $(VENV)/tensorrt-bindings/$$version \
		tensorrt-cu13-bindings==$$version || echo "no TensorRT $$version bindings here" >&2; done
endef

# Independent implementations of the networks (tests/oracle.py), without the dependency torchvision.
define install-oracle
$(RUN) -m pip install --quiet --no-deps --upgrade --target $(VENV)/oracle \
	spandrel==0.4.2 spandrel_extra_arches==0.2.0 einops
endef

.PHONY: demo test quick gpu lint docs docs-serve package clean

# Draw an image, degrade it and restore it: demo/scene_small.jpg becomes demo/scene_restored.png.
demo: $(VENV)/demo.done
	$(RUN) examples/scene.py demo
	$(RUN) -m resharp upscale demo/scene_small.jpg -o demo/scene_restored.png --overwrite

test: $(VENV)/test.done
	$(RUN) -m pytest -n $(JOBS) --dist loadfile

# Skip the tests that take seconds each.
quick: $(VENV)/test.done
	$(RUN) -m pytest -n $(JOBS) --dist loadfile -m "not slow"

# On a machine with an NVIDIA GPU: run all checks and write the figures to benchmarks/results.
gpu: $(VENV)/gpu.done
	PYTHON=$(abspath $(RUN)) .ci/gpu benchmarks/results --full --minutes 30

lint: $(VENV)/dev.done
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/hadolint Dockerfile

# The site of docs/, into build/site; any warning fails.
docs: $(VENV)/docs.done
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs --quiet build --strict

docs-serve: $(VENV)/docs.done
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs serve

# The wheel and the source distribution, checked as PyPI checks them.
package: $(VENV)/dev.done
	rm -f $(DIST)/resharp-*
	$(RUN) -m build --quiet --outdir $(DIST) .
	$(RUN) -m twine check --strict $(DIST)/resharp-*

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.done: pyproject.toml | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --editable '.[cpu]'
	touch $@

$(VENV)/test.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(install-bindings)
	$(install-oracle)
	touch $@ $(VENV)/demo.done

$(VENV)/docs.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

$(VENV)/gpu.done: $(VENV)/test.done
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[test,rtx]'
	touch $@

$(VENV)/dev.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(install-bindings)
	$(install-oracle)
	touch $@ $(VENV)/test.done $(VENV)/demo.done

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
