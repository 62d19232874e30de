"""Benchmarks: this library against its peers, both measured in the same run."""
