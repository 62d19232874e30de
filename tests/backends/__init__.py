"""One file of tests for each op, under the op's name."""
