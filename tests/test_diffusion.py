"""Noise schedules, weights, the variational bound and the steps back, against loops in float64."""

import math

import numpy as np
import pytest
import torch

from pretask.encoders.sampling import reverse
from pretask.errors import UsageError
from pretask.objectives.diffusion import (
    WEIGHTS,
    band_shares,
    in_terms_of,
    noise_error,
    p2_weight,
    rough_cdf,
    variance_bound,
)
from pretask.pretexts.diffusion import (
    BANDS,
    BETAS,
    bands,
    cosine_betas,
    diffuse,
    left_over,
    linear_betas,
    make_schedule,
    posterior_mean,
    respaced,
    spread_levels,
    strided_levels,
    undiffuse,
)

T = 1000


@pytest.fixture(scope="module")
def schedule():
    return make_schedule(linear_betas(T))


def a_bars(betas) -> list[float]:
    found, product = [], 1.0
    for beta in betas.tolist():
        product *= 1 - beta
        found.append(product)
    return found


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- schedules


@pytest.mark.parametrize("levels", [50, 1000])
def test_betas(levels):
    linear = [1000 / levels * (1e-4 + (0.02 - 1e-4) * i / (levels - 1)) for i in range(levels)]
    assert linear_betas(levels).tolist() == pytest.approx(linear, rel=1e-12)
    a = [math.cos((i / levels + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(levels + 1)]
    assert cosine_betas(levels).tolist() == pytest.approx(
        [min(1 - a[i + 1] / a[i], 0.999) for i in range(levels)], rel=1e-12
    )


@pytest.mark.parametrize("kind", BETAS)
def test_tables(kind):
    betas = BETAS[kind](100)
    found, left = make_schedule(betas), a_bars(betas)
    for t in range(100):
        beta, now, before = float(betas[t]), left[t], left[t - 1] if t else 1.0
        small = beta * (1 - before) / (1 - now)
        floor = float(betas[1]) * (1 - left[0]) / (1 - left[1])
        expected = {
            "signal": math.sqrt(now),
            "noise": math.sqrt(1 - now),
            "snr": now / (1 - now),
            "unsignal": 1 / math.sqrt(now),
            "unnoise": math.sqrt(1 / now - 1),
            "from_clean": math.sqrt(before) * beta / (1 - now),
            "from_noisy": math.sqrt(1 - beta) * (1 - before) / (1 - now),
            "log_small": math.log(small if t else floor),
            "log_large": math.log(beta),
            "log_fixed": math.log(beta if t else floor),
            "bound": beta**2 / (2 * beta * (1 - beta) * (1 - now)),
        }
        for name, value in expected.items():
            assert float(getattr(found, name)[t]) == pytest.approx(value, rel=2e-5, abs=1e-7), (name, t)


def test_the_papers_numbers(schedule):
    """Counted from the formulas with T = 1000 and the linear schedule."""
    assert float(schedule.snr[0]) == pytest.approx(9999, rel=1e-4)
    assert float(schedule.snr[258]) > 1 > float(schedule.snr[259])
    assert a_bars(linear_betas(T))[999] == pytest.approx(4.036e-5, rel=1e-3)
    counts = torch.bincount(bands(schedule.snr)).tolist()
    assert dict(zip(BANDS, counts, strict=True)) == {"coarse": 326, "content": 415, "clean-up": 259}
    assert float(p2_weight(schedule, 1, 1).mean()) == pytest.approx(0.7245, abs=5e-5)
    assert float(p2_weight(schedule, 1, 0.5).mean()) == pytest.approx(0.8059, abs=5e-5)
    assert float(p2_weight(schedule, 1, 1)[0]) == pytest.approx(1e-4, rel=1e-3)


def test_a_schedule_that_is_none_is_refused():
    for betas in (torch.tensor([0.5]), torch.tensor([0.5, 0.0]), torch.tensor([0.5, 1.5])):
        with pytest.raises(UsageError, match="beta"):
            make_schedule(betas)


def test_noise_goes_in_and_out(schedule):
    clean, noise, level = pictures(3, 2, 4, 4), pictures(3, 2, 4, 4, seed=1), torch.tensor([0, 300, 999])
    noisy, left = diffuse(schedule, clean, noise, level), a_bars(linear_betas(T))
    for i, t in enumerate(level.tolist()):
        expected = math.sqrt(left[t]) * clean[i] + math.sqrt(1 - left[t]) * noise[i]
        torch.testing.assert_close(noisy[i], expected)
    torch.testing.assert_close(undiffuse(schedule, noisy, noise, level), clean, rtol=1e-3, atol=1e-3)


def test_the_step_back_is_the_gaussian_between(schedule):
    """Mean and variance of x_(t-1) given x_t and x_0 by Bayes' rule, from products of normal densities."""
    betas, left = linear_betas(T), a_bars(linear_betas(T))
    for t in (1, 10, 500, 999):
        x0, xt, beta = 0.7, -0.4, float(betas[t])
        # x_(t-1) | x_0 ~ N(sqrt(before) x0, 1 - before); x_t | x_(t-1) ~ N(sqrt(1 - beta) x_(t-1), beta)
        before = left[t - 1]
        precision = 1 / (1 - before) + (1 - beta) / beta
        mean = (math.sqrt(before) * x0 / (1 - before) + math.sqrt(1 - beta) * xt / beta) / precision
        one = torch.ones(1, 1, 1, 1)
        found = posterior_mean(schedule, x0 * one, xt * one, torch.tensor([t]))
        assert float(found) == pytest.approx(mean, rel=1e-4)
        assert math.exp(float(schedule.log_small[t])) == pytest.approx(1 / precision, rel=1e-4)


@pytest.mark.parametrize("steps", [1, 7, 25, 250, 1000, 5000])
def test_some_levels_of_a_process_are_a_process(steps):
    betas = linear_betas(T)
    levels = spread_levels(T - 1, steps)
    assert len(levels) == min(steps, T) and levels == sorted(set(levels)) and levels[0] == 0
    if steps > 1:
        assert levels[-1] == T - 1 and max(np.diff(levels)) - min(np.diff(levels)) <= 1
    kept = left_over(respaced(betas, levels))
    assert kept.tolist() == pytest.approx([a_bars(betas)[t] for t in levels], rel=1e-9)


def test_middles_round_as_the_official_code_adds_them_up():
    assert spread_levels(T - 1, 21)[10] == 499 and spread_levels(T - 1, 3) == [0, 500, 999]


@pytest.mark.parametrize(
    ("levels", "steps"), [(1000, 25), (1000, 50), (1000, 250), (1000, 1000), (300, 7), (10, 1)]
)
def test_ddim_takes_the_first_stride_that_gives_so_many_levels(levels, steps):
    exact = [stride for stride in range(1, levels + 1) if len(range(0, levels, stride)) == steps]
    assert strided_levels(levels, steps) == list(range(0, levels, exact[0]))


def test_where_no_stride_gives_so_many_levels_they_are_fewer():
    assert strided_levels(1000, 25)[-1] == 960
    assert len(strided_levels(1000, 600)) == 500 and len(strided_levels(10, 50)) == 10


# ---- weights


def test_weights(schedule):
    left = a_bars(linear_betas(T))
    for t in (0, 100, 258, 700, 999):
        snr = left[t] / (1 - left[t])
        assert float(p2_weight(schedule, 0.5, 0.7)[t]) == pytest.approx((0.5 + snr) ** -0.7, rel=1e-4)
        assert float(p2_weight(schedule)[t]) == pytest.approx(1 - left[t], rel=1e-4)
        assert float(WEIGHTS["min-snr"](schedule)[t]) == pytest.approx(min(snr, 5) / snr, rel=1e-4)
        assert float(WEIGHTS["truncated-snr"](schedule)[t]) == pytest.approx(max(snr, 1) / snr, rel=1e-4)
    assert torch.equal(p2_weight(schedule, gamma=0), torch.ones(T))


def test_a_weight_asks_the_same_in_other_terms(schedule):
    """w |noise error|^2 is the other weight times the picture's or the velocity's error, level by level."""
    level = torch.tensor([5, 258, 800])
    clean, noise, guess = (pictures(3, 1, 8, 8, seed=seed).double() for seed in (0, 1, 2))
    double = schedule._replace(**{name: table.double() for name, table in schedule._asdict().items()})
    noisy, weight = diffuse(double, clean, noise, level), p2_weight(double, 1, 0.5)
    picture = undiffuse(double, noisy, guess, level)
    signal, haze = (table[level].view(-1, 1, 1, 1) for table in (double.signal, double.noise))
    errors = {
        "noise": (guess - noise).square(),
        "picture": (picture - clean).square(),
        "velocity": ((signal * guess - haze * picture) - (signal * noise - haze * clean)).square(),
    }
    asked = {
        name: in_terms_of(name, weight, double.snr)[level] * error.mean((1, 2, 3))
        for name, error in errors.items()
    }
    torch.testing.assert_close(asked["picture"], asked["noise"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(asked["velocity"], asked["noise"], rtol=1e-3, atol=1e-6)


def test_p2_moves_what_counts_from_cleaning_up_to_content(schedule):
    even, p2 = (band_shares(p2_weight(schedule, 1, gamma), schedule.snr) for gamma in (0, 1))
    assert even == pytest.approx({"coarse": 0.326, "content": 0.415, "clean-up": 0.259}, abs=1e-6)
    assert sum(p2.values()) == pytest.approx(1) and p2["clean-up"] < 0.6 * even["clean-up"]
    error = torch.linspace(1, 2, T)
    counted = p2_weight(schedule) * error
    expected = float(counted[schedule.snr < 1e-2].sum() / counted.sum())
    assert band_shares(p2_weight(schedule), schedule.snr, error)["coarse"] == pytest.approx(expected)


# ---- what is minimised


def naive_bound(betas, guess, between, clean, noisy, t) -> float:
    """The terms of the variational bound number by number: a KL divergence by its integral's closed form, at
    level 0 the probability of a byte's bin, in bits, times T / 1000."""
    left, levels = a_bars(betas), len(betas)
    beta, now, before = float(betas[t]), left[t], left[t - 1] if t else 1.0
    floor = float(betas[1]) * (1 - left[0]) / (1 - left[1])
    small = beta * (1 - before) / (1 - now) if t else floor
    total = 0.0
    numbers = zip(guess, between, clean, noisy, strict=True)
    for e, v, x0, xt in numbers:
        log_variance = (v + 1) / 2 * math.log(beta) + (1 - (v + 1) / 2) * math.log(small)
        rebuilt = (xt - math.sqrt(1 - now) * e) / math.sqrt(now)
        c0 = math.sqrt(before) * beta / (1 - now)
        ct = math.sqrt(1 - beta) * (1 - before) / (1 - now)
        mean, true = c0 * rebuilt + ct * xt, c0 * x0 + ct * xt
        variance = math.exp(log_variance)
        if t:
            total += 0.5 * (
                log_variance - math.log(small) - 1 + small / variance + (true - mean) ** 2 / variance
            )
            continue
        cdf = lambda x: 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))  # noqa: E731
        deviation = math.sqrt(variance)
        above, below = cdf((x0 - mean + 1 / 255) / deviation), cdf((x0 - mean - 1 / 255) / deviation)
        if x0 < -0.999:
            p = above
        elif x0 > 0.999:
            p = 1 - below
        else:
            p = above - below
        total -= math.log(max(p, 1e-12))
    return total / len(guess) / math.log(2) * levels / 1000


@pytest.mark.parametrize("levels", [1000, 200])
def test_bound_is_its_formula(levels):
    betas = linear_betas(levels)
    tables = make_schedule(betas)
    level = torch.tensor([0, 0, 1, levels // 2, levels - 1])
    clean = (pictures(5, 2, 4, 4).clamp(-1, 1) * 127.5).round() / 127.5
    clean[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    noise, between = pictures(5, 2, 4, 4, seed=1), pictures(5, 2, 4, 4, seed=2) / 2
    noisy = diffuse(tables, clean, noise, level)
    guess = noise + 0.1 * pictures(5, 2, 4, 4, seed=3)
    found = variance_bound(tables, guess, between, clean, noisy, level)
    for i, t in enumerate(level.tolist()):
        parts = (part[i].flatten().double().tolist() for part in (guess, between, clean, noisy))
        assert float(found[i]) == pytest.approx(naive_bound(betas, *parts, t), rel=2e-3, abs=1e-5), t


def test_only_variances_learn_from_the_bound(schedule):
    clean, noise = pictures(2, 1, 4, 4), pictures(2, 1, 4, 4, seed=1)
    level = torch.tensor([3, 700])
    guess, between = noise.clone().requires_grad_(), torch.zeros(2, 1, 4, 4, requires_grad=True)
    variance_bound(
        schedule, guess, between, clean, diffuse(schedule, clean, noise, level), level
    ).sum().backward()
    assert guess.grad is None and between.grad.abs().min() > 0


def test_the_rough_distribution_function_is_close():
    x = torch.linspace(-4, 4, 81)
    torch.testing.assert_close(rough_cdf(x), torch.distributions.Normal(0, 1).cdf(x), rtol=0, atol=5e-4)


def test_noise_error_is_a_mean_over_all_numbers():
    guess, noise = pictures(3, 2, 5, 5), pictures(3, 2, 5, 5, seed=1)
    expected = [float(((g - n) ** 2).sum() / 50) for g, n in zip(guess, noise, strict=True)]
    assert noise_error(guess, noise).tolist() == pytest.approx(expected, rel=1e-5)


# ---- the steps back

MEAN, DEVIATION = 0.3, 0.25
"""Of a distribution of single pixels, N(0.3, 0.25^2), for which the best guess of the noise is known."""


def perfect(betas):
    left = torch.tensor(a_bars(betas))

    def predict(x, level):
        a = left[level].view(-1, 1, 1, 1).to(x)
        spread = a * DEVIATION**2 + 1 - a
        return (1 - a).sqrt() * (x - a.sqrt() * MEAN) / spread, None

    return predict


@pytest.mark.parametrize(
    ("sampler", "eta", "steps"), [("ddpm", 0, 1000), ("ddpm", 0, 250), ("ddim", 0, 250), ("ddim", 1, 250)]
)
def test_a_perfect_network_draws_from_the_distribution(sampler, eta, steps):
    betas = linear_betas(T)
    start = pictures(20000, 1, 1, 1)
    levels = spread_levels(T - 1, steps)
    generator = torch.Generator().manual_seed(5)
    drawn = reverse(perfect(betas), betas, start, levels, generator, sampler, eta).flatten()
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(drawn.std()) == pytest.approx(DEVIATION, rel=0.08)
    assert drawn.min() >= -1 and drawn.max() <= 1


def test_ddim_without_noise_is_a_function_of_where_it_starts():
    betas, levels = linear_betas(T), spread_levels(T - 1, 20)
    start = pictures(4, 1, 1, 1)
    found = [
        reverse(perfect(betas), betas, start, levels, torch.Generator().manual_seed(seed)) for seed in (0, 1)
    ]
    assert torch.equal(*found)
    assert found[0].flatten().argsort().tolist() == start.flatten().argsort().tolist()


@pytest.mark.parametrize("learned", [True, False])
def test_one_step_of_ddpm(learned):
    """From level 500 of two levels to level 20: mean and deviation of the Gaussian in between."""
    betas, levels = linear_betas(T), [20, 500]
    left = [a_bars(betas)[t] for t in levels]
    x, guess = pictures(1, 1, 2, 2), 0.3 * pictures(1, 1, 2, 2, seed=1)
    between = torch.full_like(x, 0.4)
    calls = []

    def predict(noisy, level):
        calls.append((noisy.clone(), int(level[0])))
        return guess, between if learned else None

    reverse(predict, betas, x, levels, torch.Generator().manual_seed(3), "ddpm")
    assert [level for _, level in calls] == [500, 20], "the network is told the level of the whole process"
    fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    beta = 1 - left[1] / left[0]
    clean = ((x - math.sqrt(1 - left[1]) * guess) / math.sqrt(left[1])).clamp(-1, 1)
    mean = (math.sqrt(left[0]) * beta * clean + math.sqrt(1 - beta) * (1 - left[0]) * x) / (1 - left[1])
    log_small = math.log(beta * (1 - left[0]) / (1 - left[1]))
    log_variance = 0.7 * math.log(beta) + 0.3 * log_small if learned else math.log(beta)
    torch.testing.assert_close(calls[1][0], mean + math.exp(0.5 * log_variance) * fresh, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_one_step_of_ddim(eta):
    betas, levels = linear_betas(T), [20, 500]
    before, now = (a_bars(betas)[t] for t in levels)
    x, guess, calls = pictures(1, 1, 2, 2), 2 * pictures(1, 1, 2, 2, seed=1), []

    def predict(noisy, level):
        calls.append(noisy.clone())
        return guess, None

    reverse(predict, betas, x, levels, torch.Generator().manual_seed(3), "ddim", eta)
    fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    clean = ((x - math.sqrt(1 - now) * guess) / math.sqrt(now)).clamp(-1, 1)
    again = (x - math.sqrt(now) * clean) / math.sqrt(1 - now)  # the noise that goes with the cut picture
    sigma = eta * math.sqrt((1 - before) / (1 - now)) * math.sqrt(1 - now / before)
    expected = math.sqrt(before) * clean + math.sqrt(1 - before - sigma**2) * again + sigma * fresh
    torch.testing.assert_close(calls[1], expected, rtol=1e-4, atol=1e-5)
