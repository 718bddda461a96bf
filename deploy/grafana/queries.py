"""PromQL as the dashboards ask it: limited to the jobs and instances that were chosen at the top of the page."""

CHOSEN = 'job=~"$job", instance=~"$instance"'
CHOSEN_JOBS = 'job=~"$job"'


def series(name: str, labels: str = "") -> str:
    """A metric of the worker; ``labels`` are further conditions, as in ``outcome="verdict"``."""
    return f"{name}{{{CHOSEN}, {labels}}}" if labels else f"{name}{{{CHOSEN}}}"


def recorded(name: str, labels: str = "") -> str:
    """A series of our recording rules: it knows jobs, no instances."""
    return f"{name}{{{CHOSEN_JOBS}, {labels}}}" if labels else f"{name}{{{CHOSEN_JOBS}}}"


def rate(name: str, labels: str = "", *, by: str = "") -> str:
    """Per second, added up over workers; ``by`` names the labels that are kept apart."""
    return f"{_sum(by)} (rate({series(name, labels)}[$__rate_interval]))"


def quantile(share: float, histogram: str, labels: str = "", *, by: str = "") -> str:
    """The quantile of the observations since the last point of the graph."""
    kept = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, {rate(f'{histogram}_bucket', labels, by=kept)})"


def mean(histogram: str, labels: str = "", *, by: str = "") -> str:
    """The mean of the observations since the last point of the graph."""
    return f"{rate(f'{histogram}_sum', labels, by=by)} / {rate(f'{histogram}_count', labels, by=by)}"


def _sum(by: str) -> str:
    return f"sum by ({by})" if by else "sum"
