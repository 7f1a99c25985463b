"""Reference implementations of published architectures that transformers lacks."""
