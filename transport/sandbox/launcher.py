"""The first program of an agent's child: it gives up what an agent must not have, then runs it.

Knows: how a child without a network hands its listening sockets to the gateway, and Landlock.
Refuses to know: settings, and why something is given up (`sandbox` decides).

It runs as a program of its own with nothing but the standard library, and imports as little as it
can, since every agent's start waits for it (`posix`: to import `os` takes 2 ms more): ``python -I
-S -E sandbox_launcher.py CONTROL PORTS RULES COMMAND...``

- ``CONTROL``: descriptor of a Unix socket to the gateway. It gets one byte and the listening
  sockets: the proxy's first, then one for each of the ports.
- ``PORTS``: separated by commas; on these ports of 127.0.0.1 the child finds what the gateway
  connects it to. ``api``: a port that is free, which the child receives as the API's.
- ``RULES``: ``-``, or Landlock's: lines of a letter and a value, separated by NUL, in hexadecimal.
  ``r`` a path to read, ``w`` a path to write, ``p`` a TCP port to connect to (beside those above),
  ``f`` the filter for system calls (in hexadecimal again), ``o`` a process that must be out of
  reach.

Sources: landlock(7) and linux/landlock.h, capabilities(7), seccomp(2).
"""

import _socket
import posix
import sys

API = "api"

LANDLOCK_ABI = 6
"""The first one that keeps signals and abstract sockets within the sandbox (Linux 6.12)."""

_PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS = 22, 24, 28, 38
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every architecture

# -- Landlock --------------------------------------------------------------------------------------

_READ_FILE, _WRITE_FILE, _READ_DIR, _EXECUTE = 1 << 2, 1 << 1, 1 << 3, 1 << 0
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
_OF_FILES = _READ_FILE | _WRITE_FILE | _EXECUTE | _TRUNCATE | _IOCTL_DEVICE
_ALL_FILES = (1 << 16) - 1
_MAKE_CHARACTER_DEVICE, _MAKE_BLOCK_DEVICE = 1 << 6, 1 << 11
_MAY_READ = _READ_FILE | _READ_DIR | _EXECUTE
_MAY_WRITE = _ALL_FILES & ~(_MAKE_CHARACTER_DEVICE | _MAKE_BLOCK_DEVICE | _IOCTL_DEVICE)
_CONNECT_TCP = 1 << 1
_ABSTRACT_SOCKETS, _SIGNALS = 1 << 0, 1 << 1


def landlock_abi() -> int:
    """The kernel's version of Landlock; below 1 where there is none."""
    import ctypes

    return int(ctypes.CDLL(None).syscall(_CREATE, None, 0, 1))


class Landlock:
    """Confines this process, for good."""

    def __init__(self) -> None:
        import ctypes  # only where it is used: the start of a child waits for it
        import struct

        self._ctypes, self._pack = ctypes, struct.pack
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._check(self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")

    def _check(self, result: int, what: str) -> None:
        if result < 0:
            fail(f"{what}: {posix.strerror(self._ctypes.get_errno())}")

    def restrict(self, read: list[str], write: list[str], ports: list[int]) -> None:
        """Put this process into a sandbox within the one it is in."""
        attributes = self._pack("=QQQ", _ALL_FILES, _CONNECT_TCP, _ABSTRACT_SOCKETS | _SIGNALS)
        ruleset = self._libc.syscall(_CREATE, attributes, len(attributes), 0)
        self._check(ruleset, "landlock_create_ruleset")
        for paths, access in ((read, _MAY_READ), (write, _MAY_WRITE)):
            for path in paths:
                self._allow_path(ruleset, path, access)
        for port in ports:
            rule = self._pack("=QQ", _CONNECT_TCP, port)
            self._check(self._libc.syscall(_ADD, ruleset, 2, rule, 0), "landlock_add_rule")
        self._check(self._libc.syscall(_RESTRICT, ruleset, 0), "landlock_restrict_self")
        posix.close(ruleset)

    def _allow_path(self, ruleset: int, path: str, access: int) -> None:
        try:
            descriptor = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
        except FileNotFoundError:
            return
        if posix.stat(path).st_mode & 0o170000 != 0o040000:  # no folder
            access &= _OF_FILES
        if path.startswith("/dev/"):
            access |= _IOCTL_DEVICE
        rule = self._pack("=Qi", access, descriptor)
        self._check(self._libc.syscall(_ADD, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
        posix.close(descriptor)

    def drop_capabilities(self) -> None:
        """Root, too, is then a user like any other, whatever it executes."""
        if posix.geteuid():
            return
        for capability in range(64):
            if self._libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
                break  # the last one was before it
        # SECBIT_NOROOT and NO_SETUID_FIXUP, both locked.
        self._check(self._libc.prctl(_PR_SET_SECUREBITS, 0xF, 0, 0, 0), "securebits")
        header = self._pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
        self._check(self._libc.capset(header, bytes(24)), "capset")

    def filter_calls(self, code: bytes) -> None:
        """Load a seccomp program."""
        kept = self._ctypes.create_string_buffer(code, len(code))
        program = self._pack("=HxxxxxxQ", len(code) // 8, self._ctypes.addressof(kept))
        self._check(self._libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0), "seccomp")


def _fork_reaper(control: _socket.socket) -> None:
    """Leave a process behind that ends the whole sandbox when the gateway closes its socket, or is
    gone: also what has left the child's process group.

    It stands in the outer of two sandboxes. So what runs in the inner one cannot signal it, and its
    own signals reach these two and nothing else.
    """
    if posix.fork():
        return
    try:
        posix.setsid()
        for descriptor in (0, 1, 2):
            posix.close(descriptor)
        while control.recv(64):
            pass
        for _ in range(3):
            # Every process that it may signal. One pass misses none: nothing forks meanwhile.
            posix.kill(-1, 9)
    finally:
        posix._exit(0)  # noqa: SLF001 (its documented name)


def _prove_confined(outside: int) -> None:
    """The reaper's signal to all would be a disaster outside of a sandbox, so this is tried."""
    try:
        posix.kill(outside, 0)
    except PermissionError:
        return
    fail("Landlock does not hold signals back")


def _confine(rules: str, reached: list[int], control: _socket.socket) -> None:
    given: dict[str, list[str]] = {letter: [] for letter in "rwpfo"}
    for line in bytes.fromhex(rules).decode("utf-8", "surrogateescape").split("\0"):
        given[line[0]].append(line[2:])
    landlock = Landlock()
    if landlock_abi() < LANDLOCK_ABI:
        fail(f"Landlock ABI {LANDLOCK_ABI} is needed")
    ports = [*map(int, given["p"]), *reached]
    landlock.drop_capabilities()
    landlock.restrict(given["r"], given["w"], ports)
    _prove_confined(int(given["o"][0]))
    _fork_reaper(control)
    landlock.restrict(given["r"], given["w"], ports)
    landlock.filter_calls(bytes.fromhex(given["f"][0]))


# -- the order of things ---------------------------------------------------------------------------


def fail(why: str) -> None:
    sys.exit(f"the sandbox could not be set up: {why}")


def _listen(port: int) -> _socket.socket:
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        fail(f"port {port}: {error.strerror}")
    listener.listen(128)
    return listener


def main(number: str, forwards: str, rules: str, *command: str) -> None:
    control = _socket.socket(fileno=int(number))
    posix.set_inheritable(control.fileno(), False)
    forwarded = [port for port in forwards.split(",") if port]
    listeners = [_listen(0), *(_listen(0 if port == API else int(port)) for port in forwarded)]
    sent = b"".join(each.fileno().to_bytes(4, sys.byteorder) for each in listeners)
    control.sendmsg([b"1"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, sent)])
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    env = dict(posix.environ)
    for name in (b"HTTP_PROXY", b"HTTPS_PROXY", b"ALL_PROXY"):
        env[name] = env[name.lower()] = b"http://127.0.0.1:%d" % ports[0]
    if API in forwarded:
        env[b"ANTHROPIC_BASE_URL"] = b"http://127.0.0.1:%d" % ports[1 + forwarded.index(API)]
    if rules != "-":
        _confine(rules, ports, control)
    control.close()
    try:
        posix.execve(command[0], command, env)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(*sys.argv[1:])
