# make demo   create .venv, run every task on the demo corpus, score it, name one song
# make test   the tests
# make slow   the long tests
# make lint   style and types

PYTHON ?= python3
BIN := .venv/bin

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# modules are compiled when first imported, not all of them when installed
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test slow lint
.DELETE_ON_ERROR:

demo: .venv/run
	$(BIN)/python task1.py --data hw1/demo
	$(BIN)/python hw1/count_score.py hw1/demo/test_ans.json result/demo/pred_task1.json
	$(BIN)/python task2.py --data hw1/demo --crop-seconds 3 --epochs 12
	$(BIN)/python hw1/count_score.py hw1/demo/test_ans.json result/demo/pred_task2.json
	$(BIN)/python task2_baseline.py --data hw1/demo
	$(BIN)/python hw1/count_score.py hw1/demo/test_ans.json result/demo/pred_task2_baseline.json
	$(BIN)/python ensemble.py --out result/demo
	$(BIN)/python hw1/count_score.py hw1/demo/test_ans.json result/demo/pred_ensemble.json
	$(BIN)/python predict.py hw1/demo/artist20/test/001.mp3 hw1/demo/strangers --model result/demo/model_ensemble.json

test: .venv/dev
	$(PYTEST)

slow: .venv/dev
	$(PYTEST) -m slow

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/run: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip  # Python 3.11's takes twice as long
	$(BIN)/python -m pip install --quiet --no-compile -r requirements.txt
	touch $@

.venv/dev: requirements-dev.txt .venv/run
	$(BIN)/python -m pip install --quiet --no-compile -r requirements-dev.txt
	touch $@
