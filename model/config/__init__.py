"""Configuration: the settings of a worker, and those of the network."""
