"""The figures of a tap by name, and what kind each is. Pure."""

from __future__ import annotations

LOGITS_ONLY = frozenset({"kl_max", "kl_mean", "flips", "flips_above_noise", "top1_agreement"})
LOWER = frozenset({"cosine", "snr_db", "top1_agreement"})
LOCAL_FIGURES = frozenset({"local_excess", "local_position_excess"})
# In units of the noise floor, so a limit on them is one on the error only where the floor has a limit too.
OVER_FLOOR = LOCAL_FIGURES | {"excess", "position_excess", "total_excess"}
ABSOLUTE = frozenset({"max_abs_err", "mean_abs_err"})
FLOOR = "noise_floor"
COUNTS = frozenset({"nan_count", "inf_count"})
# What says how large a tap's error is, at every input and position. Figures of the logits are blind to much of it.
OF_THE_ERROR = (OVER_FLOOR - LOCAL_FIGURES) | ABSOLUTE | {"rel_l2", "cosine", "snr_db"}
UPPER = (LOGITS_ONLY - LOWER) | OVER_FLOOR | ABSOLUTE | COUNTS | {"rel_l2", "noise_floor"}
