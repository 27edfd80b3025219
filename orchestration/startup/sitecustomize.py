"""Python imports this by itself in every process that has this folder on PYTHONPATH (see orchestration/process.py)."""

from orchestration.process import prepare

prepare()
