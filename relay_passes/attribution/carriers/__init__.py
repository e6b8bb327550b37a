"""What a reverse walk carries: see `base.Carrier`."""
