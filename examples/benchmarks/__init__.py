"""Whole networks against plain TVM: estimated cycles, bytes, memory and size; and layers timed on this machine."""
