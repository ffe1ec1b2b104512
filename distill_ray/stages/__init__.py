"""The data's way, one file a stage; start with `pipeline.py`."""
