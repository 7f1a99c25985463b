"""Edge Parity: compare a language model's three versions, layer by layer, before it ships."""

from harness.spec import GenerativeModel, WheelGGUF

__all__ = ["GenerativeModel", "WheelGGUF"]
__version__ = "0.1.0"
