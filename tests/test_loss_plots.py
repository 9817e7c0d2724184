import losses_picture
import numpy as np
import pytest
from PIL import Image

import errors


def test_curves_by_hand():
    """Cross entropy: -log p and 1 - p. Focal, gamma 2, p = 0.5: 0.25 log 2, and its slope by the true logit,
    (1 - p)^2 (1 - p - 2 p log p) = 0.25 (0.5 + 0.6931)."""
    probs = np.array([0.1, 0.5, 0.9])
    values, pull = losses_picture.curve(losses_picture.CURVES["cross-entropy"][0], 3, probs)
    np.testing.assert_allclose(values, -np.log(probs))
    np.testing.assert_allclose(pull, 1 - probs)
    values, pull = losses_picture.curve(losses_picture.CURVES["focal, gamma 2"][0], 3, probs)
    assert (values[1], pull[1]) == (pytest.approx(0.25 * np.log(2)), pytest.approx(0.25 * (0.5 + np.log(2))))


def test_the_competition_s_classes():
    """18,900 images; the rarest classes are old men with the mask worn wrongly or not at all."""
    assert sum(losses_picture.COUNTS) == 18_900 and len(losses_picture.COUNTS) == 18
    assert (losses_picture.COUNTS[losses_picture.RAREST], losses_picture.RAREST) == (83, 8)


def test_the_picture_is_written_and_a_wrong_folder_is_one_line(tmp_path, capsys):
    assert losses_picture.main(["--out", str(tmp_path / "losses.png")]) == 0
    pixels = np.asarray(Image.open(tmp_path / "losses.png").convert("RGB"))
    for _function, _true, color, _style in losses_picture.CURVES.values():
        assert (pixels == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(2).sum() > 50
    assert errors.run(lambda: losses_picture.main(["--out", str(tmp_path / "no" / "losses.png")])) == 2
    assert "there is no folder" in capsys.readouterr().err
