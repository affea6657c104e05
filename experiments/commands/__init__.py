"""The subcommands of `metarl`, one file each; `run(argv)` returns the exit status."""
