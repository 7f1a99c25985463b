"""One file per model; each declares a `GenerativeModel`."""
