"""Warm-up by steps and by a share of a training whose length is known later."""

import math

import pytest
import torch

from errors import InputError
from lightning_modules import Polynomial, WarmupCosine


def rates(steps, build=WarmupCosine, **settings):
    """The learning rate of every optimiser step of a training, as parts of the highest."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = build(optimizer, **settings)
    schedule.last_until(steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        schedule.step()
    return found


def test_a_share_is_so_many_steps_of_any_training():
    assert rates(40, warmup_steps=0.1) == rates(40, warmup_steps=4)
    assert rates(20, warmup_steps=0.1) == rates(20, warmup_steps=2)
    assert rates(4, warmup_steps=0.1) == rates(4, warmup_steps=0)  # a try of a few steps


def test_it_rises_by_equal_steps_and_falls_as_a_cosine():
    found = rates(20, warmup_steps=0.2)
    assert found[:5] == pytest.approx([0.25, 0.4375, 0.625, 0.8125, 1.0])
    assert found[12] == pytest.approx(0.5 * (1 + math.cos(math.pi * 8 / 16)))
    assert 0 < found[-1] < 0.02


def test_it_stays_at_nothing_after_a_given_length():
    assert rates(8, warmup_steps=1, total_steps=4)[4:] == pytest.approx([0, 0, 0, 0])


@pytest.mark.parametrize("total", [0, 3])
def test_a_given_length_is_longer_than_the_warm_up(total):
    with pytest.raises(InputError, match=f"warmup_steps is 3 of {total} optimiser steps"):
        rates(10, warmup_steps=3, total_steps=total)


@pytest.mark.parametrize("wrong", [-1, 1.5])
def test_neither_steps_nor_a_share(wrong):
    with pytest.raises(InputError, match=rf"warmup_steps is {wrong}: expected 0 or more steps"):
        rates(10, warmup_steps=wrong)


def test_polynomial_falls_to_zero_after_the_last_step_of_any_training():
    for steps in (10, 37):
        expected = [(1 - step / steps) ** 0.9 for step in range(steps)]
        assert rates(steps, Polynomial) == pytest.approx(expected)
    assert rates(6, Polynomial, power=2, total_steps=3) == pytest.approx(
        [1, (2 / 3) ** 2, (1 / 3) ** 2, 0, 0, 0]
    )


@pytest.mark.parametrize("wrong", [{"power": 0}, {"power": -1}, {"total_steps": 0}])
def test_polynomial_refuses_what_never_falls(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(InputError, match=rf"model.scheduler.{name} is {value}: expected more"):
        rates(3, Polynomial, **wrong)


@pytest.mark.parametrize("build", [Polynomial, WarmupCosine])
def test_a_training_without_an_end_is_refused(build):
    with pytest.raises(InputError, match=rf"{build.__name__} ends with the training, and this one"):
        rates(math.inf, build)
