"""Graph isomorphism network in NumPy."""

import numpy as np

from snippets.ops import segment_sum


def gin_layer(x, edges, mlp, eps=0.0, aggregate="sum"):
    """x (N, F), edges (2, E) of sources and targets: each node's own vector and what its neighbours send."""
    source, target = edges
    if aggregate == "max":
        inbox = np.full_like(x, -np.inf)
        np.maximum.at(inbox, target, x[source])
        inbox[np.isinf(inbox)] = 0  # nobody wrote
    else:
        inbox = segment_sum(x[source], target, len(x))
        if aggregate == "mean":
            inbox /= np.maximum(np.bincount(target, minlength=len(x)), 1)[:, None]
    return mlp((1 + eps) * x + inbox)


def refine_colors(colors, edges):
    """One round of the Weisfeiler-Leman test: own colour and the multiset of the neighbours' give the new colour."""
    source, target = edges
    seen = [(c, tuple(sorted(colors[source[target == v]]))) for v, c in enumerate(colors)]
    names = {signature: i for i, signature in enumerate(sorted(set(seen)))}
    return np.array([names[signature] for signature in seen])


# %% demo
from snippets.live import choice, demo, graph, heatmap, slider

RING6 = [(i, (i + 1) % 6) for i in range(6)]
TRIANGLES = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]
STAR, PATH = [(0, 1), (0, 2), (0, 3)], [(0, 1), (1, 2), (2, 3)]
PAIRS = {  # name: two of (letters of the nodes, edges), and the two nodes to compare, if not the whole graphs
    "star or path": (("oooo", STAR), ("oooo", PATH), None),
    "hexagon or two triangles": (("o" * 6, RING6), ("o" * 6, TRIANGLES), None),
    "neighbours {a,b} or {a,a,b}": (("cab", [(0, 1), (0, 2)]), ("caab", [(0, 1), (0, 2), (0, 3)]), (0, 0)),
    "neighbours {a,b} or {a,a,b,b}": (("cab", [(0, 1), (0, 2)]), ("caabb", [(0, i) for i in range(1, 5)]), (0, 0)),
    "edge a-b, seen from a or from b": (("ab", [(0, 1)]), ("ab", [(0, 1)]), (0, 1)),
}


def spread(letters, edges, left):
    """Positions: a node with three or more neighbours in the middle, the others on a circle."""
    n, center = len(letters), len(edges) == len(letters) - 1 and all(0 in edge for edge in edges) and len(letters) > 2
    around = [2 * np.pi * i / (n - center) for i in range(n - center)]
    places = [(0.0, 0.0)] * center + [(np.sin(a), np.cos(a)) for a in around]
    return [(x + (-1.5 if left else 1.5), y) for x, y in places]


@demo(
    pair=choice(*PAIRS, label="tell apart"),
    aggregate=choice("sum", "mean", "max", label="neighbours are combined by"),
    layers=slider(0, 3, label="layers"),
    eps=slider(0.0, 0.5, step=0.1, label="eps"),
)
def show(pair="star or path", aggregate="sum", layers=1, eps=0.0):
    """Same colour means same vector. Change sum to mean: the star becomes a path. No setting tells the hexagon from
    the triangles. For the edge a-b raise eps."""
    one, two, nodes = PAIRS[pair]
    letters, n = one[0] + two[0], len(one[0])
    pairs = np.array(one[1] + [(u + n, v + n) for u, v in two[1]]).T
    edges = np.concatenate([pairs, pairs[::-1]], 1)  # both directions

    rng = np.random.default_rng(0)
    x = np.array([[letter == known for known in "oabc"] for letter in letters], float)
    colors = np.array([ord(letter) for letter in letters])
    for _ in range(layers):
        # Biases this large put the bends of the ReLUs among the sums; without bends the MLP would be linear there.
        w1, b1, w2 = rng.normal(size=(x.shape[1], 16)), rng.normal(size=16) * 2, rng.normal(size=(16, 8)) / 4
        x = gin_layer(x, edges, lambda s: np.maximum(s @ w1 + b1, 0) @ w2, eps, aggregate)
        colors = refine_colors(colors, edges)

    states = np.unique(np.round(x, 6), axis=0, return_inverse=True)[1].ravel()
    names = [f"{c}{i + 1}" for i, c in enumerate(one[0])] + [f"{c}{i + 1}′" for i, c in enumerate(two[0])]
    places = dict(zip(names, spread(*one, left=True) + spread(*two, left=False)))
    ties = [(names[u], names[v]) for u, v in pairs.T]
    if nodes:
        compared, what = np.stack([x[nodes[0]], x[n + nodes[1]]]), f"nodes {names[nodes[0]]} and {names[n + nodes[1]]}"
        wl_same = colors[nodes[0]] == colors[n + nodes[1]]
    else:
        compared, what = np.stack([x[:n].sum(0), x[n:].sum(0)]), "two graphs"
        wl_same = sorted(colors[:n]) == sorted(colors[n:])
    same = np.allclose(compared[0], compared[1], atol=1e-9)

    def draw(groups, word, caption):
        first = {g: i + 1 for i, g in enumerate(dict.fromkeys(groups.tolist()))}  # numbered in order of appearance
        return graph({name: f"{word} {first[g]}" for name, g in zip(names, groups.tolist())}, ties, positions=places,
                     caption=caption)

    rounds = f"{layers} layer" + "s" * (layers != 1)
    return (
        draw(states, "vector", f"After {rounds}: nodes with the same vector have the same colour."),
        draw(colors, "colour", f"After {layers} round{'s' * (layers != 1)} of Weisfeiler-Leman colour refinement: nodes "
             "of one colour stay alike for every network of this kind."),
        heatmap(compared, rows=["left", "right"], x="component", y="graph", value="value",
                caption="What is compared: " + (f"the vectors of the {what}." if nodes else "the sums over the nodes.")),
        f"After {rounds} with {aggregate} the {what} are {'the same' if same else 'different'}; "
        f"colour refinement says {'the same' if wl_same else 'different'}.",
    )
