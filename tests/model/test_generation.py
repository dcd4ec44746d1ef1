from __future__ import annotations

import numpy as np
import pytest

from model.errors import ModelError
from model.generation import Sampling, choose

LOGITS = np.log(np.array([0.05, 0.5, 0.15, 0.3]))


def drawn(**options):
    sampling = Sampling(temperature=1.0, **options)
    random = np.random.default_rng(0)
    return {choose(LOGITS, sampling, random) for _ in range(300)}


def test_which_tokens_can_be_chosen():
    assert choose(LOGITS, Sampling(), np.random.default_rng(0)) == 1
    assert drawn() == {0, 1, 2, 3}
    assert drawn(top_k=2) == {1, 3}
    assert drawn(top_p=0.5) == {1}
    assert drawn(top_p=0.81) == {1, 2, 3}
    assert drawn(top_k=3, top_p=0.6) == {1, 3}


def test_the_chances_follow_the_temperature():
    random = np.random.default_rng(1)
    draws = [choose(LOGITS, Sampling(temperature=0.5), random) for _ in range(4000)]
    squares = np.exp(LOGITS) ** 2
    assert draws.count(1) / 4000 == pytest.approx(squares[1] / squares.sum(), abs=0.03)


def test_options_that_make_no_sense():
    with pytest.raises(ModelError) as caught:
        Sampling(max_new_tokens=0, temperature=-1, top_k=-2, top_p=0, seed=-1).check()
    assert str(caught.value).count(";") == 4
