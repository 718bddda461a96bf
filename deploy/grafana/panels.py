"""The building blocks of our dashboards: one look, one data source, one row of variables."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    DataSourceRef,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataTransformerConfig,
    Panel,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_WHOLE_WIDTH = 24


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked, and what each line of the answer is called (``{{label}}`` is replaced)."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Row:
    """A heading, and panels beside and below each other."""

    title: str
    panels: Sequence[Builder[Panel]]


def graph(
    title: str,
    meaning: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    stacked: bool = False,
    top: float | None = None,
    limit: float | None = None,
) -> timeseries.Panel:
    """Lines over time; ``limit`` is drawn as a red line."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(meaning)
        .datasource(_SOURCE)
        .unit(unit)
        .min(0)
        .height(8)
        .span(width)
        .line_width(1)
        .fill_opacity(25 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if top is not None:
        panel.max(top)
    if limit is not None:
        panel.thresholds(_steps(limit))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.LINE))
    for query, name in zip(queries, "ABCDEFGH", strict=False):
        panel.with_target(_target(query).ref_id(name).range())
    return panel


def number(title: str, meaning: str, unit: str, query: Query, *, width: int = 4) -> stat.Panel:
    """The last value, large. Without colours for good and bad: where bad begins is the alerts' business."""
    return (
        stat.Panel()
        .title(title)
        .description(meaning)
        .datasource(_SOURCE)
        .unit(unit)
        .height(4)
        .span(width)
        .graph_mode(BigValueGraphMode.AREA)
        .color_mode(BigValueColorMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
        .with_target(_target(query).ref_id("A").range())
    )


def heat(title: str, meaning: str, unit: str, expr: str, *, width: int = 12) -> heatmap.Panel:
    """The buckets of a histogram over time."""
    return (
        heatmap.Panel()
        .title(title)
        .description(meaning)
        .datasource(_SOURCE)
        .height(8)
        .span(width)
        .calculate(False)
        .cell_gap(1)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LINEAR))
        .with_target(_target(Query(expr, "{{le}}")).ref_id("A").range().format(PromQueryFormat.HEATMAP))
    )


def listing(title: str, meaning: str, expr: str, hidden: Sequence[str], *, width: int = _WHOLE_WIDTH) -> table.Panel:
    """The labels of every series, now."""
    columns = dict.fromkeys(("Time", "Value", "__name__", *hidden), True)
    return (
        table.Panel()
        .title(title)
        .description(meaning)
        .datasource(_SOURCE)
        .height(6)
        .span(width)
        .with_transformation(DataTransformerConfig(id_val="organize", options={"excludeByName": columns}))
        .with_target(_target(Query(expr, "")).ref_id("A").instant().format(PromQueryFormat.TABLE))
    )


def page(uid: str, title: str, meaning: str, rows: Sequence[Row]) -> Dashboard:
    """A dashboard with the variables ``datasource``, ``job`` and ``instance``, and links to its neighbours."""
    builder = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(meaning)
        .tags(["genprint"])
        .readonly()
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Genprint")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["genprint"])
            .as_dropdown(False)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_labels("job", "Job", "label_values(genprint_bundle_info, job)"))
        .with_variable(_labels("instance", "Worker", 'label_values(genprint_bundle_info{job=~"$job"}, instance)'))
    )
    for row in rows:
        builder.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            builder.with_panel(panel)
    built = builder.build()
    for number_of_panel, placed in enumerate(built.panels or (), start=1):
        placed.id_val = number_of_panel
    return built


def encoded(built: Dashboard) -> str:
    """The dashboard as JSON, as it is committed and provisioned."""
    return JSONEncoder(sort_keys=True, indent=2).encode(built) + "\n"


def _target(query: Query) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.expr).legend_format(query.legend)


def _labels(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """Values of a label, all of them chosen at first."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query({"query": query, "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )


def _steps(limit: float) -> dashboard.ThresholdsConfig:
    """Green, and red from ``limit`` on."""
    steps = [Threshold(value=None, color="green"), Threshold(value=limit, color="red")]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
