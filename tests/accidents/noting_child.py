"""The demo CLI, which also notes every prompt that it answers: `noting_child.py FILE FLAGS…`.

A line for each, with the prompt's mark. So it is seen what children were asked, whatever the
gateway's own log says.
"""

from __future__ import annotations

import os
import re
import sys

from ccapi.transport.demo_cli import __main__ as demo_cli
from ccapi.transport.demo_cli import answers

if __name__ == "__main__":
    notes = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    answer = answers.answer

    def noting(prompt: answers.Prompt) -> str:
        for mark in re.findall(r"mark-[0-9a-f]+", prompt.text)[:1]:
            os.write(notes, f"{mark}\n".encode())
        return answer(prompt)

    answers.answer = noting
    demo_cli.main()
