"""The sizes of what is run to see how a model reacts: a few tokens, and a window that they outgrow."""

LENGTH = 6
WINDOW = 3  # less than LENGTH, so that a window cuts something off
