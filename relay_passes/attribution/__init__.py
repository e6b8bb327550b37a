"""Explanations: a reverse walk over the quantised graph, compiled like everything else."""
