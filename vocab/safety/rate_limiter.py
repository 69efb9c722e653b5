"""Rate limiters: token bucket and sliding window, and the fixed window that they replace.

Source: Turner 1986, doi:10.1109/MCOM.1986.1092946 (the idea); ITU-T recommendation I.371, generic cell rate algorithm
in its virtual scheduling form (the bucket as it stands here). The windows are folklore.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

__all__ = ["FixedWindow", "SlidingWindow", "TokenBucket"]


class _Limiter:
    """A lock, a clock, and one state per key that is forgotten as soon as it says nothing."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._states: OrderedDict[Hashable, object] = OrderedDict()

    def remembered(self) -> int:
        """How many keys take memory now."""
        return len(self._states)

    def _forget(self, now: float) -> None:
        # Two keys a call, in turn: as a call adds one at most, idle keys become fewer, and no call pays for a full sweep.
        for _ in range(min(2, len(self._states))):
            key = next(iter(self._states))
            if self._is_idle(self._states[key], now):
                del self._states[key]
            else:
                self._states.move_to_end(key)


class TokenBucket(_Limiter):
    """Gives each key a bucket of tokens that refills steadily; a request takes its cost from it or is refused.

    In any interval of ``t`` seconds at most ``capacity + rate * t`` tokens are given out. One number per key is kept:
    when its bucket will be full again. An unknown key is a full bucket, so forgetting full ones changes nothing.

    Args:
        rate: Tokens per second, the average that is allowed.
        capacity: Tokens in a full bucket, the largest burst.
        clock: Seconds that never go backwards.

    Raises:
        ValueError: If ``rate`` or ``capacity`` is not above 0, or a cost is negative or infinite.

    Examples:
        >>> seconds = iter([0.0, 0.0, 0.0, 0.5])
        >>> bucket = TokenBucket(rate=2, capacity=2, clock=lambda: next(seconds))
        >>> [bucket.allow("ann") for _ in range(4)]
        [(True, 0.0), (True, 0.0), (False, 0.5), (True, 0.0)]
    """

    def __init__(self, rate: float, capacity: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not rate > 0:
            raise ValueError(f"rate={rate} is not above 0")
        if not capacity > 0:
            raise ValueError(f"capacity={capacity} is not above 0")
        super().__init__(clock)
        self.rate, self.capacity = rate, capacity

    def allow(self, key: Hashable, cost: float = 1) -> tuple[bool, float]:
        """Takes ``cost`` tokens if they are there.

        Args:
            key: Whose bucket: a user, an API key, an address.
            cost: Tokens of this request, 0 or more; for a language model an estimate, see ``settle``.

        Returns:
            Whether it is allowed, and if not, after how many seconds it would be: never (``inf``) above ``capacity``.
        """
        _check(cost=cost)
        if cost > self.capacity:
            return False, math.inf
        with self._lock:
            now = self._clock()
            self._forget(now)
            full_at = max(self._states.get(key, now), now)
            # Times are compared, not levels: a caller who waits exactly retry_after meets this very number again, where
            # a refilled level could fall short by a rounding error, and a wait that is too short to move the clock.
            ready = full_at - (self.capacity - cost) / self.rate
            if ready > now:
                return False, ready - now
            self._states[key] = full_at + cost / self.rate
            return True, 0.0

    def settle(self, key: Hashable, estimate: float, actual: float) -> None:
        """Replaces a charged estimate by the true cost, once it is known.

        What was too much comes back, up to ``capacity``. What was too little is taken even if it is not there: the
        bucket goes into debt, and the key waits until the debt is refilled.

        Args:
            key: Whose bucket.
            estimate: The cost that ``allow`` was given.
            actual: What the request really cost.
        """
        _check(estimate=estimate, actual=actual)
        with self._lock:
            now = self._clock()
            full_at = max(self._states.get(key, now), now) + (actual - estimate) / self.rate
            self._states[key] = full_at
            self._forget(now)

    def remaining(self, key: Hashable) -> float:
        """Tokens in a key's bucket now; negative in debt.

        Args:
            key: Whose bucket.
        """
        with self._lock:
            now = self._clock()
            return self.capacity - self.rate * max(self._states.get(key, now) - now, 0)

    def _is_idle(self, full_at: float, now: float) -> bool:
        return full_at <= now


class SlidingWindow(_Limiter):
    """At most ``limit`` requests of a key in any ``window`` seconds, wherever the window begins.

    Exact, at the price of the time of each admitted request: memory per key grows with ``limit``.

    Args:
        limit: Requests per window.
        window: Seconds.
        clock: Seconds that never go backwards.

    Raises:
        ValueError: If ``limit`` is not a whole number above 0, or ``window`` is not above 0.

    Examples:
        >>> seconds = iter([0.0, 0.9, 1.0])
        >>> limiter = SlidingWindow(limit=1, window=1.0, clock=lambda: next(seconds))
        >>> [limiter.allow("ann")[0] for _ in range(3)]
        [True, False, True]
    """

    def __init__(self, limit: int, window: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        _check_window(limit, window)
        super().__init__(clock)
        self.limit, self.window = limit, window

    def allow(self, key: Hashable) -> tuple[bool, float]:
        """Counts a request, if fewer than ``limit`` were admitted in the last ``window`` seconds.

        Args:
            key: Whose window.

        Returns:
            Whether it is allowed, and if not, after how many seconds it would be.
        """
        with self._lock:
            now = self._clock()
            self._forget(now)
            admitted = self._states.get(key, deque())
            while admitted and admitted[0] + self.window <= now:
                admitted.popleft()
            if len(admitted) >= self.limit:
                return False, admitted[0] + self.window - now
            admitted.append(now)
            self._states[key] = admitted
            return True, 0.0

    def _is_idle(self, admitted: deque, now: float) -> bool:
        return admitted[-1] + self.window <= now


class FixedWindow(_Limiter):
    """At most ``limit`` requests of a key between two ticks of the clock. Shown for its flaw, not for use.

    ``limit`` requests just before a tick and ``limit`` just after are all admitted: twice the limit in an instant.

    Args:
        limit: Requests between two ticks.
        window: Seconds from tick to tick.
        clock: Seconds that never go backwards.

    Raises:
        ValueError: If ``limit`` is not a whole number above 0, or ``window`` is not above 0.

    Examples:
        >>> seconds = iter([0.9, 0.9, 1.0, 1.0])
        >>> limiter = FixedWindow(limit=2, window=1.0, clock=lambda: next(seconds))
        >>> [limiter.allow("ann")[0] for _ in range(4)]  # four within 0.1 seconds
        [True, True, True, True]
    """

    def __init__(self, limit: int, window: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        _check_window(limit, window)
        super().__init__(clock)
        self.limit, self.window = limit, window

    def allow(self, key: Hashable) -> tuple[bool, float]:
        """Counts a request, if fewer than ``limit`` were admitted since the last tick.

        Args:
            key: Whose counter.

        Returns:
            Whether it is allowed, and if not, how many seconds are left until the next tick.
        """
        with self._lock:
            now = self._clock()
            self._forget(now)
            tick, count = now // self.window, 0
            if key in self._states and not self._is_idle(self._states[key], now):
                count = self._states[key][1]
            if count >= self.limit:
                return False, (tick + 1) * self.window - now
            self._states[key] = tick, count + 1
            return True, 0.0

    def _is_idle(self, state: tuple[float, int], now: float) -> bool:
        return state[0] < now // self.window


def _check(**amounts: float) -> None:
    for name, amount in amounts.items():
        if not 0 <= amount < math.inf:  # a negative cost would fill the bucket, an infinite one block the key for ever
            raise ValueError(f"{name}={amount} is not a finite number of 0 or more")


def _check_window(limit: int, window: float) -> None:
    if not isinstance(limit, int) or limit < 1:
        raise ValueError(f"limit={limit} is not a whole number above 0")
    if not window > 0:
        raise ValueError(f"window={window} is not above 0")
