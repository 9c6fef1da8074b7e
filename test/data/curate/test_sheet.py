import base64
import re

import cv2
import numpy as np
import pytest

from world_model_ros.cli import main
from world_model_ros.data.curate import sheet
from world_model_ros.data.curate.sheet import strip
from world_model_ros.data.episodes import EpisodeFile


def test_a_strip_shows_frames_from_the_first_to_the_last(tmp_path, write):
    with EpisodeFile(write(tmp_path / "a.h5", episodes=1)) as file:
        picture = strip(file, 0, 3, 24)
        frames = file.pixels(0)
    for place, row in enumerate((0, 9, 19)):
        left = place * (32 + 4)
        np.testing.assert_array_equal(picture[:, left : left + 32], frames[row])


def test_a_picture_has_a_row_of_frames_for_each_episode(tmp_path, write):
    path = write(tmp_path / "a.h5", episodes=3, labels=[1, 0, -1])
    assert main(["episodes", "sheet", str(path), "--out", str(tmp_path / "s.png"), "--height", "48"]) == 0
    picture = cv2.imread(str(tmp_path / "s.png"))[..., ::-1]
    assert picture.shape == (3 * 52, 150 + 8 * 68, 3)
    captions = picture[:, :150].reshape(3, 52, 150, 3)
    green, red = ((captions[..., c] > captions[..., [i for i in range(3) if i != c]].max(-1)) for c in (1, 0))
    assert [bool(g.any()) for g in green] == [True, False, False]
    assert [bool(r.any()) for r in red] == [False, True, False]


def test_many_episodes_are_several_pictures(tmp_path, write, monkeypatch, capsys):
    monkeypatch.setattr(sheet, "PER_PAGE", 4)
    path = write(tmp_path / "a.h5", episodes=10, length=3)
    assert main(["episodes", "sheet", str(path), "--out", str(tmp_path / "s.png"), "--height", "24"]) == 0
    assert "3 pages" in capsys.readouterr().out
    heights = [cv2.imread(str(tmp_path / f"s-{page}.png")).shape[0] for page in (1, 2, 3)]
    assert heights == [4 * 28, 4 * 28, 2 * 28]


def test_html_is_one_page_with_labels_and_warnings(tmp_path, write):
    def change(episode, pixels, actions, places):
        actions[: 12 * episode] = 0
        return pixels, actions, places

    path = write(tmp_path / "<a>.h5", episodes=2, labels=[1, -1], change=change)
    assert main(["episodes", "sheet", str(path), "--out", str(tmp_path / "s.html")]) == 0
    page = (tmp_path / "s.html").read_text()
    assert "&lt;a&gt;.h5" in page
    assert "<a>" not in page
    first, second = page.split("<tr ")[1:]
    assert "success" in first
    assert "20 frames<br>1.9 s" in first
    assert "idle for 1.2 s at the start" in second
    for row in (first, second):
        content = base64.b64decode(re.search(r"base64,([^\"]+)", row)[1])
        assert cv2.imdecode(np.frombuffer(content, np.uint8), 1).shape[0] == 64


@pytest.mark.parametrize("name", ["s.png", "s.html"])
def test_a_sheet_that_cannot_be_written_is_one_sentence(tmp_path, write, monkeypatch, capsys, name):
    path = write(tmp_path / "a.h5", episodes=1)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    monkeypatch.setattr("pathlib.Path.write_text", full)
    assert main(["episodes", "sheet", str(path), "--out", str(tmp_path / name)]) == 2
    assert "No space left on device" in capsys.readouterr().err
