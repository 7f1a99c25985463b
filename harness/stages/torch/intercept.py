"""Every call of a torch function, handed to one method: what it does in place of the call, or with its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch.overrides import TorchFunctionMode


class TorchCall(NamedTuple):
    """A call of a function of torch, with what it was given; which that is, each function says itself."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Intercept(TorchFunctionMode):
    """A context within which torch functions are `called` in this class's way."""

    def called(self, call: TorchCall) -> Any:
        """What the caller gets. Within it, torch functions are torch's own."""
        raise NotImplementedError

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.called(TorchCall(func, args, kwargs or {}))
