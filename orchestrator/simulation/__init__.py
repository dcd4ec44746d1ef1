"""The real control of runs against hosts, processes and clocks that are simulated."""
