"""What all rooms share: paths, records, states, errors."""
