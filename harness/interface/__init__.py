"""Runs in Python: `harness.run` makes one, `harness.Run` reads one."""
