"""What explanations cost: measured in pairs on this machine."""
