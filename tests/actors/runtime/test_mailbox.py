"""Refs and mailboxes: messages arrive in order, and no sender waits for an actor that is gone."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from attrs import frozen

from ccapi.actors.runtime.mailbox import MAILBOX, ActorGone, Mailbox, Ref, answer, open_mailbox


@frozen
class Double:
    """A question: twice `number`, please."""

    number: int
    reply: trio.MemorySendChannel[int]


def open_numbers() -> tuple[Ref[int], Mailbox[int]]:
    return open_mailbox("numbers")


def open_doubler() -> tuple[Ref[Double], Mailbox[Double]]:
    return open_mailbox("doubler")


async def double(mailbox: Mailbox[Double]) -> None:
    with mailbox:
        async for message in mailbox:
            answer(message.reply, 2 * message.number)


async def ask_double(ref: Ref[Double], number: int) -> int:
    return await ref.ask(lambda reply: Double(number, reply))


async def expect_gone(ref: Ref[Double], number: int = 1) -> None:
    with pytest.raises(ActorGone, match="doubler"):
        await ask_double(ref, number)


async def test_messages_arrive_in_the_order_sent() -> None:
    ref, mailbox = open_numbers()
    await ref.tell(1)
    assert ref.tell_nowait(2)
    await ref.tell(3)
    assert [await mailbox.receive(), mailbox.receive_nowait(), await anext(mailbox)] == [1, 2, 3]
    with pytest.raises(trio.WouldBlock):
        mailbox.receive_nowait()


async def test_a_full_mailbox_refuses_what_will_not_wait_and_holds_up_what_will() -> None:
    ref, mailbox = open_numbers()
    for number in range(MAILBOX):
        assert ref.tell_nowait(number)
    assert not ref.tell_nowait(99)
    assert repr(ref) == f"<Ref numbers {MAILBOX}/{MAILBOX}>"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ref.tell, MAILBOX)
        await trio.testing.wait_all_tasks_blocked()
        assert mailbox.receive_nowait() == 0
    assert [mailbox.receive_nowait() for _ in range(MAILBOX)] == list(range(1, MAILBOX + 1))


async def test_telling_gives_way_to_no_other_task_while_there_is_room() -> None:
    ref, mailbox = open_numbers()
    seen: list[int] = []

    async def read() -> None:
        seen.append(await mailbox.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await ref.tell(1)
        assert seen == []
    assert seen == [1]


async def test_a_sender_that_was_cancelled_tells_nothing() -> None:
    ref, mailbox = open_numbers()
    with trio.CancelScope() as scope:
        scope.cancel()
        await ref.tell(1)
    assert scope.cancelled_caught
    with pytest.raises(trio.WouldBlock):
        mailbox.receive_nowait()


async def test_a_message_to_an_actor_that_is_gone() -> None:
    ref, mailbox = open_numbers()
    mailbox.close()
    assert not ref.tell_nowait(1)
    with pytest.raises(ActorGone, match="numbers"):
        await ref.tell(1)


async def test_what_was_not_read_is_left_with_the_mailbox() -> None:
    ref, mailbox = open_numbers()
    with mailbox:
        for number in range(MAILBOX):
            await ref.tell(number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.tell, MAILBOX)  # waits for room
            await trio.testing.wait_all_tasks_blocked()
            mailbox.close()
    assert mailbox.unread == list(range(MAILBOX + 1))


async def test_asking() -> None:
    ref, mailbox = open_doubler()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(double, mailbox)
        assert await ask_double(ref, 4) == 8
        assert await ask_double(ref, 5) == 10
        nursery.cancel_scope.cancel()


async def test_asking_an_actor_that_is_gone() -> None:
    ref, mailbox = open_doubler()
    mailbox.close()
    await expect_gone(ref)


async def test_an_actor_that_dies_with_questions_in_its_mailbox() -> None:
    """More of them than the mailbox holds: those that wait for room receive the error as well."""
    ref, mailbox = open_doubler()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for number in range(MAILBOX + 3):
                nursery.start_soon(expect_gone, ref, number)
            await trio.testing.wait_all_tasks_blocked()
            mailbox.close()


async def test_an_actor_that_dies_over_a_question() -> None:
    ref, mailbox = open_doubler()

    async def die() -> None:
        with mailbox:
            await mailbox.receive()
            raise ZeroDivisionError

    async def run() -> None:
        with pytest.raises(ZeroDivisionError):
            await die()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_gone, ref)
            nursery.start_soon(run)


async def test_a_reply_channel_closed_without_an_answer() -> None:
    ref, mailbox = open_doubler()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_gone, ref)
        question = await mailbox.receive()
        question.reply.close()


async def test_an_answer_given_before_the_end_is_not_lost() -> None:
    ref, mailbox = open_doubler()
    answers: list[int] = []

    async def ask() -> None:
        answers.append(await ask_double(ref, 21))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        question = await mailbox.receive()
        assert answer(question.reply, 42)
        mailbox.close()
    assert answers == [42]


async def test_an_asker_that_was_cancelled_does_not_take_the_actor_down() -> None:
    ref, mailbox = open_doubler()
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(double, mailbox)
            scope.cancel()
            await ask_double(ref, 1)
        assert scope.cancelled_caught
        async with trio.open_nursery() as asking:
            asking.start_soon(ask_double, ref, 2)
            asking.cancel_scope.cancel()
        assert await ask_double(ref, 3) == 6
        nursery.cancel_scope.cancel()


async def test_answer_returns_false_for_a_sender_that_is_gone() -> None:
    ref, mailbox = open_doubler()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_double, ref, 1)
        question = await mailbox.receive()
        nursery.cancel_scope.cancel()
    assert not answer(question.reply, 2)


async def test_answering_after_the_actor_has_closed_its_mailbox() -> None:
    """A helper task may come late with its answer; the asker has an error by then."""
    ref, mailbox = open_doubler()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_gone, ref)
        question = await mailbox.receive()
        mailbox.close()
        assert not answer(question.reply, 2)
