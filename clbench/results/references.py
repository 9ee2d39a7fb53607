"""The two methods that others are measured against. No other file of clbench names a method."""

BASELINE = "finetune"  # plain fine-tuning: what forgets
UPPER_BOUND = "joint"  # training on all data so far: it does not compete, and intransigence is defined against it
