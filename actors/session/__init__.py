"""The session of one conversation: a pure state machine, and the actor that runs it.

**Theory of operation.** No other page is needed to understand `machine.py`.

A *conversation* is what a client goes on with: a list of messages. A *child* is one process of the
Claude Code CLI. It reads JSON lines on stdin and writes JSON lines on stdout, and holds a copy of
the conversation. A *turn* is one request of a client: new messages in, an answer out. The *session*
connects them: it has one conversation, a queue of turns, and at most one child.

`Machine` (machine.py) decides everything and does nothing. `advance(event, now)` takes one event
and returns a list of actions. It knows no clock, no task and no process. The actor (actor.py) is
the shell around it: it turns messages, frames of the child and the timer into events, and performs
the actions in order. So a test is a list of events and a list of expected actions.


Phases
======

    ASLEEP ──StartTurn, Warm──> WAKING ──ChildReady──> BUSY <──────StartTurn────── IDLE
      ^                                                │ ││                         ^
      │                                                │ │└──────TurnResult─────────┤
      │                        AWAITING_TOOLS <──calls─┘ │                          │
      │                         └──results──> BUSY       └──Interrupt─> INTERRUPTING┘ rewound
      │                                                                             │
      └──ChildGone── STOPPING <──Retire or Kill── IDLE, BUSY, AWAITING_TOOLS, INTERRUPTING

    ASLEEP          no child, nothing to do
    WAKING          the pool looks for a child
    IDLE            a child that waits for a prompt
    BUSY            a child that works on the turn
    AWAITING_TOOLS  a child in the middle of a turn, waiting for the results of the client's tools
    INTERRUPTING    a child that rewinds: it takes the last prompt out of its history
    RELEASING       a child that is cut back, or emptied, so that another conversation can have it
    STOPPING        a child that was stopped (Retire or Kill) and has not exited yet
    BACKOFF         no child, and none may start: the restart budget is spent
    CLOSED          the end

All transitions, with what causes them (tests/support/machine_world.py checks this table):

    ASLEEP -> WAKING                a turn, or Warm
    ASLEEP -> CLOSED                Close, or no client used it for long (IDLE_EXPIRY)
    WAKING -> BUSY                  ChildReady, with a turn
    WAKING -> IDLE                  ChildReady after Warm, without a turn
    WAKING -> WAKING                WakeFailed: no transcript could be written; without one now
    WAKING -> ASLEEP                WakeFailed; or the turn ended first, and CancelWake was returned
    WAKING -> CLOSED                Close
    IDLE -> BUSY                    a turn that the child can take
    IDLE -> INTERRUPTING            a turn that replaces the last one (`back_to`)
    IDLE -> RELEASING               GiveWay, Close, a turn with another setup, where another
                                    conversation may have the child
    IDLE -> STOPPING                the same, where none may; IDLE_LIMIT; a failed initialize
    BUSY -> IDLE                    the turn is complete
    BUSY -> AWAITING_TOOLS          the model has called the client's tools
    BUSY -> INTERRUPTING            the turn ended early, or its answer was cut
    BUSY -> STOPPING                the same, where a rewind is impossible; also TokenLimit
    BUSY -> WAKING                  the child died before it did anything: a new child gets the turn
    AWAITING_TOOLS -> BUSY          a turn that brings the results, and nothing else
    AWAITING_TOOLS -> INTERRUPTING  a turn that brings more; TOOL_TIMEOUT; a turn with `back_to`
    AWAITING_TOOLS -> RELEASING     as IDLE
    AWAITING_TOOLS -> STOPPING      as IDLE, without the limit; a result; or as BUSY
    INTERRUPTING -> IDLE            rewound, and no turn waits
    INTERRUPTING -> BUSY            rewound, and a turn waits
    INTERRUPTING -> STOPPING        the rewind failed or took too long, or Close
    RELEASING -> ASLEEP             the child is cut back: HandOver
    RELEASING -> WAKING             the same, and a turn waits
    RELEASING -> CLOSED             the same, after Close
    RELEASING -> STOPPING           the child would not be cut back, or took too long
    STOPPING -> ASLEEP              ChildGone
    STOPPING -> WAKING              ChildGone, and a turn waits
    STOPPING -> CLOSED              ChildGone after Close
    BACKOFF -> ASLEEP               the budget has room again (BACKOFF_OVER)
    BACKOFF -> CLOSED               Close

A child may die in any phase that has one:

    IDLE -> ASLEEP, BUSY -> ASLEEP, AWAITING_TOOLS -> ASLEEP, INTERRUPTING -> ASLEEP,
    RELEASING -> ASLEEP
    INTERRUPTING -> WAKING, RELEASING -> WAKING         a turn was waiting
    RELEASING -> CLOSED                                 after Close
    IDLE -> BACKOFF, BUSY -> BACKOFF, AWAITING_TOOLS -> BACKOFF, INTERRUPTING -> BACKOFF,
    RELEASING -> BACKOFF, STOPPING -> BACKOFF           the restart budget is spent


Invariants
==========

The code names an invariant by its number where it keeps it. `World`, in
tests/support/machine_world.py, names it where it checks it: at every action of thousands of random
scripts (tests/actors/session/test_machine_properties.py), with children that keep to the protocol
and with children that write anything.

 1. Every accepted turn ends exactly once: one `Started`, later one `End`. A refused turn gets both
    at once. When the session itself ends, the shell ends what is left.
 2. A turn delivers nothing before its `Started` and nothing after its `End`.
 3. A session has at most one child, and looks for at most one, and not for one while it has one.
 4. The phase says what there is. A child: IDLE, BUSY, AWAITING_TOOLS, INTERRUPTING, RELEASING,
    STOPPING. A search for one: WAKING. A turn under way: BUSY always, WAKING unless Warm woke the
    session; STOPPING, RELEASING and INTERRUPTING where it waits for that to be over; elsewhere
    never.
 5. A child that was stopped gets nothing more: no `Write`, no second `Retire` or `Kill`.
 6. A prompt is at-most-once. See below for the three exceptions, which cannot repeat an effect.
 7. Only a turn with an answer changes the memory (an answer that a person stopped and keeps is
    one). A turn that failed leaves no trace, in the memory or in a child.
 8. What the client received is what the memory holds; and what a child in IDLE holds is a
    beginning of that: the rest is in `memory.seed`, and the child gets it with the next turn.
 9. No child starts while the restart budget is spent.
10. Time alone ends every turn: `deadline` is finite while a turn is open, and a timer that was
    handled is not due again at once.
11. After `Close` no turn is open, the child goes, and CLOSED follows.
12. An event that fits no phase raises `UnexpectedEvent` and changes nothing, unless late.py lists
    it as legitimately late, with the reason. (The shell of a running gateway logs and drops it.)
13. A child is handed over only after it has said that it was cut back, and what it then holds is
    what its `ChildState` says. So no line of one conversation is written while a child holds
    another's.
14. A tool of an MCP server is called only while the turn that wants it runs, and once. What a call
    brings later reaches no child.


One turn, from start to end
===========================

A client sends ``Hello!`` to a new conversation. Lines marked ``>`` go to the child's stdin, ``<``
come from its stdout; both are shortened.

    StartTurn               ASLEEP -> WAKING    Started, Wake(None)
                                                The shell asks the pool: `acquire`.
    ChildReady              WAKING -> BUSY      Write twice. The prompt does not wait for the answer
                                                to the initialize:
    > {"type": "control_request", "request_id": "initialize", "request": {"subtype": "initialize",
       "systemPrompt": [], "agents": {"gw": {"description": "gw", "prompt": "", "model": "sonnet"}},
       "systemPromptSnapshot": false}}
    > {"type": "user", "uuid": "462e…", "message": {"role": "user",
       "content": [{"type": "text", "text": "Hello!"}]}, "parent_tool_use_id": null}
    < {"type": "control_response", "response": {"request_id": "initialize", …}}
    ControlAnswer                               The child is set up. START_TIMEOUT no longer runs;
                                                from here on STALLED does.
    < {"type": "stream_event", "event": {"type": "content_block_delta", "delta":
       {"type": "text_delta", "text": "Hi"}}, …}
    TextDelta               BUSY                Deliver(TextDelta("Hi")): the hot path. The shell
                                                puts it into the caller's reply channel.
    < {"type": "assistant", "uuid": "9ab1…", "message": {"content": [{"type": "text", …}]}, …}
    AssistantDone                               The answer remembers that uuid: the resume point.
    < {"type": "stream_event", "event": {"type": "message_delta", "delta":
       {"stop_reason": "end_turn"}, "usage": {…}}, …}
    MessageEnded                                `judge_frame` says None: the turn goes on.
    < {"type": "result", "subtype": "success", "num_turns": 1, "session_id": "5f0c…", …}
    TurnResult              BUSY -> IDLE        End(Completed("stop")). The memory grows by the
                                                user's message and the answer (`memory.seed`). An
                                                agent's has a resume point instead: (session_id,
                                                uuid of the assistant message).

In IDLE the shell offers the child to the pool. The next turn withdraws it, or the pool calls
`GiveWay`, when another session needs it, or its place.


One child, from conversation to conversation
============================================

What a chat says is in its memory, and in the store: its child only caches it. So the child can be
lent to another conversation in the moment in which that needs one. Conversation A rests; B, of the
same client, begins:

    B: StartTurn            ASLEEP -> WAKING    Wake(None, wants): the pool finds A's child idle,
    and
                                                that it knows B's system prompt.
    A: GiveWay(keep=0)      IDLE -> RELEASING   Write twice: cut out everything from A's first
                                                message to its last, and say what is left.
    > {"type": "control_request", "request_id": "release 462e… 1", "request":
       {"subtype": "rewind_conversation", "target_message_uuid": "462e…",
        "last_seen_user_message_uuid": "77c0…", "interrupt_if_running": true}}
    > {"type": "control_request", "request_id": "context", "request":
       {"subtype": "get_context_usage", "detail": "summary"}}
    < {… "response": {"rewound": true, "precedingAssistantUuid": null}} < {… "response":
    {"categories": [{"name": "System prompt", …}, {"name": "Free space", …}]}} A: ControlAnswer
    RELEASING -> ASLEEP HandOver(state). There is no category "Messages": the
                                                child is empty. The shell gives it to the pool, and
                                                the pool gives it, with its `ChildState`, to B.
    B: ChildReady(state)    WAKING -> BUSY      Write: B's model and system prompt, where they are
                                                others (`reconfigure`), then its prompt.

Had B begun like A (a regenerated answer, an edited message, a branch), `keep` would be the number
of messages that both share: the child is cut back to those, and B writes the rest. A's next turn
does the same from its side. A child that refuses, that takes longer than REWIND_TIMEOUT, or that
still holds messages is killed: what it holds is uncertain, and costs one process (invariant 13).


One turn that calls a tool
==========================

The same client offers a tool ``look``, whose results only the client can know. For the CLI the
tool is on an MCP server, ``client``, that the session plays (tools.py).

    < {"type": "stream_event", "event": {"type": "content_block_start", "content_block":
       {"type": "tool_use", "id": "toolu_1", "name": "mcp__client__look", …}}, …}
    ToolUseStarted          BUSY                Deliver(ToolCallStarted(0, "toolu_1", "look"))
    < {"type": "control_request", "request_id": "r1", "request": {"subtype": "mcp_message",
       "server_name": "client", "message": {"method": "tools/call", …}}}
    ControlAsked            BUSY                `ToolCalls.serve` remembers it: no result yet. (It
                                                may also come after the result; both orders work.)
    < {"type": "stream_event", "event": {"type": "message_delta", "delta":
       {"stop_reason": "tool_use"}, …}, …}
    MessageEnded            BUSY -> AWAITING_TOOLS
                                                Suspended: End(Completed("tool_calls")).
                                                For the client the turn is over. The child does not
                                                know that: it waits for the answer to ``r1``.
    StartTurn(results)      AWAITING_TOOLS -> BUSY
                                                The turn brings the result and nothing else, so the
                                                child goes on where it stood:
    > {"type": "control_response", "response": {"subtype": "success", "request_id": "r1",
       "response": {"mcp_response": {"jsonrpc": "2.0", "id": 7, "result": {"content":
       [{"type": "text", "text": "sun"}]}}}}}
    TextDelta, …, TurnResult BUSY -> IDLE       as above. One turn of the CLI was two of the client.

The hard case: the client brings the result *and* a new question, or other tools, or one result of
two. The child cannot take that in the middle of its turn. It rewinds (AWAITING_TOOLS ->
INTERRUPTING), so that it holds the conversation before the call, and gets the call, its result and
the question as history and prompt. The calls were in `memory.seed` since the first turn ended:
no transcript held them (invariant 8).


One turn that calls a tool of an MCP server
===========================================

The operator's MCP servers have tools too (`Setup.hosted`). For the CLI they are on the same server
as the client's. Here the gateway makes the call, and the client's turn goes on meanwhile:

    ToolUseStarted          BUSY                Deliver(ActivityStarted("toolu_1",
                                                "mcp__git__log")): no call for the client to answer.
    ControlAsked            BUSY                `Host.decide`, by the operator's rules:
                                                allow: CallHosted. The shell starts a task for it.
                                                ask: RequestPermission, as an agent's own tools do;
                                                CallHosted follows a client's yes.
                                                deny: the model reads why, as the tool's result.
    MessageEnded            BUSY                The client has nothing to do: no suspension.
    HostedEnded             BUSY                The server has answered: Write, for ``r1``.
    ToolsReturned           BUSY                The CLI has taken it in, and asks the model again.
    TextDelta, …, TurnResult BUSY -> IDLE       The memory keeps call and result within the answer
                                                (`schemas.message.ToolRound`): another child gets
                                                them as the API had them (`unrolled`), a client
                                                does not.

The hard case: a client interrupts the turn while the server works. The shell cancels the task when
it sees that the phase is neither BUSY nor AWAITING_TOOLS. A call that the child had already written
then (INTERRUPTING) is rejected (invariant 14).


One turn that searches the web
==============================

Where the client asks for it (`Options.search`), the API searches by itself, within the call that
answers. Its tool is laid over the body of the request, behind all tools that the child would have
offered, so any plain model's child can do it, for this turn and for no other:

    > {"type": "control_request", "request_id": "settings", "request": {"subtype":
       "apply_flag_settings", "settings": {"env": {"CLAUDE_CODE_EXTRA_BODY":
       "{\"tools\": [{\"type\": \"web_search_20250305\", \"name\": \"web_search\"}]}", …}}}}
    < {"type": "assistant", …, "content": [{"type": "server_tool_use", "id": "srvtoolu_1", …}]}
    AssistantDone           BUSY                Deliver(SearchStarted("srvtoolu_1", …))
    < {"type": "assistant", …, "content": [{"type": "web_search_tool_result", …}]}
    AssistantDone           BUSY                Deliver(SearchEnded("srvtoolu_1", pages))
    < {"type": "assistant", …, "content": [{"type": "text", …, "citations": [{…}]}]}
    AssistantDone           BUSY                Deliver(Cited(start, end, sources))

The child's history holds the blocks as the API gave them, and so does the memory (`ServerBlock`,
`Citations`): another child gets them back as they were. An agent uses Claude Code's ``WebSearch``,
which is a call of the API of its own; its client's wish is the permission for it (searches.py).


Interrupt and rewind
====================

A turn that fails or is interrupted has to leave no trace (invariant 7), but the child's history
holds its prompt, and half an answer. `_rewind` has the child take both out:

    Interrupt               BUSY -> INTERRUPTING    End(Failed), at once: no caller waits for this.
    > {"type": "control_request", "request_id": "rewind 6d7d…", "request":
       {"subtype": "rewind_conversation", "target_message_uuid": "6d7d…",
        "interrupt_if_running": true}}
    TextDelta               INTERRUPTING            late: the child wrote it before it read that.
    < {"type": "result", "subtype": "error_during_execution", …}
    TurnResult              INTERRUPTING            billed, and otherwise ignored.
    < {"type": "control_response", "response": {"request_id": "rewind 6d7d…", "response":
       {"rewound": true}}}
    ControlAnswer           INTERRUPTING -> IDLE    or BUSY, if a turn waits.

A child that cannot rewind (it is not set up, or older history would stay in it: `can_rewind`), that
answers otherwise, or that takes longer than REWIND_TIMEOUT, is killed. The next turn then gets
another child, which receives `memory.seed` (an agent's resumes the transcript at `memory.resume`,
and receives the rest): what was before the failed turn.

Three bookkeeping fields make `can_rewind` exact. `ChildState.held` are the messages the child holds
(an agent's, beyond the transcript at the resume point); `before` is what `held` will be after a
rewind; `undone` is what it was before the last finished turn. Example: the first answer was cut by
a stop text, so the child does not hold it as the client knows it: `memory.seed` is [question 1,
answer 1], and the child has rewound to nothing. Turn 2 writes question 1, answer 1 and question 2,
so `before` is [question 1, answer 1]. If turn 2 fails, a rewind of question 2 leaves exactly the
seed: allowed. If `before` were anything else than a beginning of the seed, the child would be
killed instead.

An answer that is cut for the client (a stop text, Truncated) is rewound in the same way:
the client's shorter answer goes into the seed. At a token limit the CLI would have the model
continue, so there the child is killed (TokenLimit). A person who stops an agent with
``keep_stopped`` keeps the answer as far as it came, with a note of the tools it used, in the seed
as well.


Exact turns
===========

For most clients a history is its words: the borders of blocks, thinking and the order of blocks are
no part of a message's name (`schemas.message.digest`), so that a client which rebuilds its messages
finds its conversation all the same. An *exact* turn (`TurnRequest.exact`, of the Messages API's
clients) asks for more: the API has to read what the client sends, block by block. The name finds
what is alike, and a comparison (`schemas.message.agree`) says whether it is the same:

* A conversation that is found by its history, and one that is named, holds the messages
  (`memory.seed`). An agent's does not, and needs not: its transcript has every block.
* A child that is cut back for the turn is compared with `Wants.exact`.
* A child may hold other blocks than its conversation remembers: it came from one that was only
  alike (`prompt.take_over`), it was spared the beginning of a long history, or the CLI keeps an
  answer in other words than the client received (`TurnState.is_reworded`). Then
  `ChildState.is_alike` is set, and an exact turn gets another child, which receives all of it.

A message in which the client leaves out all thinking agrees with one that has some.


At-most-once
============

A prompt may cost money and have effects, so it is written to one child, once. A second child gets
it in three cases (invariant 6):

* The child dies, and `TurnState.is_repeatable`: it has no tools or the model has not begun, the
  client has received nothing, and this is the first repeat. Example: an idle child is killed by the
  operating system, and the prompt is written before its exit is noticed.
* The child could not resume its transcript (`_retry_without_transcript`). Then the CLI refused the
  prompt before it reached the model.
* An agent's child that was started ahead refuses the conversation (`_claim_refused`): see below.

The uuids of the second child's messages differ (`TurnState.namespace`): the CLI drops a message
whose uuid is in the transcript it resumes.


Tools and permissions
=====================

The client's tools are above. An *agent* also has the CLI's own tools, and may need permission:

    < {"type": "control_request", "request_id": "p1", "request": {"subtype": "can_use_tool", …}}
    PermissionRequested     BUSY    RequestPermission, to the clients that watch; or, if none is
                                    connected, a denial at once.
    PermissionReply         BUSY    Write(allow or deny), PermissionSettled. ``always`` also adds a
                                    rule to `memory.grants`, which the next child gets at its start.

While a request is open PERMISSION_TIMEOUT runs instead of STALLED: the child may be silent, since
it waits for a person. Once an agent has used a tool, or a child has got a client's results, the
turn `has_effects`: then its error asks the client not to repeat it.


An agent's child that was started ahead
=======================================

A new agent's conversation may get a *spare*: a child that was started with ``--await-claim``, and
runs no turn before it knows where it works. `ChildReady.claim` names that directory. The session
says in one go what a child that is started for the conversation gets by its flags:

    > {"type": "control_request", "request_id": "claim", "request": {"subtype": "claim_session",
       "cwd": "/…/conv_462e…"}}
    > {"type": "control_request", "request_id": "initialize", "request": {"subtype": "initialize",
       "appendSystemPrompt": "Be brief.", "systemPromptSnapshot": false}}
    > {"type": "control_request", "request_id": "settings", "request": {"subtype": "set_model",
       "model": "sonnet"}}
    > {"type": "user", "uuid": "462e…", …}
    < {"type": "control_response", "response": {"request_id": "claim", "response":
       {"status": "ok", …}}}

The API's requests are then those of a child that was started for it. A spare that refuses the claim
refuses the prompt too, and asks no model. So it is killed, and the turn gets a child that is
started for it (`AgentOrigin.is_cold`).


Timers
======

A session has one deadline: `Machine.deadline`, that of the earliest timer (timers.py). When it is
reached the shell sends `TimedOut`, and the machine handles the most drastic timer that is due. If
nothing is due any more, because the child has written something since, that is not an error.

    TURN_TIMEOUT        any phase        the oldest turn ends with turn_timeout
    IDLE_EXPIRY         no turn open     the conversation closes (ASLEEP, IDLE, AWAITING_TOOLS)
    IDLE_LIMIT          IDLE             Retire: the child hibernates, and gives its memory back
    FREEZE              IDLE, AWAITING_TOOLS    Freeze: SIGSTOP, until the next Write
    TOOL_TIMEOUT        AWAITING_TOOLS   rewind: the results will come as history, if ever
    PERMISSION_TIMEOUT  BUSY             the request is denied; the turn goes on
    STALLED             BUSY, set up     the turn fails; rewind
    START_TIMEOUT       BUSY, not set up the turn fails; Kill; counts against the restart budget
    REWIND_TIMEOUT      INTERRUPTING, RELEASING  Kill
    CUT_AGAIN           RELEASING        the cut is asked for once more
    BACKOFF_OVER        BACKOFF          -> ASLEEP


The shell
=========

Only `Deliver` can wait (for a caller whose reply channel is full), and only the attendant, the task
that reads the child, performs it. So a stalled caller stops the reading of its own child, which is
the backpressure, and nothing else: Interrupt, Close and the timers still get through. After
`server.stall_seconds` the caller counts as gone, and the turn is interrupted.

Where the conversation is stored, two things wait for the store outside the machine (keeping.py):
until a turn's start is kept, what the child says (and an agent's lines for its child, which could
have effects); and its `End` until that is kept. The machine does not know: it has begun the turn,
or ended it, already. If the store fails, `Close` follows.

The reply channel itself (runtime/reply_channel.py) carries items only. The outcome is set beside
it, so the end of a turn never waits behind items that a client does not read.
"""
