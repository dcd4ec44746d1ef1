"""A folder that makes a host an Ascend host: put its `bin` on the PATH of the host's sessions.

Each answer is a little shell script that the tool sources: no other process starts, because benches run
thousands of these.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from orchestrator.testing.standin_facts import HostFacts
from orchestrator.testing.standin_tools import Said, answers, hccn_conf

__all__ = ["FakeHost"]

# `$0` is the link in the host's own bin, so that one script serves all hosts and both tools.
_TOOL = """\
#!/bin/sh
here=${{0%/bin/*}}
call="${{0##*/}} $*"
for fault in "$here"/faults/*; do
    case $call in "${{fault##*/}}"*) . "$fault" ;; esac
done
case $call in
*ping*)
    echo "device $2 PING $6"
    if [ -e "{network}/$6" ] && [ -e "$here/up/$2" ]; then
        echo "recv seq=0,time=1.418000ms"
        echo "3 packets transmitted, 3 received, 0.00% packet loss"
        exit 0
    fi
    echo "3 packets transmitted, 0 received, 100.00% packet loss"
    exit 1 ;;
esac
[ -e "$here/answers/$call" ] && . "$here/answers/$call"
case $0 in
*hccn_tool) echo "The device is not exist!" ;;
*) echo "This device does not support querying $*." ;;
esac
exit 1
"""
_FAULTS = {
    "hang": "echo 'link'; exec sleep 300",
    "garbage": "printf '\\177ELF\\002\\001\\001\\000\\000 core dumped\\n'; exit 0",
    "half": 'HALF=1; . "$here/answers/$call"',
    "chinese": "echo '获取设备信息失败，请检查驱动'; exit 1",
    "root": "echo 'permission denied: pls check this cmd run permission.'; exit 1",
    "busy": "echo 'hccn_tool is busy, please try again.'; exit 1",
    "crash": "kill -SEGV $$",
}


# As the script of CANN 8.1; `$ASCEND_TOOLKIT_HOME` is set before it.
_SET_ENV = """\
export LD_LIBRARY_PATH=$ASCEND_TOOLKIT_HOME/lib64:$LD_LIBRARY_PATH
export PYTHONPATH=$ASCEND_TOOLKIT_HOME/python/site-packages:$ASCEND_TOOLKIT_HOME/{tbe}:$PYTHONPATH
export ASCEND_OPP_PATH=$ASCEND_TOOLKIT_HOME/opp
export TOOLCHAIN_HOME=$ASCEND_TOOLKIT_HOME/toolkit
export ASCEND_HOME_PATH=$ASCEND_TOOLKIT_HOME
"""
_TBE = "opp/built-in/op_impl/ai_core/tbe"


class FakeHost:
    """One host's tools, hccn.conf and CANN, made from its facts and made anew when they change.

    `network` is a folder that all hosts of a cluster share: it holds the addresses that answer a ping.
    """

    def __init__(self, folder: Path, facts: HostFacts, network: Path) -> None:
        self.folder = folder
        self._network = network
        for name in ("bin", "cann/x86_64-linux", "cann/compiler", "cann/lib64", f"cann/{_TBE}"):
            (folder / name).mkdir(parents=True)
        network.mkdir(exist_ok=True)
        tool = folder / "tool"
        tool.write_text(_TOOL.format(network=network))
        tool.chmod(0o755)
        self.facts = facts
        self.become(facts)

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def hccn_conf(self) -> Path:
        return self.folder / "hccn.conf"

    @property
    def env_script(self) -> Path:
        """As CANN's set_env.sh."""
        return self.folder / "set_env.sh"

    def become(self, facts: HostFacts) -> None:
        """Write everything that these facts change."""
        for address in self._own_addresses():
            address.unlink()
        self.facts = facts
        (self.folder / "facts.yaml").write_text(facts.to_yaml())
        self.hccn_conf.write_text(hccn_conf(facts))
        self._write_cann(facts)
        self._write_tools(facts)
        self._write_answers(facts)

    def _write_cann(self, facts: HostFacts) -> None:
        cann = self.folder / "cann"
        exports = {"ASCEND_TOOLKIT_HOME": str(cann), **facts.exports}
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in exports.items()]
        self.env_script.write_text("".join(lines) + _SET_ENV.format(tbe=_TBE))
        info = f"package_name=Ascend-cann-toolkit\nversion={facts.cann}\narch=x86_64\n"
        (cann / "x86_64-linux/ascend_toolkit_install.info").write_text(info)
        (cann / "compiler/version.info").write_text(f"Version={facts.compiler}\nversion_dir={facts.cann}\n")
        modules = cann / "python/site-packages"
        shutil.rmtree(modules, ignore_errors=True)
        for name in facts.python:
            (modules / name).mkdir(parents=True)
            for file in ("__init__", "version", "sys_version"):
                (modules / name / f"{file}.py").write_text("raise SystemExit('nobody imports this')\n")

    def _own_addresses(self) -> list[Path]:
        """Those that answer for this host; another one's address that it claims, too, stays the other's."""
        found = [self._network / str(device.ip) for device in self.facts.devices]
        return [path for path in found if path.exists() and path.read_text() == self.facts.name]

    def _write_tools(self, facts: HostFacts) -> None:
        for name in ("hccn_tool", "npu-smi"):
            link = self.bin / name
            link.unlink(missing_ok=True)
            if name not in facts.missing:
                link.symlink_to(self.folder / "tool")

    def _write_answers(self, facts: HostFacts) -> None:
        for name in ("answers", "faults", "up"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
        for call, said in answers(facts):
            (self.folder / "answers" / call).write_text(_script(said))
        for prefix, fault in facts.faults.items():
            (self.folder / "faults" / prefix).write_text(_FAULTS[fault] + "\n")
        for device in facts.devices:
            if device.link == "UP":
                (self.folder / "up" / str(device.id)).touch()
                address = self._network / str(device.ip)
                if not address.exists():
                    address.write_text(facts.name)


def _script(said: Said) -> str:
    whole, half = shlex.quote(said.text), shlex.quote(said.text[: len(said.text) // 2])
    return f'if [ -n "$HALF" ]; then printf %s {half}; else printf %s {whole}; fi\nexit {said.exit_code}\n'
