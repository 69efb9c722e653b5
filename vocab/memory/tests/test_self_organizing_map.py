import math

import numpy as np
import pytest
import torch

from snippets.memory import self_organizing_map as numpy_variant
from vocab.memory.self_organizing_map import SelfOrganizingMap


def example():
    return SelfOrganizingMap(2, grid=(2, 3)).double(), (torch.rand(4, 2, dtype=torch.float64),)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(n=60, dim=3):
    return torch.rand(n, dim, dtype=torch.float64)


@pytest.mark.oracle("competitive learning, point by point")
@pytest.mark.parametrize("sigma", [0.0, 0.01])
def test_without_neighbours_online_training_is_competitive_learning(sigma):
    x, som = data(), SelfOrganizingMap(3, grid=(2, 3), sigma0=sigma, lr0=0.4, lr1=0.1).double().start(data())
    centres = som.weight.clone()
    som.fit(x, epochs=2, generator=seeded())
    order, t = seeded(), 0
    for _ in range(2):
        for n in torch.randperm(60, generator=order):
            winner = (centres - x[n]).norm(dim=1).argmin()
            centres[winner] += 0.4 * 0.25 ** (t / 119) * (x[n] - centres[winner])
            t += 1
    torch.testing.assert_close(som.weight, centres)


@pytest.mark.oracle("sklearn.cluster.KMeans, Lloyd's algorithm")
@pytest.mark.parametrize("epochs", [1, 4])
def test_without_neighbours_batch_training_is_lloyds_algorithm(epochs):
    kmeans = pytest.importorskip("sklearn.cluster").KMeans
    x = data(200, 4)
    som = SelfOrganizingMap(4, grid=(2, 4), sigma0=0.0).double().start(x, generator=seeded(3))
    lloyd = kmeans(8, init=som.weight.numpy().copy(), n_init=1, max_iter=epochs, tol=0.0, algorithm="lloyd").fit(x.numpy())
    som.fit(x, epochs, mode="batch")
    np.testing.assert_allclose(som.weight.numpy(), lloyd.cluster_centers_, rtol=1e-9)


@pytest.mark.oracle("neighbourhood-weighted mean, written out")
@pytest.mark.parametrize("topology", ["rect", "hex"])
def test_batch_update_is_the_weighted_mean_of_all_data(topology):
    x, som = data(), SelfOrganizingMap(3, grid=(3, 4), topology=topology).double().start(data())
    places = [(i * (math.sqrt(3) / 2 if topology == "hex" else 1), j + (0.5 * (i % 2) if topology == "hex" else 0))
              for i in range(3) for j in range(4)]  # fmt: skip
    winners = [int((som.weight - row).norm(dim=1).argmin()) for row in x]
    expected = []
    for place in places:
        pulls = [math.exp(-math.dist(place, places[w]) ** 2 / (2 * 1.3**2)) for w in winners]
        expected.append(sum(p * row for p, row in zip(pulls, x)) / sum(pulls))
    som.batch_step(x, 1.3)
    torch.testing.assert_close(som.weight, torch.stack(expected))


@pytest.mark.oracle("convexity of one online step")
def test_one_step_moves_every_unit_part_of_the_way_and_stays_in_the_datas_box():
    x = data()
    som = SelfOrganizingMap(3, grid=(4, 4)).double().start(x[6:])
    before = som.weight.clone()
    som.step(x[5], sigma=1.5, lr=0.6)
    share = (som.weight - before) / (x[5] - before)
    torch.testing.assert_close(share, share[:, :1].expand_as(share))
    winner = (before - x[5]).norm(dim=1).argmin()
    assert share.max() <= 0.6 + 1e-12 and share[winner, 0].item() == pytest.approx(0.6) and share.min() > 0
    # One grid step away, and one diagonal step: exp(-1 / (2 · 1.5²)) and exp(-2 / (2 · 1.5²)).
    row, column = divmod(int(winner), 4)
    beside = (row + 1 if row < 3 else row - 1) * 4 + column
    diagonal = beside + (1 if column < 3 else -1)
    assert share[beside, 0].item() == pytest.approx(0.6 * math.exp(-1 / 4.5))
    assert share[diagonal, 0].item() == pytest.approx(0.6 * math.exp(-2 / 4.5))
    som.fit(x, epochs=3, generator=seeded())
    assert (som.weight >= x.amin(0)).all() and (som.weight <= x.amax(0)).all()


@pytest.mark.oracle("order of a one-dimensional map")
@pytest.mark.parametrize(("mode", "epochs"), [("online", 3), ("batch", 15)])
def test_a_line_of_units_on_an_interval_ends_in_order(mode, epochs):
    x = data(400, 1)
    som = SelfOrganizingMap(1, grid=(1, 12)).double().start(x, generator=seeded(1))
    assert som.weight[:, 0].diff().sign().unique().numel() == 2
    som.fit(x, epochs, mode=mode, generator=seeded())
    assert som.weight[:, 0].diff().sign().unique().numel() == 1 and som.topographic_error(x) == 0


def test_radius_and_rate_run_from_start_to_end_in_equal_ratios(monkeypatch):
    som, seen = SelfOrganizingMap(3, grid=(2, 8), sigma1=0.5, lr0=0.8, lr1=0.2).double(), []
    monkeypatch.setattr(som, "step", lambda point, sigma, lr: seen.extend((sigma, lr)))
    monkeypatch.setattr(som, "batch_step", lambda x, sigma: seen.append(sigma))
    som.fit(data(3), epochs=1)
    assert seen == pytest.approx([4.0, 0.8, 2.0**0.5, 0.4, 0.5, 0.2])
    seen.clear()
    som.fit(data(3), epochs=4, mode="batch")
    assert seen == pytest.approx([4.0, 2.0, 1.0, 0.5])
    seen.clear()
    som.fit(data(1), epochs=1)
    som.fit(data(1), epochs=1, mode="batch")
    assert seen == [4.0, 0.8, 4.0]


def test_radius_never_widens_and_starts_at_half_the_longer_side():
    assert SelfOrganizingMap(2, grid=(3, 9)).sigma0 == 4.5 and SelfOrganizingMap(2).sigma1 == 1.0
    assert SelfOrganizingMap(2, sigma0=0.3).sigma1 == 0.3
    som = SelfOrganizingMap(2)
    assert (som.lr0, som.lr1, som.grid) == (0.5, 0.01, (10, 10))


def test_online_training_follows_its_generator():
    def run(seed):
        return SelfOrganizingMap(3, grid=(3, 3)).double().start(x, generator=seeded(seed)).fit(x, 1, generator=seeded(seed)).weight

    x = data()
    assert torch.equal(run(4), run(4)) and not torch.equal(run(4), run(5))


def test_a_unit_that_no_data_reaches_stays():
    som = SelfOrganizingMap(1, grid=(1, 3), sigma0=0.0).double()
    som.weight.copy_(torch.tensor([[0.0], [1.0], [50.0]]))
    som.fit(torch.tensor([[0.2], [0.4], [0.8]], dtype=torch.float64), 1, mode="batch")
    torch.testing.assert_close(som.weight[:, 0], torch.tensor([0.3, 0.8, 50.0], dtype=torch.float64))


@pytest.mark.parametrize(("topology", "neighbours"), [("rect", [3, 5, 8]), ("hex", [2, 3, 4, 5, 6])])
def test_units_have_the_neighbours_of_their_grid(topology, neighbours):
    som = SelfOrganizingMap(2, grid=(5, 5), topology=topology)
    assert som.adjacent.sum(1).unique().tolist() == neighbours and not som.adjacent.diagonal().any()
    assert torch.equal(som.adjacent, som.adjacent.T)
    apart = (som.place[:, None] - som.place).norm(dim=-1)[som.adjacent]
    assert apart.max().item() == pytest.approx(1.0 if topology == "hex" else 2**0.5)


def test_a_checkpoint_holds_the_weights_and_nothing_else():
    assert list(SelfOrganizingMap(2, grid=(2, 3)).state_dict()) == ["weight"]


def test_best_matching_unit_is_given_as_row_and_column():
    som = SelfOrganizingMap(2, grid=(2, 3)).double()
    som.weight.copy_(torch.tensor([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]))
    assert som.bmu(torch.tensor([[0.1, 2.2], [0.9, 0.1], [0.5, 1.0]]).double()).tolist() == [[0, 2], [1, 0], [0, 1]]


@pytest.mark.oracle("scipy.spatial.distance.cdist")
def test_distances_and_quantization_error_are_those_of_scipy():
    distance = pytest.importorskip("scipy.spatial.distance")
    x, som = data(), SelfOrganizingMap(3, grid=(3, 4)).double()
    table = distance.cdist(x.numpy(), som.weight.numpy())
    np.testing.assert_allclose(som(x).flatten(1).numpy(), table**2)
    assert som.quantization_error(x).item() == pytest.approx(table.min(1).mean())


def test_topographic_error_counts_points_across_a_fold():
    som = SelfOrganizingMap(1, grid=(1, 4)).double()
    som.weight.copy_(torch.tensor([[0.0], [1.0], [2.0], [0.4]]))
    x = torch.tensor([[0.1], [0.3], [1.4], [2.5]], dtype=torch.float64)
    # closest two: (0, 3), (3, 0), (1, 2), (2, 1): the first pair are three steps apart
    assert som.topographic_error(x).item() == 0.5
    som.weight.copy_(torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    assert som.topographic_error(x).item() == 0
    assert SelfOrganizingMap(1, grid=(1, 2)).double().topographic_error(x).item() == 0


def test_u_matrix_is_the_mean_distance_to_neighbours():
    som = SelfOrganizingMap(1, grid=(2, 3)).double()
    som.weight.copy_(torch.tensor([[0.0], [1.0], [5.0], [0.0], [2.0], [5.0]]))
    expected = [[(1 + 0 + 2) / 3, (1 + 4 + 1 + 1 + 4) / 5, (4 + 3 + 0) / 3], [(0 + 1 + 2) / 3, (2 + 1 + 3 + 2 + 3) / 5, (4 + 0 + 3) / 3]]
    torch.testing.assert_close(som.u_matrix(), torch.tensor(expected, dtype=torch.float64))


def test_starting_from_a_sample_copies_data_points():
    x, som = data(), SelfOrganizingMap(3, grid=(3, 3)).double()
    assert som.start(x, generator=seeded(2)) is som
    assert ((som.weight[:, None] - x).abs().sum(-1) == 0).any(1).all()
    assert not torch.equal(som.weight.clone(), som.start(x, generator=seeded(3)).weight)


@pytest.mark.oracle("principal components by eigenvalues of the covariance")
@pytest.mark.parametrize("grid", [(4, 7), (7, 4)])
def test_starting_as_a_plane_lies_along_the_principal_components(grid):
    x = data(300, 3) @ torch.diag(torch.tensor([1.0, 5.0, 0.2])).double() + 4
    som = SelfOrganizingMap(3, grid=grid).double().start(x, how="plane")
    variance, axes = torch.linalg.eigh(torch.cov(x.T, correction=0))
    flat = (som.weight - x.mean(0)) @ axes
    torch.testing.assert_close(som.weight.mean(0), x.mean(0))
    torch.testing.assert_close(flat.square().mean(0), torch.tensor([0.0, *variance[1:]], dtype=torch.float64), atol=1e-9, rtol=1e-9)
    long, short = (1, 0) if grid[1] > grid[0] else (0, 1)
    lattice = flat.view(*grid, 3)
    assert lattice[..., 2].diff(dim=long).abs().min() > 0.1 and lattice[..., 2].diff(dim=short).abs().max() < 1e-9
    assert lattice[..., 1].diff(dim=short).abs().min() > 0.1


def test_a_line_of_units_can_start_as_a_line():
    som = SelfOrganizingMap(1, grid=(1, 5)).double().start(data(50, 1), how="plane")
    assert som.weight[:, 0].diff().sign().unique().numel() == 1
    assert SelfOrganizingMap(2, grid=(1, 1)).double().start(data(50, 2), how="plane").weight.isfinite().all()


def test_features_on_a_larger_scale_decide_the_map():
    """Why data is standardised: the second feature is as informative but a hundredth the size, and its order is lost."""
    x = data(300, 2) * torch.tensor([100.0, 1.0])
    scaled = (x - x.mean(0)) / x.std(0)
    def spread(data_):
        som = SelfOrganizingMap(2, grid=(6, 6)).double().start(data_, generator=seeded()).fit(data_, 10, mode="batch")
        return (som.weight.std(0) / data_.std(0)).tolist()

    assert spread(x)[1] < 0.4 < 0.6 < min(spread(scaled))


def test_shrinking_the_radius_at_once_leaves_a_twisted_map():
    x = data(400, 2)
    def train(sigma0):
        return SelfOrganizingMap(2, grid=(8, 8), sigma0=sigma0).double().start(x, generator=seeded(2)).fit(x, 20, mode="batch")

    patient, hasty = train(4.0), train(0.3)
    assert patient.topographic_error(x) < 0.05 and hasty.topographic_error(x) > 0.5
    assert hasty.quantization_error(x) < patient.quantization_error(x), "the quantization error does not show it"


def test_numpy_variant_agrees(agree):
    x, som = data(80, 2), SelfOrganizingMap(2, grid=(4, 5), sigma0=2.0, lr1=0.02).double().start(data(80, 2))
    place = som.place.numpy()
    order = torch.randperm(80, generator=seeded()).numpy()
    found = numpy_variant.train(x.numpy(), som.weight.numpy().copy(), place, order, (2.0, 1.0), (0.5, 0.02))
    som.fit(x, 1, generator=seeded())
    agree(found, som.weight)
    agree(numpy_variant.u_matrix(found, place), som.u_matrix().flatten())
    agree(numpy_variant.errors(x.numpy(), found, place), torch.stack([som.quantization_error(x), som.topographic_error(x)]))


@pytest.mark.interp
def test_kernel_agrees(kernel_agrees):
    x, start = data(50, 3), data(12, 3)

    def run(backend):
        som = SelfOrganizingMap(3, grid=(3, 4), backend=backend).double()
        som.weight.copy_(start)
        return som.bmu(x), som.quantization_error(x), som.fit(x, 2, mode="batch").weight

    kernel_agrees("nearest_row", run)


def test_nan_in_the_data_shows_in_every_number():
    x, som = data(), SelfOrganizingMap(3, grid=(2, 3)).double()
    x[3, 1] = torch.nan
    assert som.quantization_error(x).isnan() and som.topographic_error(x).isnan() and som(x)[3].isnan().all()
    assert som.fit(x, 1, mode="batch").weight.isnan().any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(dim=0), "dim=0 is not positive"),
        (dict(dim=2, grid=(0, 3)), r"grid=\(0, 3\) is not \(rows, columns\)"),
        (dict(dim=2, grid=(2, 3, 4)), r"grid=\(2, 3, 4\)"),
        (dict(dim=2, topology="torus"), "topology='torus'; expected 'rect' or 'hex'"),
        (dict(dim=2, sigma0=-1.0), "sigma0=-1.0 is not a radius"),
        (dict(dim=2, sigma0=math.inf), "sigma0=inf"),
        (dict(dim=2, sigma1=-0.1), "sigma1=-0.1 is not a radius"),
        (dict(dim=2, sigma1=math.inf), "sigma1=inf"),
        (dict(dim=2, lr0=1.5), "lr0=1.5, lr1=0.01: expected 0 < lr1 <= lr0 <= 1"),
        (dict(dim=2, lr0=0.1, lr1=0.2), "lr0=0.1, lr1=0.2"),
        (dict(dim=2, lr1=0.0), "lr1=0.0"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SelfOrganizingMap(**arguments)


def test_smallest_and_largest_settings_are_allowed():
    som = SelfOrganizingMap(1, grid=(1, 1), sigma0=0.0, sigma1=0.0, lr0=1.0, lr1=1.0).double()
    som.fit(torch.tensor([[7.0]]).double(), 1)
    assert som.weight.item() == 7.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda som, x: som(x[:, :2]), r"x has shape \(60, 2\); expected \(points, dim=3\)"),
        (lambda som, x: som.bmu(x[0]), r"x has shape \(3,\)"),
        (lambda som, x: som.quantization_error(x[:, :2]), "dim=3"),
        (lambda som, x: som(x.float()), "x has dtype torch.float32; expected torch.float64 as the weights"),
        (lambda som, x: som.fit(x, 0), "epochs=0 over 60 rows"),
        (lambda som, x: som.fit(x[:0], 3), "epochs=3 over 0 rows"),
        (lambda som, x: som.fit(x[:, :1], 3), "dim=3"),
        (lambda som, x: som.fit(x, 1, mode="both"), "mode='both'; expected 'online' or 'batch'"),
        (lambda som, x: som.start(x, how="zero"), "how='zero'; expected 'sample' or 'plane'"),
        (lambda som, x: som.start(x[:0]), "x has no rows"),
        (lambda som, x: som.start(x[:, :1]), "dim=3"),
        (lambda som, x: SelfOrganizingMap(3, grid=(1, 1)).double().topographic_error(x), r"grid=\(1, 1\) has no second"),
    ],
)
def test_bad_calls_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(SelfOrganizingMap(3, grid=(2, 3)).double(), data())


def test_demo_unfolds_and_stays_twisted_with_a_small_radius():
    def folded(**controls):
        return numpy_variant.show(**controls)[2]["series"]["topographic error"][-1][1]

    assert folded(data="square", steps=3000) < 0.1 and folded(data="square", sigma0=0.3, steps=3000) > 0.5
