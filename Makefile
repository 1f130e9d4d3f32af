# One short command for each habit. `.ci/run` and the pre-commit hooks run the same commands.

.PHONY: format lint types doctests tests slow docs benchmarks ci

format: ## rewrite all files in the project's format
	ruff format

lint: ## find mistakes and wrong format
	ruff check
	ruff format --check

types: ## check types
	mypy

doctests: ## run the examples in docstrings
	pytest modalkit modalities tools

tests: ## run all tests but the slow ones
	pytest -n 2

slow: ## run the slow tests
	pytest -n 2 -m slow

docs: ## build the site in site/
	mkdocs build --strict

benchmarks: ## time training steps of the paper's recipes, about ten minutes
	python tests/benchmarks/step.py

ci: lint types tests slow ## what .ci/run runs after it has installed the project
