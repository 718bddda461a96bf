"""Dashboards for Grafana, built by typed Python and committed as JSON."""

import warnings

# The SDK says so when it is imported. The older schema is the one that every Grafana provisions from files.
warnings.filterwarnings("ignore", "Prefer using dashboardv2", DeprecationWarning)
