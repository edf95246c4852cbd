# Needs Python 3.10 or newer and make; everything else is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test lint clean

# Draw a picture, wear it, restore it: demo/scene_small.jpg becomes demo/scene_restored.png.
demo: $(VENV)/demo.done
	$(RUN) examples/scene.py demo
	$(RUN) -m resharp upscale demo/scene_small.jpg -o demo/scene_restored.png --overwrite

test: $(VENV)/test.done
	$(RUN) -m pytest

lint: $(VENV)/dev.done
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.done: pyproject.toml | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --editable '.[cpu]'
	touch $@

$(VENV)/test.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@ $(VENV)/demo.done

$(VENV)/dev.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/test.done $(VENV)/demo.done

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
