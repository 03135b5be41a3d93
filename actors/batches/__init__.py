"""Batches of requests, which run when there is room for them.

**A batch's life.** `engine.BatchEngine` is an actor: it learns of a batch that was made, or is to
be stopped, and has one task for each that has not ended (`life.BatchLife`). Such a task reads the
input file (`intake`), claims one request after the other in the store, has each answered, and puts
down what became of it; at the end it writes the results into files (`results`).

**The same road.** A request is answered by the route that a client would have called (`road.Road`,
which the HTTP front lends): with the same checks, limits, metering and words. Each is a
conversation of its own, which is forgotten behind it.

**Room.** `slots.Slots` says when a request may begin. Clients that wait for an answer go first: a
batch's request begins only where a child is free and no session waits for one, and leaves a key
half of its own turns. Keys take turns, whatever their batches have in them.

**Limits.** A request that is refused because something is used up (the account's limit, the
key's, the API's, room) is not failed: it goes back to those that wait, and its batch begins no
other before the time that the refusal names, or ever longer pauses where it names none.

**At most once.** A request is claimed in the store before anything of it is done, and settled when
its answer is there. One that was claimed in an earlier life and not settled may have been put to
the model; so it is not run again, and its result is the error ``turn_lost``. When the gateway
drains, no request begins any more, and the next life goes on with the rest.
"""
