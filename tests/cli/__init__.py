"""Tests of the command line: one file per group of commands."""
