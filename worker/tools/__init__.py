"""Tools beside the stream: classify files, produce events, plan capacity."""
