"""The store in PostgreSQL, which several gateways share.

`store.open_postgres_store` opens one. A call goes this way: `store` has one statement for it
(`statements`), `pool` gives it a connection and says what an error of it means, `connection` runs
it, natively on trio (`trio_connection`) or in a thread.

**Single statements.** Whatever changes a conversation is one statement, committed by itself: it
checks the lease's token and head, and does everything or nothing. A gateway that is stopped in
between holds no lock. Only migrations and forks are transactions of several statements.

**The engine's clock.** Leases are compared with the time of the engine alone, so that nodes need
not agree on theirs.

**Outcomes.** What returned is on the engine's disk (``synchronous_commit``). An error that the
engine reports means that nothing was done: `Unavailable`. Where the connection was lost, or the
caller was cancelled, the statement may be done: `Unknown`. `resolve` takes a new token before it
looks, so that a statement that is still on its way can do nothing afterwards.
"""
