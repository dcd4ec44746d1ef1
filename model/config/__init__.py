"""What a worker is told: its settings, and the configuration of the network."""
