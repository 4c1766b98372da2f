"""Device, host and disk at once: the order, the errors and the bounds of what is done meanwhile."""

import threading

import pytest
import torch

from open_magvit2.tokens.overlap import in_threads, to_host


def test_copies_come_in_order_and_each_after_the_next_one_has_begun():
    events = []

    def results():
        for number in range(3):
            events.append(f"begin {number}")
            yield torch.full((2,), number)

    for copy in to_host(results()):
        events.append(f"have {copy.tolist()}")
    assert events == ["begin 0", "begin 1", "have [0, 0]", "begin 2", "have [1, 1]", "have [2, 2]"]
    assert list(to_host([])) == []


def test_a_gpus_copy_is_waited_for_before_it_is_handed_out(monkeypatch):
    """No GPU is needed: what stands in for its tensors and events says what is asked of it."""
    events = []

    class Event:
        def record(self, stream):
            self.stream = stream
            events.append(f"record on {stream}")

        def synchronize(self):
            events.append(f"wait for {self.stream}")

    class Result:
        is_cuda = True

        def __init__(self, number):
            self.device = number
            events.append(f"begin {number}")

        def to(self, device, non_blocking):
            events.append(f"copy {self.device} to {device}, non-blocking {non_blocking}")
            return self.device

    monkeypatch.setattr(torch.cuda, "Event", lambda blocking: Event())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    for copy in to_host(map(Result, range(2))):
        events.append(f"have {copy}")
    given = [[f"begin {n}", f"copy {n} to cpu, non-blocking True", f"record on stream of {n}"] for n in range(2)]
    had = [[f"wait for stream of {n}", f"have {n}"] for n in range(2)]
    assert events == [*given[0], *given[1], *had[0], *had[1]]


def test_what_was_computed_before_an_error_is_handed_out_before_it():
    def results():
        yield torch.tensor(1)
        yield torch.tensor(2)
        raise OSError("disk gone")

    copies = to_host(results())
    assert [next(copies).item(), next(copies).item()] == [1, 2]
    with pytest.raises(OSError, match="disk gone"):
        next(copies)


@pytest.mark.parametrize("num_threads", [0, 3])
def test_all_calls_are_done_at_the_end(num_threads):
    done = []
    with in_threads(num_threads, 2) as call:
        for number in range(50):
            call(done.append, number)
    assert sorted(done) == list(range(50))


def test_a_call_waits_while_as_many_are_pending_as_may_be():
    gate, third = threading.Event(), threading.Event()

    def fill():
        with in_threads(1, 2) as call:
            for _ in range(3):
                call(gate.wait)
            third.set()

    filling = threading.Thread(target=fill)
    filling.start()
    assert not third.wait(0.2)
    gate.set()
    assert third.wait(300)
    filling.join()


@pytest.mark.parametrize("num_calls", [2, 100])  # found at the end, found by a later call
def test_the_first_error_is_raised_and_ends_it(num_calls):
    done = []

    def work(number):
        if number > 0:
            raise OSError(f"cannot write {number}")
        done.append(number)

    asked_for = []

    def run():
        with in_threads(1, 4) as call:
            for number in range(num_calls):
                call(work, number)
                asked_for.append(number)

    with pytest.raises(OSError, match="cannot write 1"):
        run()
    assert done == [0]
    assert len(asked_for) <= 6  # four may be pending when the second is known to have failed


def test_after_an_error_of_the_caller_what_has_not_begun_is_dropped():
    begun, gate, done = threading.Event(), threading.Event(), []

    def work(number):
        begun.set()
        gate.wait(300)
        done.append(number)

    def run():
        with in_threads(1, 8) as call:
            for number in range(8):
                call(work, number)
            assert begun.wait(300)
            threading.Timer(1.0, gate.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert done == [0]
