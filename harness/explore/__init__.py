"""Model Explorer: what a person opens to see where a run differs, and the adapter for the stock viewer."""
