#!/usr/bin/env python3
"""Writes the machines of tests/test_placement.c: hwloc's synthetic topologies, exported by lstopo
(hwloc 2.x), with host bridges and GPUs hung below the objects that they are near."""
import re
import subprocess

MACHINES = {
    # name: (synthetic description, the type that the GPUs hang below, GPUs of each in order)
    "two-sockets-four-gpus": ("package:2 [numa] core:8 pu:2(indexes=2*16:1*2)", "Package",
                              [["0000:17:00.0", "0000:65:00.0"], ["0000:b3:00.0", "0000:e3:00.0"]]),
    "two-sockets-with-nics": ("package:2 [numa] core:8 pu:2(indexes=2*16:1*2)", "Package",
                              [["0000:17:00.0", "0000:65:00.0"], ["0000:b3:00.0", "0000:e3:00.0"]]),
    "eight-gpus-four-numa": ("package:2 group:2 [numa] core:8 pu:2(indexes=2*32:1*2)", "Group",
                             [["0000:07:00.0", "0000:0b:00.0"], ["0000:48:00.0", "0000:4c:00.0"],
                              ["0000:88:00.0", "0000:8b:00.0"], ["0000:c8:00.0", "0000:cb:00.0"]]),
    "virtual-machine": ("package:2 [numa] core:4 pu:1", "Machine",
                        [["0000:00:05.0", "0000:00:06.0"]]),
}

# (machine, GPU): the slot, hwloc's type (2 Ethernet, 3 InfiniBand) and name of the card beside it
NICS = {
    ("two-sockets-with-nics", "0000:17:00.0"): ("01", 3, "mlx5_0"),
    ("two-sockets-with-nics", "0000:65:00.0"): ("01", 2, "eth0"),
    ("two-sockets-with-nics", "0000:b3:00.0"): ("01", 3, "mlx5_1"),
    ("two-sockets-with-nics", "0000:e3:00.0"): ("01", 3, "mlx5_2"),
}


def gpu(address, index):
    bus = address[5:7]
    nic = NICS.get((name, address))
    extra = ""
    if nic:  # beside the GPU, under one PCI bridge
        slot, kind, device = nic
        extra = (f'<object type="PCIDev" gp_index="{index + 500}" pci_busid="0000:{bus}:{slot}.0" '
                 f'pci_type="0207 [15b3:1021] [15b3:0023] 00" pci_link_speed="63.015385">'
                 f'<object type="OSDev" gp_index="{index + 501}" name="{device}" '
                 f'osdev_type="{kind}"/></object>')
    return (f'<object type="Bridge" gp_index="{index}" bridge_type="0-1" depth="0" '
            f'bridge_pci="0000:[{bus}-{bus}]">'
            f'<object type="PCIDev" gp_index="{index + 1}" pci_busid="{address}" '
            f'pci_type="0302 [10de:2330] [10de:16c1] a1" pci_link_speed="63.015385"/>{extra}</object>')


for name, (description, kind, gpus) in MACHINES.items():
    text = subprocess.run(["lstopo", "-i", description, "--of", "xml", "-"], check=True,
                          stdout=subprocess.PIPE, text=True).stdout
    text = re.sub(r'\s*<info name="ProcessName"[^>]*>', "", text)
    lines, depth, seen, index = [], None, 0, 1000
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if f'<object type="{kind}"' in line:
            depth = indent
        elif depth == indent and "</object>" in line:
            for address in gpus[seen]:
                lines.append(" " * (indent + 2) + gpu(address, index))
                index += 2
            seen, depth = seen + 1, None
        lines.append(line)
    assert seen == len(gpus), (name, seen)
    with open(f"{name}.xml", "w") as file:
        file.write("\n".join(lines) + "\n")
