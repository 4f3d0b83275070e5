"""Second derivatives against ones that are computed another way: differences of ordinary gradients."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from light_llm.data import Batch
from light_llm.errors import ConfigError
from light_llm.model import LightLLM
from light_llm.observe.curvature import (
    Density,
    adam_metric,
    adam_threshold,
    gradient_descent_threshold,
    hessian_of,
    lanczos,
    mean_and_error,
    rademacher,
    spectral_density,
)
from light_llm.observe.flat_params import (
    flatten,
    mean_loss,
    mean_loss_by_formula,
    trainable_parameters,
    unflatten,
    use_naive_attention,
)
from tests.support.tools import some_batch, tiny_model

F64 = torch.float64


def small() -> tuple[LightLLM, Batch]:
    """A model of a thousand parameters, and three sequences."""
    model = tiny_model(scale=4, vocab_size=11, n_positions=6, n_embd=8, n_layer=1, n_head=2)
    return model, some_batch(3, 6, V=11)


@pytest.fixture(scope="module")
def exact() -> Tensor:
    """The Hessian (n, n) of that model by central differences of its gradient, in float64, with torch's own attention.

    No function is differentiated twice, and the naive attention and loss are not used.
    """
    model, batch = small()
    model = copy.deepcopy(model).double()
    for block in model.h:
        block.attn.attend = lambda q, k, v, *_: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    weights = list(model.parameters())

    def gradient() -> Tensor:
        loss = F.cross_entropy(model(batch.tokens).flatten(0, 1), batch.targets.flatten())
        return flatten(torch.autograd.grad(loss, weights))

    columns, step = [], 1e-5
    for w in weights:
        flat = w.data.view(-1)
        for i in range(len(flat)):
            was = float(flat[i])
            flat[i] = was + step
            above = gradient()
            flat[i] = was - step
            columns.append((above - gradient()) / (2 * step))
            flat[i] = was
    H = torch.stack(columns)
    assert (H - H.T).abs().max() < 1e-8 * H.abs().max()
    return (H + H.T) / 2


def signs(n: int, seed: int = 0) -> Tensor:
    return rademacher(n, torch.Generator().manual_seed(seed), torch.zeros((), dtype=F64))


# ---- the products


def test_products_are_those_of_the_whole_hessian(exact: Tensor) -> None:
    model, batch = small()
    for dtype, tolerance in ((F64, 1e-8), (torch.float32, 1e-5)):
        hessian = hessian_of(model, batch, dtype)
        for seed in range(3):
            v = torch.randn(len(exact), generator=torch.Generator().manual_seed(seed), dtype=F64)
            found = hessian.product(v)
            assert found.dtype == dtype
            assert (found.double() - exact @ v).norm() <= tolerance * (exact @ v).norm()


def test_loss_and_gradient_are_those_of_training() -> None:
    """Value and gradient by formula against the chunked loss and the fused attention."""
    model, batch = small()
    hessian = hessian_of(model, batch)
    at = flatten(trainable_parameters(model).values()).requires_grad_(True)
    loss = mean_loss(model, at, batch)
    (gradient,) = torch.autograd.grad(loss, at)
    assert hessian.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    torch.testing.assert_close(hessian.gradient, gradient, rtol=1e-4, atol=1e-6)


def test_ignored_targets_count_for_nothing() -> None:
    model, batch = small()
    targets = batch.targets.clone()
    targets[1:] = -100
    alone, first = hessian_of(model, Batch(batch.tokens, targets)), Batch(batch.tokens[:1], batch.targets[:1])
    v = signs(len(alone.gradient)).float()
    torch.testing.assert_close(alone.product(v), hessian_of(model, first).product(v), rtol=1e-4, atol=1e-6)


def test_frozen_parameters_are_left_out(exact: Tensor) -> None:
    """The Hessian of what is trained is a block of the whole one."""
    model, batch = small()
    at, kept = 0, []
    for name, p in model.named_parameters():
        p.requires_grad_(".mlp." in name)
        kept += range(at, at + p.numel()) if p.requires_grad else []
        at += p.numel()
    hessian, block = hessian_of(model, batch, F64), exact[kept][:, kept]
    v = signs(len(kept))
    assert len(hessian.gradient) == len(kept)
    torch.testing.assert_close(hessian.product(v), block @ v, rtol=1e-5, atol=1e-7)


def test_the_result_outlives_an_update() -> None:
    model, batch = small()
    hessian = hessian_of(model, batch)
    v = signs(len(hessian.gradient)).float()
    before = hessian.product(v)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    assert torch.equal(hessian.product(v), before)


def test_everything_is_put_back_after_an_error() -> None:
    model, batch = small()
    model.train()
    attend = model.h[0].attn.attend
    with pytest.raises(KeyboardInterrupt), use_naive_attention(model):
        assert not model.training and model.h[0].attn.attend is not attend
        raise KeyboardInterrupt
    assert all(m.training for m in model.modules()) and model.h[0].attn.attend is attend
    wrong = Batch(batch.tokens + 100, batch.targets)
    before = flatten(model.parameters())
    with pytest.raises(ConfigError, match="token ids"):
        mean_loss_by_formula(model, torch.zeros_like(before), wrong)
    assert torch.equal(flatten(model.parameters()), before) and model.h[0].attn.attend is attend


def test_vectors_and_tensors_are_the_same_numbers() -> None:
    model, _ = small()
    vector = flatten(model.parameters())
    back = unflatten(vector, trainable_parameters(model))
    assert back.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(t, model.get_parameter(name)) for name, t in back.items())
    vector.zero_()
    assert model.wte.weight.any(), "a copy"


# ---- eigenvalues


def test_no_eigenvalue_is_found_twice() -> None:
    """Without reorthogonalisation, copies of the largest appear: here it converges long before the last step."""
    values = torch.cat([torch.linspace(0, 1, 299), torch.tensor([50.0])])
    found = lanczos(lambda v: values * v, signs(300).float(), 60)
    assert (found.values > 49).sum() == 1


def test_it_ends_where_nothing_more_can_be_reached() -> None:
    values = torch.tensor([2.0, 2.0, 2.0, -1.0, -1.0], dtype=F64)
    found = lanczos(lambda v: values * v, signs(5), 5)
    assert found.values.tolist() == pytest.approx([2, -1]) and found.residuals.max() < 1e-12
    assert found.weights.tolist() == pytest.approx([0.6, 0.4])
    assert len(lanczos(lambda v: torch.zeros_like(v), signs(5), 5).values) == 1
    assert len(lanczos(lambda v: values * v, signs(5), 100).values) <= 5


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_eigenvalues_are_those_of_the_whole_hessian(exact: Tensor, dtype: torch.dtype) -> None:
    model, batch = small()
    hessian, true = hessian_of(model, batch, dtype), torch.linalg.eigvalsh(exact).flip(0)
    found = lanczos(hessian.product, signs(len(true)).to(dtype), 60)
    assert found.values[:5].tolist() == pytest.approx(true[:5].tolist(), rel=1e-3)
    assert float(found.values[-1]) == pytest.approx(float(true[-1]), rel=1e-3) and true[-1] < 0


# ---- trace and density


def test_the_trace_is_exact_over_a_basis_and_honest_over_signs(exact: Tensor) -> None:
    model, batch = small()
    hessian, n, true = hessian_of(model, batch, F64), len(exact), float(exact.trace())
    basis = [float(hessian.product(e)[i]) for i, e in enumerate(torch.eye(n, dtype=F64))]
    assert mean_and_error(basis)[0] * n == pytest.approx(true, rel=1e-7)
    forms = [float(v @ exact @ v) for v in map(signs, [n] * 300, range(300))]
    mean, error = mean_and_error(forms)
    assert error is not None and abs(mean - true) < 3 * error
    # The variance of v^T H v over random signs is 2 sum of the squared elements off the diagonal.
    off = exact - torch.diag(exact.diagonal())
    assert error == pytest.approx(math.sqrt(2 * float(off.square().sum()) / 300), rel=0.15)
    assert mean_and_error([2.0]) == (2.0, None)


def grid_moments(density: Density) -> list[float]:
    """The integrals of 1, x and x^2 over the grid, the known broadening taken off the last."""
    weights = density.density * (density.at[1] - density.at[0])
    zeroth, first, second = (float(weights @ density.at**power) for power in range(3))
    return [zeroth, first, second - density.broadening**2]


def test_the_density_has_the_moments_of_the_whole_hessian(exact: Tensor) -> None:
    """tr(H)/n and tr(H^2)/n within 2%, from a whole basis of starts, so that no luck of the signs is in it."""
    n = len(exact)
    density = spectral_density([lanczos(lambda v: exact @ v, start, 2) for start in torch.eye(n, dtype=F64)])
    true = [1, float(exact.trace()) / n, float(exact.square().sum()) / n]
    assert grid_moments(density) == pytest.approx(true, rel=0.02)


def test_random_signs_come_as_near_as_their_spread_says(exact: Tensor) -> None:
    n, third = len(exact), float((exact @ exact * exact).sum()) / len(exact)
    found = [lanczos(lambda v: exact @ v, signs(n, seed), 12) for seed in range(60)]
    density = spectral_density(found)
    wanted = [float(exact.trace()) / n, float(exact.square().sum()) / n, third]
    for power, true in enumerate(wanted, start=1):
        mean, error = mean_and_error([float(r.weights @ r.values**power) for r in found])
        assert error is not None and abs(mean - true) < 3 * error
        if power < 3:
            assert grid_moments(density)[power] == pytest.approx(mean, rel=1e-3)
    assert error < 0.25 * abs(third), "or the test above would allow anything"


# ---- Adam's metric and the thresholds


def test_the_metric_is_what_adamw_divides_by() -> None:
    """With beta1 = 0 a step is lr g / P: P read off a step of torch's own AdamW."""
    model, batch = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.0, 0.95), eps=1e-4, weight_decay=0.0)
    for _ in range(3):
        at = flatten(model.parameters()).double()
        optimizer.zero_grad()
        F.cross_entropy(model(batch.tokens).flatten(0, 1), batch.targets.flatten()).backward()
        optimizer.step()
    weights = dict(model.named_parameters())
    tensors = {f"{name}/{what}": t for name, p in weights.items() for what, t in optimizer.state[p].items()}
    metric = adam_metric(tensors, weights, beta2=0.95, eps=1e-4)
    moved = at - flatten(model.parameters())
    g = flatten(p.grad for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(moved * metric, 1e-3 * g.double(), rtol=1e-3, atol=1e-8)
    del tensors["wpe.weight/exp_avg_sq"]
    with pytest.raises(KeyError, match="wpe.weight/exp_avg_sq"):
        adam_metric(tensors, weights, beta2=0.95, eps=1e-4)


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
def test_beyond_the_threshold_steps_grow_and_below_it_they_shrink(beta1: float) -> None:
    """On a parabola of curvature h, with a mean of gradients as Adam takes it, and a metric that stands still."""
    lr = 0.1
    for share, grows in ((0.98, False), (1.02, True)):
        h, w, m = share * adam_threshold(lr, beta1), 1.0, 0.0
        for _ in range(3000):
            m = beta1 * m + (1 - beta1) * h * w
            w -= lr * m
        assert (abs(w) > 1) == grows
    assert adam_threshold(lr, 0.9) == pytest.approx(38 / lr)
    assert adam_threshold(lr, 0.0) == gradient_descent_threshold(lr) == 2 / lr


# ---- what cannot be computed


def test_errors() -> None:
    model, batch = small()
    with pytest.raises(ConfigError, match="steps=0 cannot be used; the Lanczos iteration needs at least 1"):
        lanczos(lambda v: v, torch.ones(3), 0)
    with pytest.raises(ConfigError, match="a product with the Hessian is not finite"):
        lanczos(lambda v: v * math.inf, torch.ones(3), 2)
    model.ln_f.bias.data[0] = math.nan
    with pytest.raises(ConfigError, match="the loss at these weights is nan and .* analyse an earlier checkpoint"):
        hessian_of(model, batch)
    with pytest.raises(ConfigError, match="no parameter of this model is trainable, so its loss has no curvature"):
        hessian_of(model.requires_grad_(False), batch)
