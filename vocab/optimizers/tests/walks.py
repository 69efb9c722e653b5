"""What tests of optimizers share: walks on gradients that depend on the weights and on the time, and on simple losses."""

import torch
from torch.nn import Parameter

from vocab.kernels.dispatch import watch

SHAPES = ((5, 4), (3, 2, 6), (7,), ())


def layers(*shapes, scale=1.0):
    """The same weights at every call."""
    torch.manual_seed(3)
    return [Parameter(scale * torch.randn(shape, dtype=torch.float64)) for shape in shapes]


def pull(params, t, factor=1.0):
    """Gives each a gradient that depends on the weights and on the time, so that a wrong state shows."""
    torch.manual_seed(100 + t)
    for p in params:
        p.grad = factor * (0.3 * p.detach() + torch.randn_like(p)) * (1 + t % 3)


def take(optimizer, params, t):
    """One step with such a gradient."""
    pull(params, t)
    optimizer.step()


def walk(build, params, steps, factor=1.0):
    """Steps of an optimizer; returns the weights after each."""
    optimizer, path = build(params), []
    for t in range(steps):
        pull(params, t, factor)
        optimizer.step()
        path.append([p.detach().clone() for p in params])
    return path


def assert_same_steps(one, two, ours, theirs, steps=100, rtol=1e-10, atol=1e-12):
    """Two optimizers move their parameters alike at every step, and somewhere."""
    start = [p.detach().clone() for p in ours]
    for t in range(steps):
        take(one, ours, t)
        take(two, theirs, t)
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
    assert all((p - before).abs().max() > 1e-4 for p, before in zip(ours, start)), "nothing has moved"


def assert_same_path(ours, theirs, steps=100, rtol=1e-10, atol=1e-12, shapes=SHAPES, scale=1.0):
    """Two builders of optimizers walk the same path from the same weights, and one that leads somewhere."""
    one, two = layers(*shapes, scale=scale), layers(*shapes, scale=scale)
    assert_same_steps(ours(one), theirs(two), one, two, steps, rtol, atol)


def assert_kernel_agrees(kernel_agrees, build, shapes=SHAPES, steps=3):
    """The interpreted kernel and plain torch take the same steps, tensor by tensor and together; ``build(params, **options)``."""
    for foreach in (False, True):

        def run(backend, foreach=foreach):
            params = layers(*shapes)
            optimizer = build(params, foreach=foreach, backend=backend)
            with watch() as launches:
                for t in range(steps):
                    take(optimizer, params, t)
            assert len(launches) == (steps if foreach else steps * len(params))
            return params, [x for p in params for x in optimizer.state[p].values() if isinstance(x, torch.Tensor)]

        kernel_agrees("multi_tensor", run, atol=1e-14)


def follow(build, gradients, start=0.0):
    """Positions of one weight under these gradients, from the start on."""
    w = Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer, found = build([w]), [start]
    for g in gradients:
        w.grad = torch.tensor(float(g), dtype=torch.float64)
        optimizer.step()
        found.append(w.item())
    return torch.tensor(found, dtype=torch.float64)


def quadratic(build, A, start, steps):
    """Positions on 0.5 x'Ax, from the start on."""
    w = Parameter(start.clone())
    optimizer, found = build([w]), [start.clone()]
    for _ in range(steps):
        w.grad = A @ w.detach()
        optimizer.step()
        found.append(w.detach().clone())
    return torch.stack(found)


def buffers(build, shape=(3, 2)):
    """Shapes of the tensors that an optimizer keeps for a parameter after a step."""
    params = layers(shape)
    optimizer = build(params)
    pull(params, 0)
    optimizer.step()
    return [tuple(x.shape) for x in optimizer.state[params[0]].values() if isinstance(x, torch.Tensor)]


def in_numpy(step, build, steps=25, shape=(5, 3)):
    """The NumPy variant's and the module's weights after the same gradients."""
    (w,) = layers(shape)
    found, state, optimizer = w.detach().numpy().copy(), {}, build([w])
    for t, g in enumerate(torch.randn(steps, *shape, dtype=torch.float64), 1):
        w.grad = g.clone()
        found = step(found, g.numpy(), state, t)
        optimizer.step()
    assert (w.detach() - layers(shape)[0]).abs().max() > 1e-3
    return found, w


def numbers_per_weight(optimizer, weight):
    """How many numbers of state one weight of this parameter has, without the count of steps."""
    return sum(x.numel() for x in optimizer.state[weight].values() if isinstance(x, torch.Tensor) and x.numel() > 1) / weight.numel()
