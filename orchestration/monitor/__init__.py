"""What people see of a run, while it goes and afterwards: console, metrics.jsonl, W&B, curves.png, report.html."""

from orchestration.monitor.monitor import Monitor, MonitorConfig
from orchestration.monitor.sample import Sample

__all__ = ["Monitor", "MonitorConfig", "Sample"]
