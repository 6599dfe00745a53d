"""Batches of objects become verified content in a sink. Knows neither trees nor images."""
