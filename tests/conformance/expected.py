"""What the competent model makes the checks of several clients see."""

from __future__ import annotations

from typing import Any

JOKE = {
    "setup": "Why did the cat sit on the computer?",
    "punchline": "Because it wanted to keep an eye on the mouse!",
    "laughs": 5,
}
COUNTED = " ".join(map(str, range(1, 21)))
HELLO = "Hello! How are you today?"
PICTURE = "I see 1 image, small and plain."
TWO_RESULTS = "The tool says: Sunny in Rome.\nThe tool says: Noon in Rome."
"""After one step for each of the two."""
PARALLEL_RESULTS = "The tool says: Sunny in Paris.\nThe tool says: Sunny in London."

WEATHER: list[Any] = ["get_weather", {"city": "Rome"}]
TIME: list[Any] = ["get_time", {"city": "Rome"}]
BOTH: list[Any] = [["get_weather", {"city": "Paris"}], ["get_weather", {"city": "London"}]]

AI_SDK_STEPS: list[Any] = [
    ["tool-calls", [WEATHER], ["Sunny in Rome."]],
    ["tool-calls", [TIME], ["Noon in Rome."]],
    ["stop", [], []],
]

OBEYED = {"none": [], "required": 1, "named": ["get_time"]}
TOOL_CHOICE = {"sonnet": OBEYED, "claude-sonnet-5": OBEYED}
"""The first is asked for a call in words, the second forced."""
