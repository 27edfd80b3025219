"""The subcommands of `temper`, one file each: `add_arguments(parser)` and `run(arguments) -> exit code`."""
