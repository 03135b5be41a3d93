"""The store: conversations, their logs, responses, lineage and usage, which outlive the process.

`opening.open_store` opens one. `interface.Store` is what all of them offer, `memory` keeps
everything in memory, `sqlite` in a file. An append goes this way: `local` checks the lease and
encodes the records, `writer` runs the change in its one thread together with others that wait, in
one transaction, and the caller goes on when that is committed.

**Leases.** A writer of a conversation holds a `Lease`. Every `acquire` gives a higher token;
an append under an older one is `Fenced`. An append also names the head that its lease has seen, so
that nothing is appended twice.

**Turns.** `begin_turn` is committed before a prompt is written to a child, and `end_turn` before
the client hears that the turn has ended. A conversation whose turn is open and whose owner is gone
is an orphan: its turn is lost, and the next `begin_turn` says so once.

**Outcomes.** A change that returns is durable: it survives a SIGKILL of the process at any moment
(a loss of power may take the last moments, as ``synchronous=NORMAL`` has it). `Unavailable` means
that it was not done. `Unknown`, and a cancellation, mean that it may have been: `resolve` finds
out, and until then the lease takes no other change.
"""
