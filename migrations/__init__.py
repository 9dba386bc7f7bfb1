"""Layouts of the stores, one numbered step a file: `sqlite/NNNN_name.sql`, `redis/NNNN_name.py`.

A step is never edited after its release.
"""
