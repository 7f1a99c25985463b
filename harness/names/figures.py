"""The figures of a tap by name, and what kind each is. Pure."""

from __future__ import annotations

# Of the distribution over tokens, at every position that is compared.
DIVERGENCE = frozenset({"kl_max", "kl_mean", "kl_p50", "kl_p95", "kl_p99"})
# Not of one input: of the text that is measured, and of a recipe's file.
PERPLEXITY_RATIO, FILE_MB = "perplexity_ratio", "mb"
OF_THE_HOP = frozenset({PERPLEXITY_RATIO, FILE_MB})
# Also judged on the text that is measured, as on an input.
ON_TEXT = DIVERGENCE | {"flips", "answer_flips", "top1_agreement"}
LOGITS_ONLY = ON_TEXT | OF_THE_HOP | {"flips_above_noise"}
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
