"""The extension for the stock Model Explorer: `model-explorer RUN/parity.json --extensions=harness.explore.adapter`."""
