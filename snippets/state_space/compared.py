"""What each kind of state still holds of one value, tokens later."""

import numpy as np

from snippets.state_space import retention, rwkv, s4
from snippets.state_space.gated_delta import delta_rule
from snippets.state_space.mamba import selective_scan


def left_of_the_first(T, memory, p, again):
    """A 1 is written at time 0 and zeros after it; what is read at each time. Decays that are fixed forget over `memory` tokens. The others
    write every later token with the gate p, and the one at `again` fully, under the key of the first."""
    one, impulse = np.ones((T, 1)), (np.arange(T) == 0)[:, None] * 1.0
    gate = np.full(T, p)
    gate[0] = 1.0
    gate[again] = 0.99
    rng = np.random.default_rng(0)
    k = rng.normal(size=(T, 16))
    k /= np.linalg.norm(k, axis=1, keepdims=True)
    k[again] = k[0]
    dt = -np.log1p(-np.minimum(gate, 0.99))[:, None]  # the step whose decay exp(-dt) is 1 - gate
    read = np.repeat(k[:1], T, 0)
    return {
        "S4D": s4.basis(np.array([-0.5 + 1j * np.pi]), 2 / memory, T)[:, 0].real,  # one of its poles
        "retention": retention.recurrent(one, one, impulse, np.exp(-1 / memory))[0][:, 0],
        "RWKV": rwkv.wkv(np.zeros(T), impulse[:, 0], 1 / memory, 0.0),
        "Mamba": selective_scan(impulse, dt, -one[:1], one, one)[0][:, 0] / dt[0],
        "gated delta": delta_rule(read, k, impulse, gate, np.ones(T))[0][:, 0],
    }


# %% demo
from snippets.live import bars, demo, line, slider

T, D = 129, 1024
# Numbers that a layer of width D keeps at the usual settings, over the 2 D of a token in a key/value cache.
KEPT = {
    "RWKV": 5 * D,
    "Mamba": 2 * D * (16 + 3),
    "S4D": D * 64,
    "gated delta": 8 * 128 * 256 + 3 * 8 * (2 * 128 + 256),
    "retention": 8 * 128 * 256,
    "Mamba-2": 2 * D * 128 + 3 * (2 * D + 2 * 128),
}


@demo(
    memory=slider(8, 512, step=8, label="memory of the fixed decays", unit="tokens"),
    p=slider(0.0, 0.5, step=0.01, label="gate of the filler tokens"),
    again=slider(8, 128, step=8, label="time at which the key comes again"),
)
def show(memory=64, p=0.03, again=88):
    """Change the memory: only the fixed decays (S4D, retention, RWKV) move. Change the gate: only those that look at the token do. At 0 they keep
    everything; at the same gate a matrix written by the delta rule loses far less. Then see who notices that the key comes again."""
    left = left_of_the_first(T, float(memory), float(p), again)
    shown = {name: np.round(y, 9) for name, y in left.items()}
    before = {name: round(100 * float(y[again - 1])) for name, y in left.items()}
    after = {name: round(100 * float(y[again])) for name, y in left.items()}
    return (
        line(shown, range_y=(-0.8, 1.05), marks={"again": again}, x="tokens since it was written", y="share that is read",
             caption="Of a value of 1, with zeros written after it. S4D turns as it fades (one pole); RWKV is an average, in which each newcomer "
             "takes its share. Mamba stands for Mamba-2 too."),
        bars({name: round(n / (2 * D), 1) for name, n in KEPT.items()}, y="tokens", log_y=True,
             caption=f"What a layer keeps, for ever, as a number of tokens in a key/value cache of the same width ({D:,}; usual settings, "
             "8 heads of 128 and 256). A Transformer has passed it after so many tokens."),
        f"One token before the key comes again, Mamba has {before['Mamba']} % and the delta rule {before['gated delta']} %; once it has come, "
        f"{after['Mamba']} % and {after['gated delta']} %: the old value has made room. Retention goes on with {after['retention']} % and would add the two.",
    )
