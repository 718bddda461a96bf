"""What the model says, and whether it still says what it used to. Nothing here knows the truth: that takes labels."""

from deploy.grafana.panels import Query, Row, graph, heat, number, page
from deploy.grafana.queries import mean, quantile, rate, recorded, series

_ALL = rate("genprint_decisions_total")
_SHARE, _WEEK = "job_share:genprint_decisions:ratio1h", "job_share:genprint_decisions:avg7d"

_NOW = (
    *(
        number(
            title,
            f"{meaning}, of all verdicts in the last hour.",
            "percentunit",
            Query(recorded(_SHARE, f'share="{share}"'), title),
        )
        for share, title, meaning in (
            ("generated", "Generated", "Decision generated"),
            ("unsure", "Unsure", "Decision unsure"),
            ("unknown", "Unknown", "No template explains the image"),
        )
    ),
    number(
        "Mean score",
        "Calibrated probability that an image is generated.",
        "percentunit",
        Query(mean("genprint_score"), "mean"),
    ),
    number(
        "Cache hits",
        "Of all look-ups.",
        "percentunit",
        Query(recorded("job:genprint_cache_hits:ratio_rate5m"), "hits"),
    ),
    number("Verdicts", "Per second.", "cps", Query(_ALL, "verdicts")),
)

_SCORES = (
    heat(
        "Scores",
        "Calibrated probability that an image is generated: verdicts per second in each bucket. Two bands, at the "
        "bottom and at the top, are a model that knows; what lies between is unsure.",
        "percentunit",
        rate("genprint_score_bucket", by="le"),
    ),
    graph(
        "Scores by decision",
        "Median. Real and generated far apart; unsure with extreme scores is a conflict with the templates.",
        "percentunit",
        Query(quantile(0.5, "genprint_score", by="decision"), "{{decision}}"),
        width=6,
        top=1,
    ),
    graph(
        "Reasons given",
        "Why verdicts are unsure, and what else a reviewer should know.",
        "cps",
        Query(rate("genprint_reasons_total", by="reason"), "{{reason}}"),
        stacked=True,
        width=6,
    ),
)

_DECISIONS = (
    graph(
        "Decisions",
        "Verdicts per second.",
        "cps",
        Query(rate("genprint_decisions_total", by="decision"), "{{decision}}"),
        stacked=True,
    ),
    graph(
        "Sources",
        "Which generator, of the images that have one; unknown is an image that no template explains.",
        "cps",
        Query(rate("genprint_decisions_total", 'source!="none"', by="source"), "{{source}}"),
        stacked=True,
    ),
    graph(
        "Shares against their past",
        "Of the last hour, and the mean of the last week. GenprintShareDrift fires when they part.",
        "percentunit",
        Query(recorded(_SHARE), "{{job}} {{share}}"),
        Query(recorded(_WEEK), "{{job}} {{share}}, week"),
        top=1,
    ),
)

_CACHE = (
    graph(
        "Cache look-ups",
        "By result. An error is one call for many images.",
        "cps",
        Query(rate("genprint_cache_total", by="result"), "{{result}}"),
        stacked=True,
        width=12,
    ),
    graph(
        "Cache hit share",
        "Images that came before; their scores are not computed again, their verdicts are.",
        "percentunit",
        Query(recorded("job:genprint_cache_hits:ratio_rate5m"), "{{job}}"),
        width=6,
        top=1,
    ),
    graph(
        "Bundles served",
        "Workers by version of the bundle.",
        "short",
        Query(f"count by (name, version) ({series('genprint_bundle_info')})", "{{name}} {{version}}"),
        stacked=True,
        width=6,
    ),
)

QUALITY = page(
    "genprint-model",
    "Genprint: model",
    "Scores, decisions, sources and the cache.",
    [Row("Last hour", _NOW), Row("Scores", _SCORES), Row("Decisions", _DECISIONS), Row("Cache and bundle", _CACHE)],
)
