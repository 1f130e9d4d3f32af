"""Objectives, one family a file: which posteriors explain which modalities, and with which weights."""
