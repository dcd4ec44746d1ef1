"""Stand-ins for `hccn_tool` and `npu-smi`: hosts that have no NPU answer as if they had eight or sixteen.

`facts.py` is what a host is like, as YAML; `render.py` what the tools of such a host print; `fakehost.py`
puts both tools into a folder that a test host has on its PATH; `cluster.py` makes many such hosts behind one
sshd. By hand: `python -m tests.standins FACTS.yaml FOLDER`.
"""
