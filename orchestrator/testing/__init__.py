"""Stand-ins for Ascend hosts, sshd and clusters, for tests and benches."""
