"""A line that a person writes at a terminal: keys in, messages out, and what to show meanwhile.

Knows: the few keys that edit the end of a line, and bracketed paste (xterm's "Bracketed Paste
Mode"): a pasted text is one piece, however many lines it has. Refuses to know: file descriptors,
and how the terminal is set (`transport.client.line_input`).

The terminal's own line editing (canonical mode) keeps 4,095 bytes of a line, and takes each line of
a pasted text for one of its own.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

PASTE_BEGINS, PASTE_ENDS = "\x1b[200~", "\x1b[201~"
ASK_FOR_PASTE, REFUSE_PASTE = b"\x1b[?2004h", b"\x1b[?2004l"
"""What asks a terminal to say where a pasted text begins and ends, and what takes that back."""

END, ERASE, KILL, ERASE_WORD = "\x04", "\x7f\x08", "\x15", "\x17"
"""Ctrl-D, the erase keys, Ctrl-U, Ctrl-W."""

SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|[^\[O])", re.DOTALL)
LONGEST_SEQUENCE = 32
WORDS = re.compile(r"[^\x00-\x1f\x7f]+|\t")
"""Text, up to the next key that does something."""

SHOWN = 1000
"""Characters of a piece that are shown; of a longer one (which was pasted) it is said how long it
is."""


class LineEditor:
    """`broadcast` it what comes, then `next`. With `echo` False nothing is to be shown."""

    def __init__(self, *, echo: bool) -> None:
        self._echo = echo
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""  # came, and was not looked at
        self._text: list[str] = []  # of the message that is being written, in pieces
        self._paste: list[str] | None = None  # that has begun and not ended
        self._out: list[str] = []
        self.size = 0
        """Characters that are held."""

    def __repr__(self) -> str:
        return f"<LineEditor {self.size} characters>"

    def feed(self, data: bytes) -> None:
        more = self._decoder.decode(data)
        self._pending += more
        self.size += len(more)

    def next(self, *, ended: bool = False) -> tuple[str | None] | None:
        """The next message, in a tuple; (None,) where the person says that there will be no more;
        None while there is no whole one. `ended`: nothing will follow, so that what was begun is
        whole. What was written behind a message stays for the next call."""
        while self._pending:
            before = len(self._pending)
            found = self._take()
            if found is not None:
                return found
            if len(self._pending) == before:
                break  # the rest of a sequence is on its way
        if ended and (self._text or self._paste):
            self._text += self._paste or []
            return self._finish()
        return (None,) if ended else None

    def take_shown(self) -> bytes:
        """What is to be written to the terminal now."""
        shown = "".join(self._out)
        self._out.clear()
        return shown.encode("utf-8", "replace") if self._echo else b""

    def forget(self) -> None:
        """Drop all that was written."""
        self._pending, self._paste, self.size = "", None, 0
        self._text.clear()
        self._decoder.reset()

    # -- keys --------------------------------------------------------------------------------------

    def _take(self) -> tuple[str | None] | None:
        """Look at what came first. Returns the message that is whole by that."""
        if self._paste is not None:
            self._go_on_pasting()
            return None
        if words := WORDS.match(self._pending):
            self._advance(words.end())
            self._write(words[0])
            return None
        key = self._pending[0]
        if key == "\x1b":
            self._take_sequence()
            return None
        self._advance(1)
        if key in "\r\n":
            self._out.append("\n")
            return self._finish()
        if key == END and not self._text:
            self.size = len(self._pending)
            return (None,)
        if key in ERASE:
            self._erase(1)
        elif key == KILL:
            self._erase(len("".join(self._text).rpartition("\n")[2]))
        elif key == ERASE_WORD:
            line = "".join(self._text).rpartition("\n")[2]
            before, space, _ = line.rstrip().rpartition(" ")
            self._erase(len(line) - len(before + space))
        return None

    def _take_sequence(self) -> None:
        """A key that is none of the letters, or the beginning of a pasted text."""
        if sequence := SEQUENCE.match(self._pending):
            self._advance(sequence.end())
            if sequence[0] == PASTE_BEGINS:
                self._paste = []
        elif len(self._pending) > LONGEST_SEQUENCE:
            self._advance(1)

    def _go_on_pasting(self) -> None:
        assert self._paste is not None
        whole, ends, rest = self._pending.partition(PASTE_ENDS)
        if not ends:  # its first characters may be there
            keep = len(PASTE_ENDS) - 1
            whole, rest = self._pending[:-keep], self._pending[-keep:]
        self._paste.append(whole)
        self._pending = rest
        if ends:
            text = "".join(self._paste).replace("\r\n", "\n").replace("\r", "\n")
            self._paste = None
            self._write(text)

    def _advance(self, count: int) -> None:
        self._pending = self._pending[count:]

    # -- the message -------------------------------------------------------------------------------

    def _write(self, text: str) -> None:
        self._text.append(text)
        lines = text.count("\n") + 1
        if len(text) > SHOWN:
            beside = f", {lines} lines" if lines > 1 else ""
            self._out.append(f"[{len(text):,} characters{beside}]")
        else:
            self._out.append("".join(map(_shown, text)))

    def _finish(self) -> tuple[str]:
        text = "".join(self._text)
        self._text.clear()
        self._paste = None
        self.size = len(self._pending)
        return (text.rstrip("\n"),)

    def _erase(self, count: int) -> None:
        """Take back the last characters. What cannot be taken back on the screen with certainty
        (a line that is wrapped, or was not shown whole) is written again below."""
        text = "".join(self._text)
        if not text or not count:
            return
        gone, kept = text[len(text) - count :], text[: len(text) - count]
        while kept and gone and unicodedata.combining(gone[0]):
            kept, gone = kept[:-1], kept[-1] + gone
        self._text[:] = [kept] if kept else []
        self.size = len(kept) + len(self._pending)
        line = text.rpartition("\n")[2]
        if len(line) > SHOWN or "\n" in gone or "\t" in gone or _cells(line) > 70:
            last = kept.rpartition("\n")[2]
            self._out.append("\n" + "".join(map(_shown, last[-60:])))
        else:
            self._out.append("\b \b" * _cells(gone))


def _shown(sign: str) -> str:
    return sign if sign in "\n\t" or sign.isprintable() else "\N{REPLACEMENT CHARACTER}"


def _cells(text: str) -> int:
    """How many columns of a terminal it takes."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        for sign in text
    )
