"""The report page: one self-contained HTML file, readable on a phone, in light and dark, without network."""

import base64
import io
import json
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from geocore.demo._registry import DemoRun
from geocore.demo._result import Figure
from geocore.demo._text import table_numbers

__all__ = ["write_page"]

_THEMES: dict[str, dict[str, Any]] = {
    "light": {"text": "#1d2430", "axis": "#8b93a3", "grid": "#e3e6ec"},
    "dark": {"text": "#e4e8f0", "axis": "#7d879b", "grid": "#2b3343"},
}
_CYCLE = ["#2f6fde", "#e0762a", "#2a9d6f", "#b04fc4", "#d64550", "#7a8699", "#b8a02c", "#1aa3b8"]

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --text: #1d2430; --soft: #5c6678; --line: #e0e4eb;
  --accent: #2f6fde; --ours: #eaf1fe; --good: #17734a; --good-back: #e2f5eb; --bad: #b3261e; --bad-back: #fdeae8; }
@media (prefers-color-scheme: dark) { :root { --page: #10141b; --card: #181e28; --text: #e4e8f0; --soft: #9aa5b8; --line: #2b3343;
  --accent: #7cabff; --ours: #1d2b45; --good: #6fd6a4; --good-back: #14322a; --bad: #ff9a92; --bad-back: #3d1d1d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 0; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .4rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1.1rem 1.2rem; margin-top: 1.2rem; }
.head { display: flex; flex-wrap: wrap; gap: .5rem .8rem; align-items: center; }
.claim { font-size: 1.06rem; }
.badge { border-radius: 99px; padding: .05rem .65rem; font-size: .82rem; font-weight: 600; white-space: nowrap; }
.met { color: var(--good); background: var(--good-back); }
.missed { color: var(--bad); background: var(--bad-back); }
.wide { overflow-x: auto; margin: .5rem 0;
  background: linear-gradient(to left, var(--card) 1.5rem, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--line), transparent) right / 1.2rem 100% no-repeat scroll; }
table { border-collapse: separate; border-spacing: 0; font-size: .92rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: .38rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9.5rem; position: sticky; left: 0;
  background: var(--card); }
tr.ours td { background: var(--ours); font-weight: 600; }
tr.paper td { color: var(--soft); font-style: italic; }
td small { display: block; font-weight: 400; color: var(--soft); white-space: normal; }
.checks { list-style: none; padding: 0; margin: .4rem 0; }
.checks li { display: flex; gap: .6rem; align-items: baseline; padding: .25rem 0; }
.checks small { color: var(--soft); }
figure { margin: .6rem 0 0; } figure img { width: 100%; max-width: 42rem; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .88rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem .9rem; margin: .4rem 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
nav { margin-top: .8rem; display: flex; flex-wrap: wrap; gap: .4rem 1rem; } a { color: var(--accent); }
details summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
"""


def _svg(figure: Figure, theme: str) -> str:
    import matplotlib as mpl

    mpl.use("Agg", force=False)
    from matplotlib import pyplot as plt

    colours = _THEMES[theme]
    settings = {
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.facecolor": "none",
        "legend.edgecolor": "none",
        "legend.framealpha": 0.0,
        "text.color": colours["text"],
        "axes.labelcolor": colours["text"],
        "axes.titlecolor": colours["text"],
        "xtick.color": colours["axis"],
        "ytick.color": colours["axis"],
        "xtick.labelcolor": colours["text"],
        "ytick.labelcolor": colours["text"],
        "axes.edgecolor": colours["axis"],
        "grid.color": colours["grid"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.prop_cycle": mpl.cycler(color=_CYCLE),  # pyright: ignore[reportAttributeAccessIssue]
        "font.size": 10.5,
        "svg.hashsalt": "geocore",
    }
    with mpl.rc_context(settings):  # pyright: ignore[reportArgumentType] - keys are literals there
        drawn = figure.make()
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(drawn)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _figure(figure: Figure) -> str:
    light, dark = _svg(figure, "light"), _svg(figure, "dark")
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>" if figure.caption else ""
    return (
        f"<h3>{escape(figure.title)}</h3><figure><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{dark}"><img src="{light}" alt="{escape(figure.title)}"></picture>'
        f"{caption}</figure>"
    )


def _badge(met: bool) -> str:
    return f'<span class="badge {"met" if met else "missed"}">{"met" if met else "not met"}</span>'


def _table(run: DemoRun) -> str:
    result = run.result
    head = "".join(f"<th>{escape(c)}</th>" for c in result.columns)
    rows = []
    for row, numbers in zip(result.rows, table_numbers(result), strict=True):
        note = "the paper's figure, not measured here" if row.kind == "paper" else ""
        note = "; ".join(part for part in (note, row.note) if part)
        name = escape(row.name) + (f"<small>{escape(note)}</small>" if note else "")
        cells = "".join(f"<td>{number}</td>" for number in numbers)
        rows.append(f'<tr class="{row.kind}"><td>{name}</td>{cells}</tr>')
    units = f'<p class="soft">{escape(result.units)}</p>' if result.units else ""
    return f'{units}<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _card(run: DemoRun) -> str:
    result = run.result
    checks = "".join(f"<li>{_badge(c.met)}<span>{escape(c.text)} <small>({escape(c.measured)})</small></span></li>" for c in result.claims)
    notes = "".join(f"<p>{escape(n)}</p>" for n in result.notes)
    facts = {
        "time": f"{run.seconds:.1f} s" + ("" if run.quick else " (full run)"),
        "seed": str(run.seed),
        "device": run.device,
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        "paper": result.paper,
    }
    listed = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    config = ""
    if result.config:
        items = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(json.dumps(v, default=str))}</dd>" for k, v in result.config.items())
        config = f"<details><summary>settings of this run</summary><dl>{items}</dl></details>"
    return (
        f'<section class="card" id="{escape(run.method.name)}"><div class="head"><h2>{escape(result.title)}</h2>{_badge(result.met)}</div>'
        f'<p class="claim">{escape(result.claim)}</p>{_table(run)}<h3>Checked in this run</h3><ul class="checks">{checks}</ul>'
        + "".join(_figure(f) for f in result.figures)
        + (f"<h3>How to read it</h3>{notes}" if notes else "")
        + f"<h3>Conditions</h3><dl>{listed}</dl>{config}</section>"
    )


def write_page(runs: Sequence[DemoRun], directory: str | Path, *, failures: Sequence[tuple[str, str]] = ()) -> Path:
    """Write ``index.html`` with one card per run.

    Args:
        runs: Finished demonstrations.
        directory: Folder of the page, made if missing.
        failures: Method and error message of demonstrations that did not finish; shown as such.

    Returns:
        Path of the page.

    Raises:
        ImportError: If matplotlib is missing and a run has figures.
    """
    if any(run.result.figures for run in runs):
        try:
            import matplotlib as mpl

            del mpl
        except ImportError as error:
            raise ImportError("the page needs matplotlib for its figures: pip install 'geocore[demo]'") from error
    met = sum(run.result.met for run in runs)
    total = len(runs) + len(failures)
    links = "".join(f'<a href="#{escape(r.method.name)}">{escape(r.method.name)}</a>' for r in runs) if total > 1 else ""
    broken = "".join(
        f'<section class="card"><div class="head"><h2>{escape(name)}</h2><span class="badge missed">did not finish</span></div>'
        f"<p>{escape(message)}</p></section>"
        for name, message in failures
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Isometry: measured demonstrations</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>Isometry: measured demonstrations</h1><p class="soft">{met} of {total} met every claim. Every number on this page was '
        f"measured by the run that wrote it, {time.strftime('%Y-%m-%d %H:%M')}, except rows marked as the paper's figure.</p>"
        f"<nav>{links}</nav>" + "".join(_card(run) for run in runs) + broken + "</main></body></html>\n"
    )
    path = Path(directory) / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path
