import numpy as np
import pytest
import torch
from torch import nn

from snippets.graph.gin import gin_layer, refine_colors
from vocab.graph.gin import GIN, GINConv

HEXAGON = [(i, (i + 1) % 6) for i in range(6)]
TRIANGLES = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]
STAR, PATH = [(0, 1), (0, 2), (0, 3)], [(0, 1), (1, 2), (2, 3)]


def both_ways(pairs):
    edges = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    return torch.cat([edges, edges.flip(0)], 1)


def perceptron(width_in, width_out, hidden=8):
    return nn.Sequential(nn.Linear(width_in, hidden), nn.ReLU(), nn.Linear(hidden, width_out)).double()


def with_statistics(model):
    """An evaluated model whose normalizations have something to do; their shifts also bend the MLPs among the data."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d):
            with torch.no_grad():
                part.weight.uniform_(0.5, 1.5), part.bias.normal_(), part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
    return model.double().eval()


def example():
    """For the contract suite: a small instance and its inputs."""
    edges = both_ways([(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (3, 6)])
    model = GIN(3, 4, 2, num_layers=3, train_eps=True, dropout=0.0).double()
    return model, (torch.randn(7, 3).double(), edges, torch.tensor([0, 0, 0, 1, 1, 1, 1]), 2)


@pytest.mark.oracle("torch_geometric.nn.GINConv")
@pytest.mark.parametrize("train_eps", [False, True])
def test_layer_equals_pytorch_geometric_with_copied_weights(train_eps):
    library = pytest.importorskip("torch_geometric.nn")
    mlp = perceptron(3, 5)
    ours = GINConv(mlp, eps=0.3, train_eps=train_eps).double()
    theirs = library.GINConv(mlp, eps=0.3, train_eps=train_eps).double()
    x, edges = torch.randn(6, 3).double(), torch.randint(0, 6, (2, 17))  # directed, with loops and repeated edges
    torch.testing.assert_close(ours(x, edges), theirs(x, edges))
    assert "eps" in ours.state_dict() and "eps" in theirs.state_dict()
    assert isinstance(ours.eps, nn.Parameter) == train_eps


@pytest.mark.oracle("product with the adjacency matrix")
def test_layer_equals_a_product_with_the_adjacency_matrix():
    mlp = perceptron(3, 5)
    x, adjacency = torch.randn(6, 3).double(), (torch.rand(6, 6) < 0.4).double()
    edges = adjacency.nonzero().T.flip(0)  # adjacency[v, u] = 1 for an edge u -> v
    expected = mlp((adjacency + 1.25 * torch.eye(6, dtype=torch.float64)) @ x)
    torch.testing.assert_close(GINConv(mlp, eps=0.25).double()(x, edges), expected)


def test_eps_is_zero_and_fixed_unless_asked_for():
    conv = GINConv(nn.Identity())
    assert not list(conv.parameters()) and conv.eps == 0
    assert not any(name.endswith("eps") for name, _ in GIN(2, 4, 2).named_parameters())
    assert sum(name.endswith("eps") for name, _ in GIN(2, 4, 2, train_eps=True).named_parameters()) == 4


def reference(model, x, pairs):
    """One evaluated graph, node by node, from the paper's equations, with one head on the concatenated sums."""
    states, h = [x], x
    for conv, norm in zip(model.convs, model.norms):
        sums = []
        for v in range(len(h)):
            total = (1 + conv.eps) * h[v]
            for a, b in pairs:
                total = total + (h[b] if a == v else 0) + (h[a] if b == v else 0)
            sums.append(total)
        one, inner, _, two = conv.mlp
        hidden = torch.stack(sums) @ one.weight.T
        hidden = (hidden - inner.running_mean) / (inner.running_var + 1e-5).sqrt() * inner.weight + inner.bias
        out = hidden.clamp(min=0) @ two.weight.T
        h = ((out - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias).clamp(min=0)
        states.append(h)
    concatenated = torch.cat([state.sum(0) for state in states])
    weight = torch.cat([head.weight for head in model.heads], 1)
    return weight @ concatenated + sum(head.bias for head in model.heads)


@pytest.mark.oracle("the paper's equations node by node, one head on the concatenated sums")
def test_model_equals_the_definition_node_by_node():
    model = with_statistics(GIN(3, 4, 2, num_layers=4, train_eps=True))
    for conv in model.convs:
        nn.init.uniform_(conv.eps, -0.5, 0.5)
    x = torch.randn(5, 3, dtype=torch.float64)
    pairs = [(0, 1), (1, 2), (0, 2), (2, 3)]  # node 4 has no neighbour
    torch.testing.assert_close(model(x, both_ways(pairs))[0], reference(model, x, pairs))


def test_a_batch_gives_what_its_graphs_give_alone_in_any_order_of_nodes():
    model = with_statistics(GIN(3, 4, 2))
    x, edges = torch.randn(7, 3).double(), both_ways([(0, 1), (1, 2), (3, 4), (4, 5), (5, 6)])
    alone = torch.cat([model(x[:3], edges[:, (edges < 3).all(0)]), model(x[3:], edges[:, (edges >= 3).all(0)] - 3)])
    batch = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    torch.testing.assert_close(model(x, edges, batch), alone)
    torch.testing.assert_close(model(x, edges, batch, num_graphs=2), alone)
    order = torch.randperm(7)
    shuffled = model(x[order], order.argsort()[edges], batch[order])
    torch.testing.assert_close(shuffled, alone)


def test_a_graph_without_nodes_gives_only_the_biases():
    model = with_statistics(GIN(3, 4, 2))
    out = model(torch.randn(2, 3).double(), both_ways([(0, 1)]), torch.tensor([0, 0]), num_graphs=2)
    torch.testing.assert_close(out[1], sum(head.bias for head in model.heads))


@pytest.mark.filterwarnings("ignore:The hashes produced for graphs without")
@pytest.mark.oracle("networkx.weisfeiler_lehman_graph_hash on all 156 graphs of six nodes")
def test_separates_exactly_the_graphs_that_colour_refinement_separates():
    networkx = pytest.importorskip("networkx")
    model = with_statistics(GIN(1, 16, 4, num_layers=7))
    graphs = [g for g in networkx.graph_atlas_g() if len(g) == 6]
    assert len(graphs) == 156
    hashes = [networkx.weisfeiler_lehman_graph_hash(g, iterations=6, digest_size=16) for g in graphs]
    edges = torch.cat([both_ways(list(g.edges)) + 6 * i for i, g in enumerate(graphs)], 1)
    outputs = model(torch.ones(6 * 156, 1).double(), edges, torch.arange(156).repeat_interleave(6)).detach()
    apart = (outputs[:, None] - outputs).abs().amax(-1) / outputs.abs().max()
    alike = torch.tensor([[one == other for other in hashes] for one in hashes])
    assert apart[alike].max() < 1e-13 and apart[~alike].min() > 1e-7
    assert len(set(hashes)) < 156, "some graphs are beyond both"


def test_two_triangles_look_like_a_hexagon_although_they_are_not_one():
    """A widely copied description calls the network maximally expressive: it is so among networks like it only."""
    model = with_statistics(GIN(1, 8, 3))
    x = torch.ones(6, 1, dtype=torch.float64)
    torch.testing.assert_close(model(x, both_ways(HEXAGON)), model(x, both_ways(TRIANGLES)))
    marked = torch.randn(6, 1, dtype=torch.float64)  # with names for the nodes it can count the cycle
    assert not torch.allclose(model(marked, both_ways(HEXAGON)), model(marked, both_ways(TRIANGLES)), rtol=1e-3)


def test_a_star_and_a_path_differ():
    model = with_statistics(GIN(1, 8, 3))
    x = torch.ones(4, 1, dtype=torch.float64)
    assert not torch.allclose(model(x, both_ways(STAR)), model(x, both_ways(PATH)), rtol=1e-3)


@pytest.mark.oracle("multisets that mean and maximum confuse (Xu et al. 2019, section 5)")
@pytest.mark.parametrize(
    ("one", "other", "confused"),
    [("ab", "aab", {"max"}), ("ab", "abb", {"max"}), ("ab", "aabb", {"max", "mean"}), ("aa", "aaa", {"max", "mean"})],
)
def test_a_sum_keeps_apart_the_neighbours_that_mean_and_maximum_confuse(one, other, confused):
    conv, letters = GINConv(perceptron(3, 4)).double(), torch.eye(3, dtype=torch.float64)

    def center(word):
        x = letters[[2] + ["ab".index(c) for c in word]]
        return conv(x, both_ways([(0, i) for i in range(1, len(x))]))[0]

    def rows(word):
        return letters[["ab".index(c) for c in word]]

    found = {name for name, pool in [("max", lambda r: r.amax(0)), ("mean", lambda r: r.mean(0))]
             if torch.equal(pool(rows(one)), pool(rows(other)))}
    assert found == confused
    assert not torch.allclose(center(one), center(other), rtol=1e-3)


def test_only_eps_tells_the_two_ends_of_an_edge_apart():
    mlp, x, edges = perceptron(2, 4), torch.eye(2, dtype=torch.float64), both_ways([(0, 1)])
    plain, weighted = GINConv(mlp)(x, edges), GINConv(mlp, eps=0.1).double()(x, edges)
    assert torch.equal(plain[0], plain[1])
    assert not torch.allclose(weighted[0], weighted[1], rtol=1e-3)


def test_raw_numbers_as_features_make_sums_collide_and_letters_do_not():
    """The first layer adds up raw features: five neighbours of 1 are one of 2 and one of 3."""
    def center(features, conv):
        x = torch.cat([torch.zeros_like(features[:1]), features])
        return conv(x, both_ways([(0, i) for i in range(1, len(x))]))[0]

    ones, two_three = torch.ones(5, 1).double(), torch.tensor([[2.0], [3.0]]).double()
    number = GINConv(perceptron(1, 4))
    torch.testing.assert_close(center(ones, number), center(two_three, number))
    letter = GINConv(perceptron(4, 4))
    one_hot = torch.eye(4, dtype=torch.float64)
    assert not torch.allclose(center(one_hot[[1] * 5], letter), center(one_hot[[2, 3]], letter), rtol=1e-3)


@pytest.mark.oracle("multisets that one-layer perceptrons confuse (Xu et al. 2019, lemma 7)")
def test_a_single_linear_layer_warns_because_it_confuses_multisets():
    ones, two_three = torch.ones(5, 1), torch.tensor([[2.0], [3.0]])
    single = nn.Sequential(nn.Linear(1, 16, bias=False), nn.ReLU())
    torch.testing.assert_close(single(ones).sum(0), single(two_three).sum(0))
    deep = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 16))
    assert not torch.allclose(deep(ones).sum(0), deep(two_three).sum(0), rtol=1e-3)
    with pytest.warns(UserWarning, match="single linear layer") as seen:
        GINConv(single)
    assert seen[0].filename == __file__


def test_a_real_mlp_does_not_warn(recwarn):
    GINConv(perceptron(1, 2)), GINConv(nn.Identity()), GIN(2, 4, 2)
    assert not recwarn.list


def test_five_layers_are_the_input_and_four_convolutions_and_all_five_are_read():
    model = with_statistics(GIN(3, 4, 2))
    assert len(model.convs) == 4 and [h.in_features for h in model.heads] == [3, 4, 4, 4, 4]
    x, edges = torch.randn(4, 3).double(), both_ways(PATH)
    whole = model(x, edges)
    for head in model.heads:
        kept = head.weight.detach().clone()
        nn.init.zeros_(head.weight)
        assert not torch.allclose(model(x, edges), whole, rtol=1e-3), "a layer that is not read"
        head.weight.data.copy_(kept)


def test_a_node_reaches_as_far_as_there_are_convolutions():
    model = with_statistics(GIN(1, 8, 1, num_layers=3))
    states, x = [], torch.randn(6, 1, dtype=torch.float64, requires_grad=True)
    model.norms[1].register_forward_hook(lambda module, args, out: states.append(out))
    model(x, both_ways([(i, i + 1) for i in range(5)]))
    states[0][0].abs().sum().backward()
    assert (x.grad[:, 0] != 0).tolist() == [True, True, True, False, False, False]


def test_dropout_drops_scores_in_training_only():
    model, (x, edges, batch, n) = GIN(3, 4, 50, dropout=1.0).double(), example()[1]
    assert torch.equal(model(x, edges, batch, n), torch.zeros(2, 50, dtype=torch.float64))
    assert (model.eval()(x, edges, batch, n) != 0).all()
    assert GIN(3, 4, 2).dropout == 0.5


def test_training_normalizes_over_the_nodes_of_the_batch():
    model, inputs = example()
    seen = []
    model.norms[0].register_forward_hook(lambda module, args, out: seen.append(out))
    model(*inputs)
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(4, dtype=torch.float64))


def test_numpy_variant_agrees(agree):
    mlp, x, edges = perceptron(3, 4), torch.randn(6, 3).double(), torch.randint(0, 6, (2, 14))
    weights = [p.detach().numpy() for p in mlp.parameters()]

    def numpy_mlp(s):
        return np.maximum(s @ weights[0].T + weights[1], 0) @ weights[2].T + weights[3]

    for eps in (0.0, 0.25):
        expected = GINConv(mlp, eps=eps).double()(x, edges)
        agree(gin_layer(x.numpy(), edges.numpy(), numpy_mlp, eps), expected)


def test_numpy_mean_and_maximum_ignore_nodes_without_neighbours():
    x, edges = np.array([[1.0], [4.0], [6.0], [9.0]]), np.array([[1, 2], [0, 0]])
    for aggregate, inbox in [("sum", 10.0), ("mean", 5.0), ("max", 6.0)]:
        out = gin_layer(x, edges, lambda s: s, aggregate=aggregate)
        np.testing.assert_array_equal(out.ravel(), [1 + inbox, 4, 6, 9])


@pytest.mark.filterwarnings("ignore:The hashes produced for graphs without")
def test_numpy_colours_are_those_of_networkx():
    networkx = pytest.importorskip("networkx")
    graphs = [g for g in networkx.graph_atlas_g() if len(g) == 5]
    pairs = [(u + 5 * i, v + 5 * i) for i, g in enumerate(graphs) for u, v in g.edges]
    colors, edges = np.zeros(5 * len(graphs), int), both_ways(pairs).numpy()
    for _ in range(5):
        colors = refine_colors(colors, edges)
    ours = [tuple(sorted(c)) for c in colors.reshape(-1, 5).tolist()]
    theirs = [networkx.weisfeiler_lehman_graph_hash(g, iterations=5) for g in graphs]
    assert len(set(zip(ours, theirs))) == len(set(ours)) == len(set(theirs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_layers=1), "num_layers=1; at least 2"),
        (dict(dropout=1.1), "dropout=1.1 is not between 0 and 1"),
        (dict(dropout=-0.1), "dropout=-0.1 is not between 0 and 1"),
    ],
)
def test_bad_settings_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        GIN(3, 4, 2, **arguments)
    assert GIN(3, 4, 2, num_layers=2, dropout=0.0).dropout == 0


def test_the_first_edge_to_a_node_that_is_not_there_is_named():
    conv, x = GINConv(nn.Identity()), torch.zeros(3, 1)
    for bad in (3, -1):
        with pytest.raises(ValueError, match=rf"edge_index\[1, 2\] is {bad}; expected 0 to 2"):
            conv(x, torch.tensor([[0, 2, 1], [1, 0, bad]]))
    with pytest.raises(ValueError, match=r"batch\[1\] is 2; expected 0 to 1"):
        GIN(1, 2, 2)(x, torch.tensor([[0], [1]]), torch.tensor([0, 2, 1]), num_graphs=2)


def test_wrong_shapes_name_the_expected_ones():
    conv, x, edges = GINConv(nn.Identity()), torch.zeros(3, 2), torch.tensor([[0], [1]])
    with pytest.raises(ValueError, match=r"x has shape \(3,\); expected \(nodes, features\)"):
        conv(x[:, 0], edges)
    with pytest.raises(ValueError, match=r"edge_index has shape \(1, 2\); expected \(sources_and_targets=2, edges\)"):
        conv(x, edges.T)
    with pytest.raises(ValueError, match=r"x has shape \(3, 2\); expected \(nodes, in_channels=4\)"):
        GIN(4, 2, 2)(x, edges)
    with pytest.raises(ValueError, match=r"batch has shape \(2,\); expected \(nodes=3\)"):
        GIN(2, 2, 2)(x, edges, torch.tensor([0, 0]))
