"""Grey values of a frozen base: by minimum and maximum inside the brain, the background black."""

import torch

from backbones.sam.intensity import to_colours, to_range


def test_each_modality_goes_from_0_to_1_inside_the_brain():
    image = torch.zeros(1, 3, 4, 4)
    image[0, 0, 1:3, 1:3] = torch.tensor([[-2.0, 0.5], [1.0, 2.0]])
    image[0, 1, 1:3, 1:3] = 5.0  # one value only
    found = to_range(image, "unit")
    expected = torch.tensor([[0.0, 0.625], [0.75, 1.0]])
    torch.testing.assert_close(found[0, 0, 1:3, 1:3], expected)
    assert found[0, 0].sum() == expected.sum()  # the background is black
    assert not found[0, 1:].any()  # one value, and a dropped modality
    assert found.isfinite().all()
    assert torch.equal(to_range(image, "photograph"), found)
    assert to_range(image, "z-score") is image


def test_colours_become_those_of_photographs():
    grey = torch.full((1, 3, 2, 2), 0.5)
    assert to_colours(grey, "unit") is grey
    found = to_colours(grey, "photograph")[0, :, 0, 0]
    white = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    torch.testing.assert_close(found, (127.5 - white[0]) / white[1])
