"""Ways out of an agent's workspace, as a shell tries them: each ends with status 0 if it leads out.

Knows what an agent that is allowed everything could try, and the decoys that `scene` puts up.
Refuses to know what holds it back.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from attrs import frozen


@frozen
class Way:
    """`tame`: it may be tried without a sandbox as well, for it harms nothing but decoys; then it
    has to lead out, or it would show nothing."""

    name: str
    script: str
    tame: bool = True


def _python(code: str) -> str:
    return f"python3 -c {shlex.quote(code)}"


_PTRACE = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
pid = int(os.environ["VICTIM"])
"""
_SYSCALL = "import ctypes, os; call = ctypes.CDLL(None, use_errno=True).syscall\n"
_ASK = """
import os, socket
def ask(s):
    s.settimeout(3)
    s.sendall(b"GET / HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n")
    assert os.environ["TOKEN"].encode() in s.recv(65536)
"""
_GET = "curl -fsS -m 5 --noproxy '' "

WAYS = (
    # -- other processes ---------------------------------------------------------------------------
    Way("environment of the gateway", 'grep -qa "$TOKEN[.]env" /proc/$VICTIM/environ'),
    Way("environment of any process", 'cat /proc/[0-9]*/environ | grep -qa "$TOKEN[.]env"'),
    Way("command line of any process", 'cat /proc/[0-9]*/cmdline | grep -qa "$TOKEN[.]argv"'),
    Way("memory by /proc", _python("""
import os
pid, at = os.environ["VICTIM"], int(os.environ["ADDRESS"])
with open(f"/proc/{pid}/mem", "rb", 0) as memory:
    memory.seek(at)
    assert os.environ["TOKEN"].encode() in memory.read(200)
""")),
    Way("memory map", "test -n \"$(cat /proc/$VICTIM/maps)\""),
    Way("process_vm_readv", _python(_PTRACE + """
buffer = ctypes.create_string_buffer(200)
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
local = Piece(ctypes.addressof(buffer), 200)
remote = Piece(int(os.environ["ADDRESS"]), 200)
assert libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) > 0
assert os.environ["TOKEN"].encode() in buffer.raw
""")),
    Way("ptrace", _python(_PTRACE + """
assert libc.ptrace(16, pid, None, None) == 0  # PTRACE_ATTACH
os.waitpid(pid, 0x40000000)
assert libc.ptrace(17, pid, None, None) == 0  # PTRACE_DETACH
""")),
    Way("gdb", "gdb -batch -p $VICTIM -ex 'info proc' | grep -q 'process '", False),
    Way("strace", "timeout 1 strace -p $VICTIM 2>&1 | grep -q attached", False),
    Way("a descriptor of its own taken out", _python(_SYSCALL + """
fd = call(434, int(os.environ["VICTIM"]), 0)  # pidfd_open
assert fd >= 0
assert call(438, fd, 0, 0) >= 0  # pidfd_getfd
""")),
    Way("its root folder", 'cat /proc/$VICTIM/root"$STATE"/chat/secret'),
    Way("its working folder", "ls /proc/$VICTIM/cwd/"),
    Way("its open files", "ls /proc/$VICTIM/fd/ | grep -q 0"),
    Way("init's root folder", 'cat /proc/1/root"$STATE"/chat/secret', False),
    Way("a signal", "kill -0 $VICTIM"),
    Way("the end of the gateway", "kill -9 $VICTIM", False),
    Way("stopping the gateway", "kill -STOP $VICTIM && kill -CONT $VICTIM"),
    Way("a signal through a descriptor", _python("""
import os, signal
signal.pidfd_send_signal(os.pidfd_open(int(os.environ["VICTIM"])), 0)
""")),
    Way("its limits", "prlimit --pid $VICTIM --core=0"),
    Way("its priority", "renice -n 1 -p $VICTIM"),
    Way("its processors", "taskset -pc 0 $VICTIM"),
    Way("nsenter to the gateway", "nsenter -t $VICTIM -m cat \"$STATE/chat/secret\"", False),
    Way("nsenter to init", 'nsenter -t 1 -a cat "$STATE/chat/secret"', False),
    Way("setns by pidfd", _python(_SYSCALL + """
fd = call(434, int(os.environ["VICTIM"]), 0)
assert call(308, fd, 0x20000) == 0 or call(268, fd, 0x20000) == 0
"""), False),
    # -- files of others ---------------------------------------------------------------------------
    Way("the storage folder", 'cat "$STATE/chat/secret"'),
    Way("the storage folder's list", 'ls "$STATE/chat" | grep -q secret'),
    Way("another workspace", 'cat "$OTHER/secret"'),
    Way("another workspace by ..", "cat ../other/secret"),
    Way("writing to another workspace", 'echo x > "$OTHER/written"'),
    Way("a symbolic link to a file", 'ln -s "$OTHER/secret" link1 && cat link1'),
    Way("a symbolic link to a folder", 'ln -s "$OTHER" link2 && cat link2/secret'),
    Way("a symbolic link planted before", "cat planted/secret"),
    Way("a hard link", 'ln "$OTHER/secret" hard && cat hard'),
    Way("moving another's folder here", 'mv "$OTHER/movable" ./moved'),
    Way("another's transcript", 'cat "$CONFIG/projects/other/one.jsonl"'),
    Way("the list of transcripts", 'ls "$CONFIG/projects" | grep -q other'),
    Way("transcripts by the CLI's own folder", 'cat "$CLAUDE_CONFIG_DIR"/projects/other/*', False),
    Way("a line in another's transcript", 'echo x >> "$CONFIG/projects/other/added.jsonl"'),
    Way("another child's home", 'cat "$STATE"/agents/1-other/home/secret'),
    Way("temporary files of others", 'cat "$TEMPORARY/secret"'),
    Way("a hook for later children",
        'test -e "$CONFIG/projects" && echo "{}" > "$CONFIG/settings.json"'),
    Way("words for later children", 'test -e "$CONFIG/projects" && echo x >> "$CONFIG/CLAUDE.md"'),
    Way("the operator's shell", 'echo x >> "$OPERATOR/.bashrc"'),
    Way("the operator's SSH key", 'cat "$OPERATOR/.ssh/id_ed25519"'),
    Way("a key to log in with", 'echo x >> "$OPERATOR/.ssh/authorized_keys"'),
    Way("the gateway's settings file", 'cat "$SETTINGS"'),
    Way("the gateway's TLS key", 'cat "$TLS_KEY"'),
    Way("code of the gateway", 'echo x >> "$PACKAGE/planted.pth"'),
    Way("the launcher", 'test -s "$LAUNCHER" && echo "#" >> "$LAUNCHER"', False),
    Way("a crontab", 'echo "0 0 1 1 * true" > /etc/cron.d/ccapi-test', False),
    Way("a user's crontab", 'echo x > /var/spool/cron/ccapi-test', False),
    Way("a library for everything", "echo x >> /etc/ld.so.preload", False),
    Way("a program for all users", "echo x > /usr/local/bin/ccapi-test", False),
    Way("hashed passwords", 'test -n "$(cat /etc/shadow)"', False),
    Way("a file by its handle", _python(_SYSCALL + """
assert call(304, -100, b"\\0" * 64, 0) >= 0 or ctypes.get_errno() not in (1, 38)
"""), False),
    # -- sockets -----------------------------------------------------------------------------------
    Way("a Unix socket like Docker's", _python(_ASK + """
s = socket.socket(socket.AF_UNIX); s.connect(os.environ["SOCKET"]); ask(s)
""")),
    Way("an abstract Unix socket", _python(_ASK + """
s = socket.socket(socket.AF_UNIX); s.connect("\\0" + os.environ["ABSTRACT"]); ask(s)
""")),
    Way("a port on loopback", _python(_ASK + """
ask(socket.create_connection(("127.0.0.1", int(os.environ["PORT"])), 3))
""")),
    Way("that port by MPTCP", _python(_ASK + """
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
s.connect(("127.0.0.1", int(os.environ["PORT"]))); ask(s)
""")),
    Way("that port by TCP Fast Open", _python("""
import os, socket
s = socket.socket()
s.sendto(b"GET / HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n", 0x20000000,
         ("127.0.0.1", int(os.environ["PORT"])))
s.settimeout(3)
assert os.environ["TOKEN"].encode() in s.recv(65536)
""")),
    Way("that port by IPv6", _python(_ASK + """
s = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
s.connect(("::ffff:127.0.0.1", int(os.environ["PORT"]))); ask(s)
""")),
    Way("the gateway's port, with no key", _GET + "-x '' http://127.0.0.1:$GATEWAY/v1/models"),
    *(
        Way(f"the gateway's port by proxy as {host}", f"{_GET} {how} http://{host}:$GATEWAY/health",
            False)
        for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "127.1",
                     "2130706433", "127.0.0.1.nip.io", "$ADDRESS_OF_MACHINE", "localhost.")
        for how in ('-x "$HTTP_PROXY"', '-p -x "$HTTP_PROXY"')
    ),
    Way("a cloud's metadata by proxy", _GET + '-x "$HTTP_PROXY" http://169.254.169.254/', False),
    Way("the proxy as a server of its own", _GET + '-x "$HTTP_PROXY" "$HTTP_PROXY/"', False),
    Way("datagrams", _python("""
import os, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3)
s.sendto(b"?", ("127.0.0.1", int(os.environ["DATAGRAMS"])))
assert os.environ["TOKEN"].encode() in s.recv(1000)
""")),
    Way("raw packets", _python("import socket; socket.socket(17, 3, 0x300)"), False),
    Way("the hypervisor", _python("import socket; socket.socket(40, 1)"), False),
    Way("io_uring", _python(_SYSCALL + "assert call(425, 1, bytes(120)) >= 0"), False),
    Way("the kernel's keys", _python(_SYSCALL + """
nr = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
assert call(nr, 0, -3, 1) >= 0  # the session's keyring
"""), False),
    Way("shared memory (System V)", _python(_PTRACE + """
libc.shmat.restype = ctypes.c_void_p
at = libc.shmat(int(os.environ["SHARED"]), None, 0o10000)
assert at not in (None, ctypes.c_void_p(-1).value)
assert os.environ["TOKEN"].encode() in ctypes.string_at(at, 100)
""")),
    Way("shared memory (POSIX)", 'cat "/dev/shm/$TOKEN"'),
    # -- the kernel --------------------------------------------------------------------------------
    Way("mounting", "mkdir -p m && mount -t tmpfs none m", False),
    Way("mounting over what hides", 'mkdir -p m && mount --bind / m && cat "m$STATE/chat/secret"',
        False),
    Way("mounting in a namespace of one's own",
        'mkdir -p m && unshare -Urm sh -c \'mount --rbind / m && cat "m$STATE/chat/secret"\'',
        False),
    Way("a new /proc in a namespace of one's own",
        "mkdir -p p && unshare -Urmp sh -c 'mount -t proc p p && ls p/$VICTIM'", False),
    Way("taking away what hides", 'umount "$STATE" && cat "$STATE/chat/secret"', False),
    Way("chroot", "chroot /proc/1/root cat \"$STATE/chat/secret\"", False),
    Way("memory of the machine", "head -c 1 /dev/mem | grep -q .", False),
    Way("a device made", "mknod disk b 8 0 || mknod disk b 254 0", False),
    Way("the machine's disks", "head -c 1 /dev/sda /dev/vda /dev/nvme0n1 | grep -q .", False),
    Way("settings of the kernel",
        "cat /proc/sys/kernel/core_pattern > p && cat p > /proc/sys/kernel/core_pattern", False),
    Way("anything of the kernel's to write to",
        "for f in $(find /proc -maxdepth 5 -path '/proc/[0-9]*' -prune -o -type f -writable "
        "-print); do [ $f = /proc/sysrq-trigger ] || : >> $f && exit 0; done; exit 1", False),
    Way("the kernel's emergency keys", "echo h > /proc/sysrq-trigger", False),
    Way("control groups", "mkdir /sys/fs/cgroup/ccapi-test", False),
    Way("modules", "modprobe dummy || insmod /nowhere.ko", False),
    Way("the clock", "date -s '2020-01-01'", False),
    Way("another user", "setpriv --reuid 1 --clear-groups true", False),
    Way("set-user-id", "cp /bin/sh ./sh2 && chmod 4755 ./sh2 && sudo -n true", False),
    Way("the log of the kernel", "dmesg | grep -q .", False),
    Way("the terminal", "echo > /dev/tty", False),
    # -- what is given -----------------------------------------------------------------------------
    Way("settings of the gateway in the environment", "env | grep -q CLAUDE_CODE__"),
    Way("keys of the gateway in the environment", 'env | grep -v ^TOKEN= | grep -q "$TOKEN[.]key"'),
)  # fmt: skip


def script_of(ways: Iterable[Way], variables: Mapping[str, str]) -> str:
    """A shell script that tries them all, and says ``OUT <name>`` of each that leads out."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    for way in ways:
        name, script = shlex.quote(f"OUT {way.name}"), shlex.quote(way.script)
        lines.append(f"timeout 10 sh -c {script} </dev/null >/dev/null 2>&1 && echo {name}")
    lines.append("echo END")
    return "\n".join(lines)
