"""The framework for read models: how to write one, keep it up to date, rebuild it, and read it page by page."""
