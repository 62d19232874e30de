"""Tests of gpucnn.interop."""
