"""Sets of pictures to train on and to measure with."""
