"""Passes from a Relax IRModule to a Relax IRModule: quantisers, low-bit operators, explanations."""
