"""The search for the fastest technique and knobs of each layer, measured, recorded and promoted to tuned rows.

Our kernels are written for their knobs, not scheduled afterwards, so what MetaSchedule offers fits badly: its database
keys and stores traces of schedule primitives, of which there are none here; its runners time and cannot count; its
builder pays seconds a batch for intrinsics that we do not use. What it would have given is XGBoost's ranking of
candidates, and that is taken directly, over the techniques' own knob spaces, with a log of our own.
"""
