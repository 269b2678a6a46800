"""The page itself. Every text that came from a file goes through `escape`."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml

from fairlead.report.block_view import block_titles, render_blocks
from fairlead.report.charts import CalibrationBin, calibration_chart
from fairlead.report.load import Run, Sample, StageRecord
from fairlead.report.panels import Panel, calibration_bins, models, stage_panels, summary_rows
from fairlead.report.text import duration, escape, figure, moment, percent
from fairlead.report.words import run_sentences, took

SAMPLES_SHOWN = 6
_STATUSES = ("finished", "running", "failed", "stopped")


def render(run: Run) -> str:
    """Return a run's report as one HTML document."""
    stages = map(_stage, run.stages)
    sections = [_header(run), *_top(run.stages), _strip(run.stages), *stages, _provenance(run)]
    return document(f"{_title(run)} \u2013 Fairlead report", sections)


def document(title: str, sections: Iterable[str]) -> str:
    """Return a whole page that needs nothing but a browser.

    Args:
        title: Names the page; plain text.
        sections: HTML, what came from a file escaped.
    """
    style, script = _asset("style.css"), _asset("readout.js")
    # The page shows what models wrote. Should any of it ever slip past the escaping, the
    # browser still runs nothing and fetches nothing but these two, named by their hashes.
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}"
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n"
        f"<style>{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + f"\n</main>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return files("fairlead.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _title(run: Run) -> str:
    return run.text("name") or run.path.resolve().name


def _header(run: Run) -> str:
    facts = [
        moment(run.text("started")),
        took(run),
        f"on {run.text('device')}" if run.text("device") else "",
        f"seed {run.text('seed')}" if run.text("seed") else "",
    ]
    sentences = " ".join(escape(sentence) for sentence in run_sentences(run))
    return (
        f"<header>\n<p class='kicker'>Fairlead report</p>\n"
        f"<h1>{escape(_title(run))} {_badge(run.status)}</h1>\n"
        f"<p class='facts'>{_joined(facts)}</p>\n<p class='lead'>{sentences}</p>\n</header>"
    )


def _badge(status: str) -> str:
    kind = status if status in _STATUSES else "other"
    return f"<span class='badge {kind}'>{escape(status)}</span>"


def _joined(parts: Iterable[str]) -> str:
    return " <span class='sep'>\u00b7</span> ".join(escape(part) for part in parts if part)


def _top(stages: Sequence[StageRecord]) -> list[str]:
    """Return what stages put above all of them, with links to it where there is much."""
    placed = [stage for stage in stages if stage.sheet.place == "top" and stage.sheet.blocks]
    sections, links = [], []
    for stage in placed:
        key = f"top-{stage.name}"
        links += [(f"{key}-{index}", title) for index, title in block_titles(stage.sheet.blocks)]
        sections.append(
            f"<section id='{escape(key)}' class='top' aria-label='From {escape(stage.name)}'>\n"
            f"{render_blocks(stage.sheet.blocks, key, heading='h2')}\n<p class='note'>From stage "
            f"<a href='#stage-{escape(stage.name)}'>{escape(stage.name)}</a>.</p>\n</section>"
        )
    if len(links) < 2:
        return sections
    links += [("stages", "Stages"), ("what-ran", "What ran")]
    items = "".join(f"<li><a href='#{escape(to)}'>{escape(title)}</a></li>" for to, title in links)
    return [f"<nav aria-label='On this page'><ul class='contents'>{items}</ul></nav>", *sections]


def _strip(stages: Sequence[StageRecord]) -> str:
    if not stages:
        return "<p class='empty'>This run names no stages.</p>"
    items = "".join(
        f"<li><a href='#stage-{escape(stage.name)}'><strong>{escape(stage.name)}</strong>"
        f"<span class='kind'>{escape(stage.component)}</span>{_badge(stage.status)}"
        f"<span class='time'>{escape(duration(stage.seconds))}</span></a></li>"
        for stage in stages
    )
    return f"<nav id='stages' aria-label='Pipeline'><ol class='strip'>{items}</ol></nav>"


def _stage(stage: StageRecord) -> str:
    steps = f"{stage.steps:,} step{'s' * (stage.steps != 1)}" if stage.steps else ""
    spent = duration(stage.seconds) if stage.seconds is not None else ""
    shown, folded = stage_panels(stage)
    bins = calibration_bins(stage)
    own = stage.sheet.blocks if stage.sheet.place == "stage" else ()
    parts = [
        f"<section id='stage-{escape(stage.name)}'>",
        f"<h2>{escape(stage.name)} {_badge(stage.status)}</h2>",
        f"<p class='facts'>{_joined([stage.component, steps, spent])}</p>",
        f"<pre class='error'>{escape(stage.error)}</pre>" if stage.error else "",
        _unreadable(stage),
        _figures("Results", summary_rows(stage)),
        render_blocks(own, f"block-{stage.name}"),
        _charts(shown),
        _calibration(bins) if bins else "",
        _folded_charts(folded),
        _samples(stage),
    ]
    if not (stage.rows or stage.summary or stage.samples or stage.sheet.blocks):
        parts.append("<p class='empty'>Nothing was recorded.</p>")
    return "\n".join(part for part in [*parts, "</section>"] if part)


def _unreadable(stage: StageRecord) -> str:
    blocks = stage.sheet.unreadable
    counts = ((stage.unreadable - blocks, "line"), (blocks, "block"))
    said = " and ".join(f"{count:,} {what}{'s' * (count != 1)}" for count, what in counts if count)
    return f"<p class='facts'>{said} of its files could not be read; left out.</p>" if said else ""


def _figures(title: str, rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    items = "".join(
        f"<div><dt><code>{escape(name)}</code></dt><dd>{escape(value)}</dd></div>"
        for name, value in rows
    )
    return f"<h3>{title}</h3>\n<dl class='figures'>{items}</dl>"


def _charts(panels: Sequence[Panel]) -> str:
    return f"<div class='charts'>{''.join(map(_chart, panels))}</div>" if panels else ""


def _folded_charts(panels: Sequence[Panel]) -> str:
    if not panels:
        return ""
    plural = "metrics" if len(panels) != 1 else "metric"
    return f"<details><summary>{len(panels)} more {plural}</summary>\n{_charts(panels)}\n</details>"


def _chart(panel: Panel) -> str:
    if panel.title:  # derived from the metrics, which then stand in the key below
        heading, key = escape(panel.title), _key(panel.names, ("line", "points"))
    elif len(panel.names) > 1:
        heading, key = _key(panel.names, ("line", "dashes")), ""
    else:
        heading, key = f"<code>{escape(panel.names[0])}</code>", ""
    last = f"<span class='last'>{escape(panel.last)}</span>" if panel.last else ""
    note = "".join(f"<p class='note'>{part}</p>" for part in (key, escape(panel.note)) if part)
    caption = f"<figcaption><span class='names'>{heading}</span>{last}</figcaption>"
    return f"<figure>{caption}{panel.svg}{note}</figure>"


def _key(names: Sequence[str], kinds: Sequence[str]) -> str:
    return " ".join(
        f"<span class='key'><i class='{kind}'></i><code>{escape(name)}</code></span>"
        for name, kind in zip(names, kinds, strict=False)
    )


def _calibration(bins: Sequence[CalibrationBin]) -> str:
    rows = []
    for one in bins:
        interval = "\u2013"
        if one.interval:
            low, high = (min(max(end, 0.0), 1.0) for end in one.interval)
            interval = f"{100 * low:.0f}\u2013{percent(high)}"
        rows.append([percent(one.confidence), percent(one.accuracy), interval, f"{one.count:,}"])
    table = _table(["confidence", "accuracy", "95\u202f% interval", "pairs"], rows, "numbers")
    note = (
        "How often the model is right where it is so sure; on the dashed line it is as sure as "
        "it should be. Bars: 95\u202f% intervals, of which the pairs of one prompt are one draw."
    )
    figure_ = (
        "<figure><figcaption><span>Calibration</span></figcaption>"
        f"{calibration_chart(bins)}<p class='note'>{note}</p></figure>"
    )
    return f"<div class='charts'>{figure_}<figure class='beside'>{table}</figure></div>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table in a box of its own, which scrolls where the screen is narrow."""
    head = "".join(f"<th scope='col'>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f"<div class='scroll' tabindex='0'><table class='{kind}'><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _samples(stage: StageRecord) -> str:
    if not stage.samples:
        return ""
    names = models(stage)
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in ("prompt", *names))
    rows = [_sample(sample, names) for sample in stage.samples]

    def table(some: Sequence[str]) -> str:
        return (
            "<table class='samples'><thead><tr>"
            f"{head}</tr></thead><tbody>{''.join(some)}</tbody></table>"
        )

    parts = ["<h3>Sample completions</h3>", table(rows[:SAMPLES_SHOWN])]
    if len(rows) > SAMPLES_SHOWN:
        more = table(rows[SAMPLES_SHOWN:])
        parts.append(
            f"<details><summary>{len(rows) - SAMPLES_SHOWN} more</summary>\n{more}\n</details>"
        )
    return "\n".join(parts)


def _sample(sample: Sample, names: Sequence[str]) -> str:
    scores = [r.score for r in sample.responses.values() if r.score is not None]
    best = max(scores) if len(scores) > 1 else None
    cells = [f"<th scope='row' data-model='prompt'>{_model_text(sample.prompt)}</th>"]
    for name in names:
        response = sample.responses.get(name)
        if response is None:
            cells.append(f"<td data-model='{escape(name)}'>\u2013</td>")
            continue
        score = ""
        if response.score is not None:
            mark, word = ("score best", " best") if response.score == best else ("score", "")
            score = f"<span class='{mark}'>{escape(figure(response.score, 3))}{word}</span>"
        cells.append(f"<td data-model='{escape(name)}'>{score}{_model_text(response.text)}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _model_text(text: str) -> str:
    # dir=auto keeps a right-to-left mark in a response from turning its neighbours around.
    shown = escape(text) if text.strip() else "<em class='facts'>empty</em>"
    return f"<div class='text' dir='auto'>{shown}</div>"


def _provenance(run: Run) -> str:
    command = run.manifest.get("command")
    line = shlex.join(map(str, command)) if isinstance(command, list) else run.text("command")
    facts = [
        (label, run.text(key))
        for label, key in (("platform", "platform"), ("device", "device"), ("threads", "threads"))
    ]
    facts += [("started", moment(run.text("started"))), ("finished", moment(run.text("finished")))]
    versions = run.manifest.get("versions")
    if isinstance(versions, Mapping):
        facts += [(str(name), str(version)) for name, version in versions.items()]
    parts = [
        "<section id='what-ran'>\n<h2>What ran</h2>",
        f"<pre class='command'>{escape(line)}</pre>" if line else "",
        _figures("Versions and machine", [fact for fact in facts if fact[1]]),
        _plugins(run.manifest.get("plugins")),
        _configuration(run.manifest.get("config")),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _plugins(plugins: Any) -> str:
    if not isinstance(plugins, list) or not plugins:
        return ""
    keys = ["name", "distribution", "version", "origin"]
    entries = [plugin for plugin in plugins if isinstance(plugin, Mapping)]
    if any(entry.get("error") for entry in entries):
        keys.append("error")
    rows = [[str(entry.get(key) or "") for key in keys] for entry in entries]
    return f"<h3>Plugins</h3>\n{_table(keys, rows)}"


def _configuration(config: Any) -> str:
    if not config:
        return ""
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=88)
    return (
        "<details><summary>Configuration</summary>\n"
        f"<pre class='config' tabindex='0'>{escape(text)}</pre>\n</details>"
    )
