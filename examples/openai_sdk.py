"""A conversation through the openai SDK: python examples/openai_sdk.py [BASE_URL]

Needs a running gateway (ccapi serve --demo) and the openai package.
"""

import sys

from openai import OpenAI

base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1"
client = OpenAI(base_url=base_url, api_key="unused")

first = client.chat.completions.create(
    model="sonnet", messages=[{"role": "user", "content": "My name is Ada."}]
)
print(first.choices[0].message.content)

stream = client.chat.completions.create(
    model="sonnet",
    messages=[{"role": "user", "content": "What did I say first?"}],
    stream=True,
    extra_body={"conversation_id": first.to_dict()["conversation_id"]},
)
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="", flush=True)
print()
