"""Parity of two functions or two modules, for anybody's tests: `assert_parity(candidate, reference, *inputs)`.

In: callables and inputs. Out: nothing, or an AssertionError: how far apart they are, where, and a guess at why.
"""

from harness.testing.parity import assert_parity

__all__ = ["assert_parity"]
