"""Every test process starts like a process of a run."""

from orchestration.process import prepare

prepare()
