"""What explanations are worth: digits turned into others, motifs found again, neurons switched off."""
