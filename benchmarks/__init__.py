"""Timings of the library. Not tests: nothing here asserts on time."""
