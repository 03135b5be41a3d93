"""Which system calls an agent's child may make, as the program that the kernel runs for each.

Knows: classic BPF as seccomp takes it, and the numbers of the calls on two architectures. Refuses
to know: who loads the program.

Sources: seccomp(2), linux/filter.h, linux/audit.h, the kernel's system call tables.
"""

from __future__ import annotations

import struct

# AUDIT_ARCH_*, and the numbers of the calls in that architecture's table.
_ARCHITECTURES = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "sendto": 44, "sendmsg": 46, "sendmmsg": 307, "keyctl": 250,
            "add_key": 248, "request_key": 249, "io_uring_setup": 425, "bpf": 321,
            "perf_event_open": 298, "userfaultfd": 323, "shmget": 29, "semget": 64, "msgget": 68,
            "mq_open": 240, "mount": 165, "setns": 308, "syslog": 103, "shmat": 30,
            "semop": 65, "semtimedop": 220, "msgrcv": 70, "msgsnd": 69, "open_by_handle_at": 304,
            "prlimit64": 302, "setpriority": 141, "sched_setaffinity": 203,
            "sched_setscheduler": 144, "sched_setparam": 142, "sched_setattr": 314,
            "ioprio_set": 251,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198, "sendto": 206, "sendmsg": 211, "sendmmsg": 269, "keyctl": 219,
            "add_key": 217, "request_key": 218, "io_uring_setup": 425, "bpf": 280,
            "perf_event_open": 241, "userfaultfd": 282, "shmget": 194, "semget": 190,
            "msgget": 186, "mq_open": 180, "mount": 40, "setns": 268, "syslog": 116, "shmat": 196,
            "semop": 193, "semtimedop": 192, "msgrcv": 188, "msgsnd": 189, "open_by_handle_at": 265,
            "prlimit64": 261, "setpriority": 140, "sched_setaffinity": 122,
            "sched_setscheduler": 119, "sched_setparam": 118, "sched_setattr": 274,
            "ioprio_set": 30,
        },
    ),
}  # fmt: skip

MACHINES = frozenset(_ARCHITECTURES)

_ALWAYS = (
    "keyctl", "add_key", "request_key", "io_uring_setup", "bpf", "perf_event_open", "userfaultfd",
    "setns", "open_by_handle_at", "syslog",
)  # fmt: skip
"""Calls that no agent's tool needs: kernel keyrings belong to the user, and ``io_uring`` would go
round the rules below."""

_WITHOUT_NAMESPACES = (
    "shmget", "shmat", "semget", "semop", "semtimedop", "msgget", "msgrcv", "msgsnd", "mq_open",
    "mount",
)  # fmt: skip
"""What else reaches other processes where the child shares their namespaces."""

_OF_ITSELF = (
    ("prlimit64", 0), ("setpriority", 1), ("sched_setaffinity", 0), ("sched_setscheduler", 0),
    ("sched_setparam", 0), ("sched_setattr", 0), ("ioprio_set", 1),
)  # fmt: skip
"""Calls that Landlock does not know and that could slow or starve another process of the user, with
the place of the argument that names it: here only 0, the caller."""

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_MSG_FASTOPEN = 0x20000000
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ERRNO with EPERM
_LOAD, _EQUAL, _ABOVE, _ANY, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_X32 = 0x40000000


def _argument(index: int) -> int:
    return 16 + 8 * index  # the low half, on little-endian machines


def filter_program(machine: str, *, shared: bool) -> bytes:
    """The classic BPF program (an array of ``struct sock_filter``) for `machine`.

    `shared`: the child shares the machine's namespaces, so that sockets are TCP alone: Landlock
    knows no Unix socket by its path, no MPTCP and no TCP Fast Open.
    """
    architecture, numbers = _ARCHITECTURES[machine]
    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _NUMBER),
        (_ABOVE, 0, 1, _X32),  # another table of the same architecture
        (_RETURN, 0, 0, _REFUSE),
    ]
    for name in _ALWAYS + (_WITHOUT_NAMESPACES if shared else ()):
        code += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _REFUSE)]
    families = (_AF_INET, _AF_INET6) if shared else (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK)
    body = [(_LOAD, 0, 0, _argument(0))]
    for at, family in enumerate(families):
        body.append((_EQUAL, len(families) - at, 0, family))
    body.append((_RETURN, 0, 0, _REFUSE))
    if shared:
        body += [
            (_LOAD, 0, 0, _argument(1)),
            (_AND, 0, 0, 0xF),
            (_EQUAL, 1, 0, 1),  # SOCK_STREAM
            (_RETURN, 0, 0, _REFUSE),
            (_LOAD, 0, 0, _argument(2)),
            (_EQUAL, 2, 0, 0),
            (_EQUAL, 1, 0, 6),  # IPPROTO_TCP
            (_RETURN, 0, 0, _REFUSE),
        ]
    body.append((_RETURN, 0, 0, _ALLOW))
    code += [(_EQUAL, 0, len(body), numbers["socket"]), *body]
    if shared:
        for name, index in _OF_ITSELF:
            body = [
                (_LOAD, 0, 0, _argument(index)),
                (_EQUAL, 1, 0, 0),
                (_RETURN, 0, 0, _REFUSE),
                (_RETURN, 0, 0, _ALLOW),
            ]
            code += [(_EQUAL, 0, len(body), numbers[name]), *body]
        for name, flags in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
            body = [
                (_LOAD, 0, 0, _argument(flags)),
                (_ANY, 0, 1, _MSG_FASTOPEN),
                (_RETURN, 0, 0, _REFUSE),
                (_RETURN, 0, 0, _ALLOW),
            ]
            code += [(_EQUAL, 0, len(body), numbers[name]), *body]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *each) for each in code)
