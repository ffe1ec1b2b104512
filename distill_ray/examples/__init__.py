"""Corpora for the quickstart, from ordinary Python packages: nothing is downloaded."""
