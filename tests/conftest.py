"""Settings of all tests."""

from hypothesis import settings

# A deadline is a timed assertion: a busy machine would fail it.
settings.register_profile("edge-parity", deadline=None)
settings.load_profile("edge-parity")
