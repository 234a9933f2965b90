"""MICE: batches, encoders, experts, losses, training, evaluation, baselines and reports. One module (`data`) knows the store."""
