"""Any message, record and item that a log may hold."""

from __future__ import annotations

import base64

from hypothesis import strategies as st

from ccapi.schemas.log.codec import LARGE
from ccapi.schemas.log.messages import ExactMessage
from ccapi.schemas.log.records import (
    Record,
    Rewound,
    Said,
    TurnEnd,
    TurnFailed,
    TurnLost,
    TurnStart,
)
from ccapi.schemas.message import (
    Approval,
    Citations,
    Document,
    Image,
    RedactedThinking,
    ServerBlock,
    Thinking,
    ToolCall,
    ToolForm,
    ToolResult,
    ToolRound,
)
from ccapi.schemas.search import Cited, Source, WebPage
from ccapi.schemas.turn import ResumePoint, Setup, Tool, Usage
from ccapi.schemas.turn_items import (
    ActivityDelta,
    ActivityEnded,
    ActivityStarted,
    ListedTool,
    ReasoningDelta,
    Refused,
    SearchEnded,
    SearchStarted,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    ToolsListed,
)

# Lone surrogates too: JSON allows them.
texts = st.text(st.characters(exclude_categories=()), max_size=30)
small = st.integers(0, 2**40)
forms = st.none() | st.builds(ToolForm, texts, st.none() | texts, st.booleans(), st.none() | texts)
approvals = st.none() | st.builds(Approval, texts, st.booleans(), st.none() | texts)
data = st.one_of(
    texts,
    st.integers(0, 255).map(lambda n: base64.b64encode(bytes([n]) * LARGE).decode()),
    st.just("A" * (LARGE + 1)),  # no base64
    st.just("A" * LARGE + "AB=="),  # not in the usual way
)
images = st.builds(Image, texts, data)
documents = st.builds(Document, texts, data, st.none() | texts, context=st.none() | texts)
calls = st.builds(ToolCall, texts, texts, texts, form=forms)
results = st.builds(
    ToolResult,
    texts,
    st.lists(texts | images | documents, max_size=3).map(tuple),
    st.booleans(),
    custom=st.booleans(),
    approval=approvals,
)
rounds = st.builds(
    ToolRound, st.lists(calls, max_size=2).map(tuple), st.lists(results, max_size=2).map(tuple)
)
thinking = st.builds(Thinking, texts, texts) | st.builds(RedactedThinking, texts)
searches = st.builds(ServerBlock, texts, st.booleans()) | st.builds(Citations, texts)
blocks = texts | images | documents | calls | results | thinking | rounds | searches
messages = st.builds(
    ExactMessage,
    st.sampled_from(["user", "assistant"]),
    st.lists(blocks, min_size=1, max_size=4).map(tuple),
    st.none() | texts,
)
items = st.one_of(
    st.builds(TextDelta, texts),
    st.builds(ReasoningDelta, texts),
    st.builds(ToolCallStarted, small, texts, texts, forms),
    st.builds(ToolCallDelta, small, texts),
    st.builds(Refused, texts),
    st.builds(ActivityStarted, texts, texts, forms, st.none() | texts),
    st.builds(
        ToolsListed,
        texts,
        st.lists(st.builds(ListedTool, texts, texts, texts, st.booleans()), max_size=2).map(tuple),
        st.none() | texts,
    ),
    st.builds(ActivityDelta, texts, texts),
    st.builds(ActivityEnded, texts, texts, st.booleans()),
    st.builds(SearchStarted, texts, texts),
    st.builds(
        SearchEnded,
        texts,
        st.lists(st.builds(WebPage, texts, texts, st.none() | texts, texts), max_size=2).map(tuple),
        st.none() | texts,
    ),
    st.builds(
        Cited,
        small,
        small,
        st.lists(st.builds(Source, texts, texts, texts, texts), max_size=2).map(tuple),
        small,
    ),
)
usages = st.builds(Usage, small, small, small, small, st.floats(0, 1e6, allow_nan=False), small)
records: st.SearchStrategy[Record] = st.one_of(
    st.builds(TurnStart, texts, texts, texts, small),
    st.builds(Said, messages),
    st.builds(
        TurnEnd,
        texts,
        st.sampled_from(["stop", "length", "content_filter", "tool_calls", "interrupted"]),
        usages,
        st.none() | st.lists(items, max_size=4).map(tuple),
        st.none() | st.builds(ResumePoint, texts, st.none() | texts),
        st.booleans(),
    ),
    st.builds(TurnFailed, texts, texts, texts),
    st.builds(TurnLost, texts, texts),
    st.builds(Rewound, small, small, small),
)
tools = st.builds(Tool, texts, texts, texts, st.booleans(), forms)
setups = st.builds(
    Setup,
    texts,
    texts,
    st.sampled_from(["chat", "agent"]),
    st.lists(tools, max_size=2).map(tuple),
    st.none() | texts,
    texts,
)
