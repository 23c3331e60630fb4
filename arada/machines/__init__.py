"""What a machine can do for an experiment: whether it computes rightly, how fast, and what that costs."""
