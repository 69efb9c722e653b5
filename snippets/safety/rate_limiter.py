"""Three rate limiters for one key, as loops over the times of its requests."""

import numpy as np


def token_bucket(times, rate, capacity, cost=1.0):
    """A bucket that refills with rate tokens per second. Returns who is let in, and the level after each request."""
    level, last = capacity, 0.0
    accepted, levels = np.zeros(len(times), bool), np.zeros(len(times))
    for i, now in enumerate(times):
        level = min(capacity, level + rate * (now - last))  # refilled only when somebody asks: no timer is needed
        last = now
        if level >= cost:
            level -= cost
            accepted[i] = True
        levels[i] = level
    return accepted, levels


def sliding_window(times, limit, window=1.0):
    """At most limit requests in any window: count those let in within the last one."""
    accepted, log = np.zeros(len(times), bool), []
    for i, now in enumerate(times):
        log = [t for t in log if t + window > now]
        if len(log) < limit:
            log.append(now)
            accepted[i] = True
    return accepted


def fixed_window(times, limit, window=1.0):
    """At most limit requests between two ticks: a counter that is set to zero."""
    accepted, counts = np.zeros(len(times), bool), {}
    for i, now in enumerate(times):
        tick = now // window
        if counts.get(tick, 0) < limit:
            counts[tick] = counts.get(tick, 0) + 1
            accepted[i] = True
    return accepted


def busiest(times, window=1.0):
    """The most requests in any window, wherever it begins."""
    return max((np.sum((times >= t) & (times < t + window)) for t in times), default=0)


# %% demo
from snippets.live import bars, choice, demo, line, slider

SECONDS = 6


def arrive(pattern, per_second):
    """Times of requests: independent of each other, or crowded around every second tick of the clock."""
    rng = np.random.default_rng(0)
    n = max(2, round(per_second * SECONDS))
    if pattern == "Poisson":
        return np.sort(rng.random(n)) * SECONDS
    return np.sort(rng.choice([1.0, 3.0, 5.0], n) + rng.normal(0, 0.1, n))


@demo(
    pattern=choice("bursts", "Poisson", label="requests come"),
    rate=slider(1, 50, unit="per second", label="rate"),
    capacity=slider(1, 50, unit="tokens", label="capacity of the bucket"),
    load=slider(0.2, 4.0, step=0.1, label="requests, as a multiple of the rate"),
)
def show(pattern="bursts", rate=10, capacity=10, load=1.5):
    """See which limiter keeps its promise when requests crowd around the ticks. Then make the bucket small, then large."""
    times = arrive(pattern, load * rate)
    accepted, levels = token_bucket(times, rate, capacity)
    let_in = {"fixed window": fixed_window(times, rate), "sliding window": sliding_window(times, rate),
              "token bucket": accepted}
    # The level between requests rises at the rate, so corners are needed just before each one as well.
    before = np.minimum(capacity, np.concatenate([[capacity], levels[:-1]]) + rate * np.diff(times, prepend=0.0))
    corners = np.stack([before, levels], 1).ravel()
    counted = np.arange(1, len(times) + 1)
    return (
        line({"level": (np.r_[0, np.repeat(times, 2)], np.r_[capacity, corners]),
              "refused": (times[~accepted], levels[~accepted])},
             x="time (s)", y="tokens in the bucket", markers=["refused"], range_y=(0, capacity * 1.05),
             caption="Every request that is let in takes one token; a request that finds less than one is refused."),
        line({"asked": (np.r_[0, times], np.r_[0, counted]), "let in": (np.r_[0, times], np.r_[0, np.cumsum(accepted)]),
              "capacity + rate · t": ([0, SECONDS], [capacity, capacity + rate * SECONDS])},
             x="time (s)", y="requests so far", dashed=["capacity + rate · t"],
             caption="What is let in stays under the dashed line, here and from any other start."),
        bars({name: int(busiest(times[kept])) for name, kept in let_in.items()}, y="most requests let in within 1 s",
             levels={"limit": rate, "2 × limit": 2 * rate}, range_y=(0, 2.2 * max(rate, (capacity + rate) / 2)),
             caption="Both windows have the rate as their limit per second. Only the fixed one can pass its own limit, "
             "up to twice; the bucket never promised less than capacity + rate."),
        f"{len(times)} requests: the bucket lets in {accepted.sum()}, the sliding window {let_in['sliding window'].sum()}, "
        f"the fixed window {let_in['fixed window'].sum()}.",
    )
