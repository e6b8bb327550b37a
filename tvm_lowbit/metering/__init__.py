"""What compiled code would cost on a core, without the board: executed blocks, counted and priced. Estimates only."""
