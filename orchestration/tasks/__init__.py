"""Where prompts come from. A task source is a small frozen dataclass with one file each; `conf/task/` composes them."""
