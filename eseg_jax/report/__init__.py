"""The pieces of a run's report: files, panels, charts, and the page they end on."""
