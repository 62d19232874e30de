"""Tests of gpucnn.data; a package, so that names of test files may stand elsewhere too."""
