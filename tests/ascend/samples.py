"""What `npu-smi` and the longer commands of `hccn_tool` print, as documented and as captured from hosts."""

from __future__ import annotations

INFO_910B = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 23.0.5                   Version: 23.0.5                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B1               | OK            | 88.4        46                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          4175 / 65536         |
+===========================+===============+====================================================+
| 7     910B1               | Warning       | 90.1        47                0    / 0             |
| 0                         | 0000:42:00.0  | 0           0    / 0          4170 / 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 0       0                 | 40512         | python                   | 27002                   |
+===========================+===============+====================================================+
| No running processes found in NPU 7                                                            |
+===========================+===============+====================================================+
"""
# A 910A in training: DDR and HBM, and no blank before the slash.
INFO_910A = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 22.0.4                   Version: 22.0.4                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 3     910A                | OK            | 264.8       71                15   / 15            |
| 0                         | 0000:61:00.0  | 97          4565 / 15137      30710/ 32768         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| No running processes found in NPU 3                                                            |
+===========================+===============+====================================================+
"""
INFO_A3 = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 25.0.rc1.1               Version: 25.0.rc1.1                                           |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 1     Ascend910           | OK            | 169.0       35                0    / 0             |
| 0     2                   | 0000:9D:00.0  | 0           0    / 0          3126 / 65536         |
+------------------------------------------------------------------------------------------------+
| 1     Ascend910           | OK            | -           34                0    / 0             |
| 1     3                   | 0000:9F:00.0  | 0           0    / 0          2864 / 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 1       1                 | 811           | python3                  | 512                     |
+===========================+===============+====================================================+
"""
HEALTH = """\
\tHealth Status                  : OK
\tError Code                     : NA
\tError Information              : NA
"""
BOARD = """\
\tNPU ID                         : 0
\tSoftware Version               : 23.0.5
\tFirmware Version               : 7.1.0.7.220
\tCompatibility                  : OK
\tBoard ID                       : 0x02
\tPCB ID                         : A
\tBOM ID                         : 1
\tPCIe Bus Info                  : 0000:61:00.0
\tSlot ID                        : 0
\tClass ID                       : NA
\tPCI Vendor ID                  : 0x19E5
\tPCI Device ID                  : 0xD801
\tSubsystem Vendor ID            : 0x0200
\tSubsystem Device ID            : 0x0100
\tChip Count                     : 1
"""
CHIP_BOARD = """\
\tNPU ID                         : 0
\tChip ID                        : 0
\tChip Type                      : Ascend
\tChip Name                      : 910A
\tChip Version                   : V1
\tBoard ID                       : 0x02
\tPCB ID                         : NA
\tBOM ID                         : 1
\tVDie ID                        : 6A0C0B0C 20800FE2 7A2A0010 8C0C0B0C 0A0C0B0C
\tNDie ID                        : 6A0C0B0C 20800FE2 7A2A0010 8C0C0B0C 0A0C0B0C
\tChip Position ID               : 0
\tPCIe Bus Info                  : 0000:61:00.0
\tFirmware Version               : 7.1.0.7.220
"""
USAGES = """\
\tNPU ID                         : 0
\tChip Count                     : 1

\tDDR Capacity(MB)               : 13553
\tDDR Usage Rate(%)              : 6
\tDDR Hugepages Total(page)      : 0
\tDDR Hugepages Usage Rate(%)    : 0
\tHBM Capacity(MB)               : 32768
\tHBM Usage Rate(%)              : 0
\tAicore Usage Rate(%)           : 0
\tAicpu Usage Rate(%)            : 0
\tCtrlcpu Usage Rate(%)          : 0
\tDDR Bandwidth Usage Rate(%)    : 0
\tHBM Bandwidth Usage Rate(%)    : 0
\tChip ID                        : 0
"""
MEMORY = """\
\tNPU ID                         : 1
\tChip Count                     : 1

\tDDR Capacity(MB)               : 15171
\tDDR Clock Speed(MHz)           : 2400
\tHBM Capacity(MB)               : 32768
\tHBM Clock Speed(MHz)           : 1600
\tHBM Temperature(C)             : 35
\tHBM Manufacturer ID            : 0x57
\tChip ID                        : 0
"""
COMMON = """\
\tNPU ID                         : 0
\tChip Count                     : 1

\tChip ID                        : 0
\tMemory Usage Rate(%)           : 6
\tHBM Usage Rate(%)              : 0
\tAicore Usage Rate(%)           : 0
\tAicore Freq(MHZ)               : 900
\tAicore curFreq(MHZ)            : 900
\tAicore Count                   : 30
\tTemperature(C)                 : 41
\tNPU Real-time Power(W)         : 71.7
"""
ECC = """\
\tNPU ID                                   : 0
\tChip Count                               : 1

\tDDR Single Bit Error Count               : 0
\tDDR Double Bit Error Count               : 0
\tDDR Single Bit Aggregate Total Err Cnt   : 0
\tDDR Double Bit Aggregate Total Err Cnt   : 0
\tDDR Single Bit Isolated Pages Count      : 0
\tDDR Double Bit Isolated Pages Count      : 0
\tHBM Single Bit Error Count               : 3
\tHBM Double Bit Error Count               : 1
\tHBM Single Bit Aggregate Total Err Cnt   : 9
\tHBM Double Bit Aggregate Total Err Cnt   : 1
\tHBM Single Bit Isolated Pages Count      : 0
\tHBM Double Bit Isolated Pages Count      : 2
\tChip ID                                  : 0
"""
SPOD = """\
\tSDID                           : 16777216
\tSuper Pod Size                 : 384
\tSuper Pod ID                   : 0
\tServer Index                   : 4
"""
