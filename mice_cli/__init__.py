"""The `mice` command: arguments in, one library call, readable output. No logic of its own."""
