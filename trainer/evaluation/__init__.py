"""How good a detector is: metrics, open set, calibration, intervals, trivial baselines."""
