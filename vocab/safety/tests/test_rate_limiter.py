import math
import threading
import time
from fractions import Fraction

import numpy as np
import pytest

from snippets.safety.rate_limiter import fixed_window, sliding_window, token_bucket
from vocab.safety.rate_limiter import FixedWindow, SlidingWindow, TokenBucket


class Clock:
    """A clock that is moved by hand. With fractions, nothing is rounded and 'exact' means exact."""

    def __init__(self, now=Fraction(0)):
        self.now = now

    def __call__(self):
        return self.now


def given(*strategies):
    """Runs a property with hypothesis: 100 random arrivals, the same ones every time."""
    hypothesis = pytest.importorskip("hypothesis")

    settings = hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)

    def run(test):
        settings(hypothesis.given(*strategies)(test))()

    return run


def arrivals(keys="a"):
    st = pytest.importorskip("hypothesis.strategies")
    gap, cost = st.integers(0, 12).map(lambda n: Fraction(n, 4)), st.integers(0, 20).map(lambda n: Fraction(n, 4))
    return st.lists(st.tuples(gap, cost, st.sampled_from(keys)), max_size=20)


def options():
    st = pytest.importorskip("hypothesis.strategies")
    return st.tuples(st.integers(1, 12).map(lambda n: Fraction(n, 5)), st.integers(1, 12).map(lambda n: Fraction(n, 3)))


@pytest.mark.oracle("property: at most capacity + rate · t in any interval")
def test_bucket_never_gives_out_more_than_capacity_plus_rate_times_t():
    @given(options(), arrivals())
    def check(option, requests):
        (rate, capacity), clock, taken = option, Clock(), []
        bucket = TokenBucket(rate, capacity, clock=clock)
        for gap, cost, key in requests:
            clock.now += gap
            if bucket.allow(key, cost)[0]:
                taken.append((clock.now, cost))
        for i in range(len(taken)):
            for j in range(i, len(taken)):
                assert sum(cost for _, cost in taken[i : j + 1]) <= capacity + rate * (taken[j][0] - taken[i][0])


@pytest.mark.oracle("textbook bucket that refills a level, one per key and never forgotten")
def test_decides_like_a_bucket_that_is_refilled_and_never_forgets_a_key():
    @given(options(), arrivals(keys="abcd"))
    def check(option, requests):
        (rate, capacity), clock, levels, last = option, Clock(), {}, {}
        bucket = TokenBucket(rate, capacity, clock=clock)
        for gap, cost, key in requests:
            clock.now += gap
            level = min(capacity, levels.get(key, capacity) + rate * (clock.now - last.get(key, clock.now)))
            allowed = level >= cost
            levels[key], last[key] = level - cost * allowed, clock.now
            assert bucket.remaining(key) == level
            assert bucket.allow(key, cost)[0] is allowed
            assert bucket.remaining(key) == levels[key]


@pytest.mark.oracle("property: allowed at retry_after, refused one epsilon earlier")
def test_retry_after_of_the_bucket_is_exact():
    @given(options(), arrivals())
    def check(option, requests):
        clock = Clock()
        bucket = TokenBucket(*option, clock=clock)
        for gap, cost, key in requests:
            clock.now += gap
            allowed, wait = bucket.allow(key, cost)
            assert (wait == 0) is allowed
            if not allowed and cost <= bucket.capacity:
                start = clock.now
                clock.now = start + wait - Fraction(1, 10**9)
                assert not bucket.allow(key, cost)[0]
                clock.now = start + wait
                assert bucket.allow(key, cost) == (True, 0)


@pytest.mark.parametrize("kind", [SlidingWindow, FixedWindow])
def test_retry_after_of_the_windows_is_exact(kind):
    @given(arrivals())
    def check(requests):
        clock = Clock()
        limiter = kind(3, Fraction(2), clock=clock)
        for gap, _, key in requests:
            clock.now += gap
            allowed, wait = limiter.allow(key)
            assert (wait == 0) is allowed
            if not allowed:
                start = clock.now
                clock.now = start + wait - Fraction(1, 10**9)
                assert not limiter.allow(key)[0]
                clock.now = start + wait
                assert limiter.allow(key) == (True, 0)


def test_waiting_retry_after_is_enough_in_floating_point_too():
    """A level that is refilled can fall short by a rounding error, and then the wait no longer moves the clock."""
    st = pytest.importorskip("hypothesis.strategies")

    @given(st.floats(1e3, 1e7), st.floats(1e-2, 1e3), st.lists(st.floats(0.01, 1), min_size=5, max_size=30))
    def check(start, rate, shares):
        clock = Clock(start)
        bucket = TokenBucket(rate, 10.0, clock=clock)
        assert bucket.allow("new", 10.0)[0], "all of a full bucket"
        for share in shares:
            allowed, wait = bucket.allow("a", 10 * share)
            if not allowed:
                clock.now += wait
                assert bucket.allow("a", 10 * share)[0]


@pytest.mark.oracle("definition: count the admitted requests of the last window")
def test_sliding_window_admits_the_limit_in_any_window_and_no_less_than_it_may():
    @given(arrivals(keys="ab"))
    def check(requests):
        clock, admitted = Clock(), {"a": [], "b": []}
        limiter = SlidingWindow(3, Fraction(2), clock=clock)
        for gap, _, key in requests:
            clock.now += gap
            recent = [t for t in admitted[key] if clock.now - t < 2]
            allowed, _ = limiter.allow(key)
            assert allowed is (len(recent) < 3)
            if allowed:
                admitted[key].append(clock.now)
        for times in admitted.values():
            for t in times:
                assert sum(t <= other < t + 2 for other in times) <= 3


def test_fixed_window_admits_twice_the_limit_across_a_tick_and_the_sliding_one_does_not():
    times = [Fraction(99, 100)] * 6 + [Fraction(100, 100)] * 6
    clock = Clock()
    counts = []
    for limiter in (FixedWindow(5, 1, clock=clock), SlidingWindow(5, 1, clock=clock)):
        admitted = 0
        for clock.now in times:
            admitted += limiter.allow("a")[0]
        counts.append(admitted)
    assert counts == [10, 5]


def test_fixed_window_never_admits_more_than_twice_the_limit():
    @given(arrivals())
    def check(requests):
        clock, times = Clock(), []
        limiter = FixedWindow(3, 2, clock=clock)
        for gap, _, key in requests:
            clock.now += gap / 4
            if limiter.allow(key)[0]:
                times.append(clock.now)
        for t in times:
            assert sum(t <= other < t + 2 for other in times) <= 6
            assert sum(t // 2 == other // 2 for other in times) <= 3

    clock = Clock()
    limiter = FixedWindow(2, 3, clock=clock)
    assert [limiter.allow("a")[0] for _ in range(3)] == [True, True, False]
    assert limiter.allow("b")[0], "each key has its own counter"


def test_settling_early_is_as_if_the_true_cost_had_been_charged():
    @given(arrivals(), options())
    def check(requests, option):
        (rate, _), capacity, clock = option, Fraction(1000), Clock()  # so large that nothing is refused or overflows
        guessed, knowing = (TokenBucket(rate, capacity, clock=clock) for _ in range(2))
        for gap, cost, key in requests:
            clock.now += gap
            knowing.allow(key, cost)
            guessed.allow(key, 3)
            guessed.settle(key, 3, cost)
            assert guessed.remaining(key) == knowing.remaining(key)


def test_an_answer_longer_than_estimated_puts_the_key_in_debt():
    clock = Clock()
    budget = TokenBucket(rate=10, capacity=1000, clock=clock)  # tokens of a language model
    assert budget.allow("ann", 800) == (True, 0)
    budget.settle("ann", estimate=800, actual=1500)
    assert budget.remaining("ann") == -500
    assert budget.allow("ann", 0) == (False, 50), "even a free request waits for the debt"
    assert budget.allow("ann", 100) == (False, 60)
    clock.now += 60
    assert budget.allow("ann", 100) == (True, 0)


def test_a_refund_never_fills_a_bucket_beyond_its_capacity():
    clock = Clock()
    budget = TokenBucket(rate=10, capacity=1000, clock=clock)
    budget.allow("ann", 800)
    clock.now += 75  # 750 of 800 have come back
    budget.settle("ann", estimate=800, actual=100)
    assert budget.remaining("ann") == 1000
    budget.settle("bob", estimate=5, actual=2)
    assert budget.remaining("bob") == 1000 and budget.allow("bob", 1001) == (False, math.inf)
    budget.settle("eve", estimate=0, actual=1)
    assert budget.remaining("eve") == 999


def test_more_than_the_capacity_is_never_allowed_and_costs_nothing():
    bucket = TokenBucket(1, 5, clock=Clock())
    assert bucket.allow("a", 6) == (False, math.inf)
    assert bucket.remaining("a") == 5 and bucket.remembered() == 0
    assert bucket.allow("a", 5) == (True, 0)


@pytest.mark.parametrize("kind", [TokenBucket, SlidingWindow, FixedWindow])
def test_keys_seen_once_are_forgotten(kind):
    """Erratum: a history that keeps every user grows for ever."""
    clock = Clock()
    limiter = kind(*((Fraction(1), 1) if kind is TokenBucket else (1, Fraction(1))), clock=clock)
    for n in range(1000):
        clock.now += Fraction(1, 10)  # ten new keys a second, each matters for one second
        assert limiter.allow(n)[0]
        assert limiter.remembered() <= 25
    busy, last = limiter.remembered(), clock.now
    for clock.now in (last + 1, last + 2):  # to the moment at which a key stops to matter
        for _ in range(busy):
            limiter.allow("regular")
        assert limiter.remembered() == 1


def test_keys_that_only_settle_are_forgotten_too():
    clock = Clock()
    bucket = TokenBucket(Fraction(1), 1, clock=clock)
    for n in range(200):
        clock.now += Fraction(1, 10)
        bucket.settle(n, 0, 1)
        assert bucket.remembered() <= 25


def test_forgetting_needs_no_more_than_two_looks_a_call():
    clock = Clock()
    bucket = TokenBucket(1, 1, clock=clock)
    for n in range(100):
        bucket.allow(n)
    clock.now += 5
    for calls in range(1, 20):
        bucket.allow("regular")
        assert bucket.remembered() == 100 - 2 * calls + 1


def test_a_busy_key_at_the_front_does_not_keep_the_others():
    clock = Clock()
    bucket = TokenBucket(1, 10, clock=clock)
    bucket.allow("debtor")
    bucket.settle("debtor", 1, 10_000)
    for n in range(50):
        bucket.allow(n)
    clock.now += 20
    for _ in range(60):
        bucket.allow("regular", 0)
    assert bucket.remembered() <= 2 and bucket.remaining("debtor") < -9000


def test_a_clock_that_jumps_back_gives_nothing_away():
    """Erratum: wall-clock time does that."""
    clock = Clock(Fraction(100))
    bucket, window = TokenBucket(1, 5, clock=clock), SlidingWindow(5, 5, clock=clock)
    for limiter in (bucket, window):
        admitted = 0
        for clock.now in (100, 40, 100, 40, 100, 40, 100, 101):
            admitted += sum(limiter.allow("a")[0] for _ in range(5))
        assert admitted <= 6, "five at once and one for the second that passed"


def test_time_is_monotonic_by_default():
    for limiter in (TokenBucket(1, 1), SlidingWindow(1, 1), FixedWindow(1, 1)):
        assert limiter._clock is time.monotonic


class Slow(Fraction):
    """A cost whose division lets the other threads run, in the middle of a decision."""

    def __truediv__(self, other):
        time.sleep(0.002)
        return Fraction(self) / other


def test_threads_do_not_share_the_same_token():
    """Erratum: reading a level and writing it back is two steps."""
    bucket, results = TokenBucket(1, 3, clock=Clock()), []
    threads = [threading.Thread(target=lambda: results.append(bucket.allow("a", Slow(1))[0])) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(results) == 3 and len(results) == 12


def test_two_processes_admit_twice_the_limit():
    """Pitfall: each worker counts for itself."""
    clock = Clock()
    workers = [TokenBucket(1, 10, clock=clock) for _ in range(2)]
    assert sum(workers[n % 2].allow("a")[0] for n in range(100)) == 20


def test_keys_do_not_share():
    bucket = TokenBucket(1, 1, clock=Clock())
    assert [bucket.allow(key)[0] for key in "aabb"] == [True, False, True, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TokenBucket(0, 1), "rate=0 is not above 0"),
        (lambda: TokenBucket(math.nan, 1), "rate=nan"),
        (lambda: TokenBucket(1, 0), "capacity=0 is not above 0"),
        (lambda: TokenBucket(1, 1).allow("a", -1), "cost=-1 is not a finite number of 0 or more"),
        (lambda: TokenBucket(1, 1).allow("a", math.nan), "cost=nan"),
        (lambda: TokenBucket(1, 1).allow("a", math.inf), "cost=inf"),
        (lambda: TokenBucket(1, 1).settle("a", -1, 0), "estimate=-1"),
        (lambda: TokenBucket(1, 1).settle("a", 0, math.inf), "actual=inf"),
        (lambda: SlidingWindow(0, 1), "limit=0 is not a whole number above 0"),
        (lambda: SlidingWindow(1.5, 1), "limit=1.5"),
        (lambda: FixedWindow(0, 1), "limit=0"),
        (lambda: SlidingWindow(1, 0), "window=0 is not above 0"),
        (lambda: FixedWindow(1, -1.0), "window=-1.0"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_small_values_are_allowed():
    assert TokenBucket(0.5, 0.5, clock=Clock()).allow("a", 0.5)[0]
    assert SlidingWindow(1, 0.5, clock=Clock()).allow("a")[0] and FixedWindow(1, 0.5, clock=Clock()).allow("a")[0]


@pytest.mark.parametrize(("rate", "capacity"), [(10, 10), (3, 20), (40, 1)])
def test_numpy_variant_agrees(agree, rate, capacity):
    times = np.sort(np.random.default_rng(5).random(200)) * 6
    clock = Clock()
    bucket = TokenBucket(rate, capacity, clock=clock)
    sliding, fixed = SlidingWindow(rate, 1.0, clock=clock), FixedWindow(rate, 1.0, clock=clock)
    rows = []
    for clock.now in times:
        rows.append((bucket.allow("a")[0], bucket.remaining("a"), sliding.allow("a")[0], fixed.allow("a")[0]))
    accepted, levels, in_sliding, in_fixed = map(np.array, zip(*rows))
    found, found_levels = token_bucket(times, rate, capacity)
    assert (found == accepted).all() and 0 < found.sum() < 200
    assert (sliding_window(times, rate) == in_sliding).all() and (fixed_window(times, rate) == in_fixed).all()
    agree(found_levels, levels, atol=1e-9)
