"""What the colours of the overlays mean, beside the graphs. In: the names of the overlays. Out: a piece of HTML.

It folds and unfolds by itself: no script. Its own colours serve in the page's light and dark themes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from html import escape

from harness.explore.op_files import PARTNER, PARTNER_COLOURS
from harness.render.explorer import scales

# In the free part of the title bar, below what the page lays over itself. A narrow window has no such part.
_STYLE = """
#colours{position:fixed;top:10px;left:245px;z-index:900;font:12px/18px Roboto,sans-serif;color:#1f1f1f}
#colours summary{width:max-content;padding:3px 10px;border:1px solid #777;border-radius:14px;background:#fff;
cursor:pointer}
#colours dl{margin:6px 0 0;padding:10px 14px;border:1px solid #777;border-radius:8px;background:#fff}
#colours dt{margin-top:6px}#colours dd{margin:2px 0 0;display:flex;gap:4px}
#colours dd span{padding:0 8px;border-radius:4px;color:#1f1f1f}
@media(max-width:999px),print{#colours{display:none}}
"""


def legend(overlays: Collection[str]) -> str:
    """A button that unfolds the scale of each overlay. overlays: those of taps, and `partner` with operators."""
    named = [*scales(), *([(PARTNER, PARTNER_COLOURS.items())] if PARTNER in overlays else [])]
    rows = "".join(f"<dt>{escape(words)}</dt><dd>{_steps(steps)}</dd>" for words, steps in named)
    return f'<style>{_STYLE}</style><details id="colours"><summary>Colours</summary><dl>{rows}</dl></details>'


def _steps(steps: Iterable[tuple[str, str]]) -> str:
    return "".join(f'<span style="background:{colour}">{escape(words)}</span>' for words, colour in steps)
