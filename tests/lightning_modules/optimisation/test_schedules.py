"""Warm-up by steps and by a share of a training whose length is known later."""

import math

import pytest
import torch

from errors import InputError
from lightning_modules import WarmupCosine


def rates(steps, **settings):
    """The learning rate of every optimiser step of a training, as parts of the highest."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = WarmupCosine(optimizer, **settings)
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


@pytest.mark.parametrize("total", [0, 3])
def test_a_given_length_is_longer_than_the_warm_up(total):
    with pytest.raises(InputError, match=f"warmup_steps is 3 of {total} optimiser steps"):
        rates(10, warmup_steps=3, total_steps=total)


@pytest.mark.parametrize("wrong", [-1, 1.5])
def test_neither_steps_nor_a_share(wrong):
    with pytest.raises(InputError, match=rf"warmup_steps is {wrong}: expected 0 or more steps"):
        rates(10, warmup_steps=wrong)
