"""A simulation of hosts on which the real controller runs, in virtual time."""
