"""How well encoders see: figures on labelled sets, on altered copies, and of speed. Needs no torch."""
