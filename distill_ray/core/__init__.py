"""The mathematics: plain functions on tensors and arrays; knows neither Ray nor configs."""
