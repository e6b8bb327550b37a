"""What explanations are worth (``python -m explanations``), and what they cost (``python -m explanations.speed``)."""
