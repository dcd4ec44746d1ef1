"""What runs on the hosts: stdlib only, Python 3.8 or newer, shipped as one zipapp by the control node."""
