import csv
import json
import math
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lightsr import InputError
from lightsr.compare import compare
from lightsr.evaluate import Entry, evaluate
from lightsr.evaluation import score
from lightsr.metrics import psnr, ssim
from lightsr.networks import SRNetwork, create
from lightsr.resize import imresize


class Nearest(SRNetwork):
    """Repeats pixels, adds what it is told to; parameters: 1."""

    name = title = "nearest"
    source = "a test"
    exact_tiles = True
    radius = 0

    def __init__(self, scale, offset=0.0):
        super().__init__(scale, use_fused=False)
        self.offset = torch.nn.Parameter(torch.tensor(offset))

    def forward(self, x):
        return x.repeat_interleave(self.scale, -2).repeat_interleave(self.scale, -1) + self.offset


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([128 + 80 * np.sin(rows / 3 + k) * np.cos(columns / (5 + k)) for k in range(3)], -1)
    return np.clip(waves + 6 * rng.standard_normal(waves.shape), 0, 255).astype(np.uint8)


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1).contiguous()


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    save(picture(50, 43), tmp_path / "Toy" / "HR" / "first.png")
    save(picture(40, 64, seed=1), tmp_path / "Toy" / "HR" / "second.png")
    return tmp_path / "Toy" / "HR"


def test_rows_are_what_the_protocol_says(folder):
    found = evaluate(folder, [Entry("bicubic"), Nearest(4, 0.1)], 4)
    assert [(row.dataset, row.picture, row.network) for row in found.rows] == [
        ("Toy", "first.png", "bicubic"),
        ("Toy", "first.png", "nearest"),
        ("Toy", "second.png", "bicubic"),
        ("Toy", "second.png", "nearest"),
    ]
    assert not found.failed
    hr = tensor(picture(50, 43)[:48, :40])  # cropped to a multiple of 4 from the top left corner
    lr = imresize(hr, 1 / 4)
    assert (found.rows[0].width, found.rows[0].height) == (40, 48)
    bicubic = (imresize(lr / 255, 4).clamp(0, 1) * 255 + 0.5).floor().byte()
    nearest = ((lr / 255 + 0.1).clamp(0, 1) * 255 + 0.5).floor().byte().repeat_interleave(4, 1).repeat_interleave(4, 2)
    for row, output in zip(found.rows[:2], (bicubic, nearest), strict=True):
        assert row.psnr == psnr(output, hr, 4)
        assert row.ssim == ssim(output, hr, 4)
        assert row.seconds > 0


def test_means_and_table(folder, tmp_path):
    save(picture(30, 30, seed=2), tmp_path / "Other" / "third.png")
    found = evaluate([folder, tmp_path / "Other"], [Entry("bicubic"), Nearest(2)], 2)
    rows = [row for row in found.rows if row.network == "nearest"]
    mean = found.mean("Toy", "nearest")
    assert mean.psnr == pytest.approx((rows[0].psnr + rows[1].psnr) / 2, abs=1e-12)
    assert mean.ssim == pytest.approx((rows[0].ssim + rows[1].ssim) / 2, abs=1e-12)
    assert mean.pictures == 2
    assert found.mean(None, "nearest").seconds == pytest.approx(sum(row.seconds for row in rows) / 3)
    heading, bicubic, nearest, blank, protocol, machine = found.table().splitlines()
    assert heading.split() == ["x2", "Toy", "(2)", "Other", "(1)", "s/picture", "parameters"]
    assert re.search(rf"^nearest +{re.escape(score(mean))} +{re.escape(score(rows[2]))} .* 1$", nearest)
    assert bicubic.startswith("bicubic")
    assert len(heading) == len(bicubic) == len(nearest)
    assert blank == ""
    assert protocol == found.protocol
    for word in ("BT.601", "2 pixels cropped", "8-bit", "11x11", "sigma 1.5", "LR: MATLAB bicubic"):
        assert word in protocol
    assert machine == f"measured on {found.machine}"


@pytest.mark.parametrize("name", ["{}", "{}x4", "{}_x4", "{}x4_bicubic", "{}_LRBI_x4", "{}_SRF_4_LR", "{}-lr"])
def test_low_resolution_files_are_matched_by_stem(folder, tmp_path, name):
    for path in folder.iterdir():
        hr = np.array(Image.open(path))
        height, width = (side // 4 * 4 for side in hr.shape[:2])
        lr = imresize(tensor(hr[:height, :width]), 1 / 4).permute(1, 2, 0).numpy()
        save(lr, tmp_path / "LR" / "X4" / f"{name.format(path.stem)}.png")
    made, read = evaluate(folder, [Nearest(4)], 4), evaluate(folder, [Nearest(4)], 4, lr=tmp_path / "LR")
    assert not read.failed
    assert [(row.picture, row.psnr, row.ssim) for row in read.rows] == [
        (row.picture, row.psnr, row.ssim) for row in made.rows
    ]
    assert "LR: read from files" in read.protocol


def test_high_resolution_names_may_have_endings_too(tmp_path):
    save(picture(32, 32), tmp_path / "Urban" / "img_001_SRF_2_HR.png")
    save(picture(16, 16), tmp_path / "LR" / "img_001_SRF_2_LR.png")
    assert len(evaluate(tmp_path / "Urban", [Nearest(2)], 2, lr=tmp_path / "LR").rows) == 1


def test_low_resolution_files_that_do_not_fit_are_left_out(folder, tmp_path):
    save(picture(12, 11), tmp_path / "LR" / "firstx4.png")
    found = evaluate(folder, [Nearest(4)], 4, lr=[tmp_path / "LR"])
    reasons = {path.name: reason for path, reason in found.failed}
    assert re.search(r"firstx4.png is 11x12, not 10x12", reasons["first.png"])
    assert "no low-resolution file" in reasons["second.png"]
    assert not found.rows
    assert "Toy" not in found.table()


def test_a_bad_picture_is_left_out_and_the_others_go_on(folder):
    (folder / "broken.png").write_bytes((folder / "first.png").read_bytes()[:300])
    save(picture(16, 60), folder / "low.png")  # too low for SSIM once cropped
    save(picture(3, 60), folder / "tiny.png")
    found = evaluate(folder, [Nearest(4)], 4)
    assert {row.picture for row in found.rows} == {"first.png", "second.png"}
    reasons = {path.name: reason for path, reason in found.failed}
    assert set(reasons) == {"broken.png", "low.png", "tiny.png"}
    assert "60x16 is too small: with crop 4 it takes 19x19" in reasons["low.png"]
    assert "too small for x4" in reasons["tiny.png"]
    assert str(folder) not in "".join(reasons.values())


def test_a_grey_picture_is_repeated_to_rgb(tmp_path):
    grey = picture(40, 40)[:, :, 0]
    save(grey, tmp_path / "grey" / "one.png")
    save(np.stack([grey] * 3, -1), tmp_path / "rgb" / "one.png")
    found = evaluate([tmp_path / "grey", tmp_path / "rgb"], [Nearest(2)], 2)
    assert found.rows[0].psnr == found.rows[1].psnr


def test_values_that_are_not_finite_are_told(folder):
    found = evaluate(folder, [Nearest(2), Nearest(2, math.nan)], 2)
    assert not found.rows  # left out for the good network too: means are over the same pictures
    assert [reason for _, reason in found.failed] == ["nearest (2) gives values that are not finite"] * 2


def test_data_sets_get_names(folder, tmp_path):
    save(picture(30, 30), tmp_path / "more" / "Toy" / "one.png")
    both = evaluate([folder, tmp_path / "more" / "Toy"], [Nearest(2)], 2)
    assert both.datasets == [str(folder), str(tmp_path / "more" / "Toy")]
    assert evaluate(folder.parent, [Nearest(2)], 2).datasets == ["Toy"]  # its pictures are in HR


def test_a_backend_that_cannot_run_is_told(tmp_path):
    net = create("hasn", scale=2, use_fused=True)
    folder = save(picture(24, 24), tmp_path / "small" / "one.png").parent
    with pytest.raises(InputError, match="backend 'cuda' was asked for"):
        evaluate(folder, [net], 2, backend="cuda", device="cpu")


def test_tiles_that_are_approximate_are_told(tmp_path):
    folder = tmp_path / "Large"
    save(picture(192, 194), folder / "large.png")  # anything much smaller is run whole whatever the tile
    net, exact = Nearest(2), Nearest(2)
    net.exact_tiles = False
    assert not evaluate(folder, [net, exact], 2).notes
    found = evaluate(folder, [exact, net], 2, tile=8)
    assert found.notes == [
        "nearest (2) looks at the whole picture and was run in tiles, so its figures are approximate"
    ]
    assert found.table().splitlines()[-1] == found.notes[0]
    assert found.as_dict()["notes"] == found.notes


def test_networks_get_labels_and_keep_their_mode(folder):
    net = Nearest(2).train()
    found = evaluate(folder, [net, Entry("bicubic"), Nearest(2), Nearest(2)], 2)
    assert [each.label for each in found.networks] == ["nearest", "bicubic", "nearest (2)", "nearest (3)"]
    assert [each.parameters for each in found.networks] == [1, 0, 1, 1]
    assert net.training


def test_weights_by_name(tmp_path):
    from lightsr.checkpoint import save as save_weights

    folder = save(picture(24, 24), tmp_path / "small" / "one.png").parent
    net = create("hasn", scale=2)
    for k in range(2):
        save_weights(tmp_path / f"try{k}.safetensors", net.state_dict())
    entries = [Entry("hasn", tmp_path / f"try{k}.safetensors") for k in range(2)]
    found = evaluate(folder, entries, 2)
    assert [each.label for each in found.networks] == ["HASN try0", "HASN try1"]
    assert found.networks[0].weights == str(tmp_path / "try0.safetensors")
    assert found.networks[0].parameters == sum(each.numel() for each in net.parameters())
    with pytest.raises(InputError, match=r"x2.*x3"):
        evaluate(folder, entries, 3)


@pytest.mark.parametrize(
    ("networks", "scale", "options", "message"),
    [
        ([], 2, {}, "no network"),
        ([Entry("bicubic")], 5, {}, "scale must be 2, 3 or 4"),
        ([Entry("vdsr")], 2, {}, "network must be one of"),
        ([Entry("bicubic", "w.pth")], 2, {}, "bicubic has no weights"),
        ([Entry("hasn", "nowhere.pth")], 4, {}, "nowhere.pth"),
        ([Nearest(3)], 2, {}, "nearest is a network for x3, and x2"),
        ([Nearest(2)], 2, {"device": "abacus"}, "device 'abacus' cannot be used"),
        ([Nearest(2)], 2, {"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ([Nearest(2)], 2, {"backend": "abacus"}, "backend must be one of auto, .*; got 'abacus'"),
        ([Nearest(2)], 2, {"tile": 0}, "tile must be auto, off or"),
        ([Nearest(2)], 2, {"lr": ["a", "b"]}, "one low-resolution folder is needed for each of 1 folders; got 2"),
        ([Nearest(2)], 2, {"lr": "nowhere"}, "nowhere: no such folder"),
    ],
    ids=[
        "none",
        "scale",
        "name",
        "bicubic-weights",
        "weights",
        "net-scale",
        "device",
        "gpu",
        "backend",
        "tile",
        "lr-count",
        "lr-folder",
    ],
)
def test_wrong_requests_are_told_in_one_line(folder, networks, scale, options, message):
    with pytest.raises(InputError, match=message) as error:
        evaluate(folder, networks, scale, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [False, True], ids=["missing", "empty"])
def test_folders_without_pictures(tmp_path, make):
    if make:
        (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no pictures" if make else "no such folder"):
        evaluate(tmp_path / "none", [Nearest(2)], 2)


def test_json_and_csv(folder, tmp_path):
    save(np.full((24, 24, 3), 90, np.uint8), folder / 'flat, "one".png')
    (folder / "bad.png").write_bytes(b"no picture")
    found = evaluate(folder, [Entry("bicubic"), Nearest(2)], 2)
    found.write_json(tmp_path / "out.json")
    facts = json.loads((tmp_path / "out.json").read_text(), parse_constant=pytest.fail)
    assert facts["scale"] == 2
    assert facts["protocol"] == found.protocol
    assert len(facts["pictures"]) == 6
    flat = next(row for row in facts["pictures"] if row["picture"].startswith("flat"))
    assert (flat["psnr"], flat["ssim"]) == (None, 1)
    assert facts["means"][0]["pictures"] == 3
    assert facts["networks"][1] == {"label": "nearest", "name": "nearest", "weights": None, "parameters": 1}
    assert facts["failed"][0]["file"] == str(folder / "bad.png")
    found.write_csv(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["psnr"]) for line in lines] == [row.psnr for row in found.rows]
    assert [line["picture"] for line in lines] == [row.picture for row in found.rows]
    assert {line["scale"] for line in lines} == {"2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Toy", "out.csv", "out.json"]


def test_output_that_cannot_be_written(folder, tmp_path):
    found = evaluate(folder, [Nearest(2)], 2)
    for write in (found.write_json, found.write_csv):
        with pytest.raises(InputError, match="cannot write"):
            write(tmp_path / "nowhere" / "out")


def test_progress_shows_on_a_terminal_only(folder, capsys, monkeypatch):
    evaluate(folder, [Nearest(2)], 2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    evaluate(folder, [Nearest(2)], 2, quiet=True)
    assert capsys.readouterr() == ("", "")
    evaluate(folder, [Nearest(2)], 2)
    out, err = capsys.readouterr()
    assert (out, "2" in err) == ("", True)


def test_the_region_is_where_the_networks_differ():
    hr = tensor(picture(200, 260))
    changed = hr.clone()
    changed[:, 90:150, 130:200] = 0
    found = compare("Toy", "one", hr, hr, {"bicubic": hr, "net": changed}, border=4)
    left, top, side = found.box
    assert side == 96
    assert left <= 130 and left + side >= 200 and top <= 90 and top + side >= 150
    assert list(found.crops) == ["HR", "bicubic", "net"]
    assert torch.equal(found.crops["net"], changed[:, top : top + side, left : left + side])
    assert "differ most from bicubic" in found.reason
    assert found.strength > 1


def test_with_bicubic_alone_the_region_is_where_it_errs():
    hr = tensor(picture(120, 400))
    spoilt = hr.clone()
    spoilt[:, 20:60, 300:330] = 255
    found = compare("Toy", "one", hr, spoilt, {"bicubic": spoilt}, border=0)
    left, top, side = found.box
    assert left <= 300 and left + side >= 330 and top <= 20 and top + side >= 60
    assert "furthest from the original" in found.reason
    assert found.thumbnail.shape == (3, 116, 384)  # 384 on its longer side


def test_small_pictures_are_shown_whole():
    hr = tensor(picture(30, 50))
    found = compare("Toy", "one", hr, hr, {"bicubic": hr}, border=2)
    assert found.box == (2, 2, 26)
    assert found.thumbnail.shape == hr.shape


def test_report_is_one_page_that_loads_nothing(folder, tmp_path):
    from lightsr.report import write_report

    hostile = tmp_path / '<img src=x onerror="alert(1)"> & $x^{$'
    save(picture(60, 70, seed=3), hostile / "<b>bold.png")
    (hostile / "<u>bad.png").write_bytes(b"no picture")
    found = evaluate([folder, hostile], [Entry("bicubic"), Nearest(2)], 2, report=True)
    assert len(found.comparisons) == 3
    write_report(tmp_path / "report.html", found)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "<img src=x" not in page and "<b>bold" not in page and "<u>bad" not in page
    assert page.count("&lt;b&gt;bold") >= 2
    assert "&lt;u&gt;bad.png" in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page)
    assert links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert "<script" not in page and "@import" not in page
    assert page.count("<figure>") == 3
    assert page.count("data:image/png;base64,") == 3 * (1 + 3)  # the whole; HR, bicubic, nearest
    assert page.count("<svg") == 1 == page.count("</svg>")
    for text in (found.protocol, found.machine, score(found.mean("Toy", "nearest")), "nearest"):
        assert text in page
    assert not list(tmp_path.glob(".*"))


def test_a_report_without_bicubic_compares_with_it_all_the_same(folder):
    found = evaluate(folder, [Nearest(2)], 2, report=True)
    assert list(found.comparisons[0].crops) == ["HR", "bicubic", "nearest"]


def test_a_set_shows_its_three_strongest_pictures(folder):
    for k in range(3):
        save(picture(40, 40, seed=4 + k), folder / f"more{k}.png")
    strengths = [each.strength for each in evaluate(folder, [Nearest(2)], 2, report=True).comparisons]
    assert len(strengths) == 3
    assert strengths == sorted(strengths, reverse=True)


def test_a_report_without_matplotlib_is_refused_before_measuring(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    net = Nearest(2)
    monkeypatch.setattr(net, "forward", pytest.fail)
    with pytest.raises(InputError, match=r"lightsr\[report\]"):
        evaluate(folder, [net], 2, report=True)


def test_a_report_of_nothing_can_be_written(folder, tmp_path):
    from lightsr.report import write_report

    found = evaluate(folder, [Nearest(2, math.nan)], 2, report=True)
    write_report(tmp_path / "report.html", found)
    assert "not finite" in (tmp_path / "report.html").read_text()


def test_bicubic_on_set5(shared):
    found = evaluate(shared / "testsets" / "Set5", [Entry("bicubic")], 4)
    mean = found.mean("Set5", "bicubic")
    assert mean.pictures == 5
    assert (mean.psnr, mean.ssim) == pytest.approx((28.4305, 0.8113), abs=6e-5)
    # The figures that papers copy were measured on rounded luma alone, shrunk and enlarged by itself.
    assert mean.psnr == pytest.approx(28.42, abs=0.02)
    assert mean.ssim == pytest.approx(0.8104, abs=0.001)


@pytest.mark.parametrize(
    ("dataset", "from_files", "pictures", "psnr_expected", "ssim_expected"),
    [
        ("Set5", False, 5, 32.18, 0.8948),
        ("Set5", True, 5, 32.18, 0.8948),
        ("Set14", True, 14, 28.61, 0.7814),
    ],
    ids=["Set5-lr-made", "Set5-lr-files", "Set14-lr-files"],
)
def test_hasn_reproduces_its_authors_figures(shared, dataset, from_files, pictures, psnr_expected, ssim_expected):
    entry = Entry("hasn", shared / "weights" / "HASN" / "HASN.pth")
    folder = shared / "testsets" / dataset
    found = evaluate(folder / "HR", [entry], 4, lr=folder / "LR_bicubic" if from_files else None)
    mean = found.mean(dataset, "HASN")
    assert mean.pictures == pictures
    assert mean.psnr == pytest.approx(psnr_expected, abs=0.01)
    assert mean.ssim == pytest.approx(ssim_expected, abs=0.0005)
    assert score(mean) == f"{psnr_expected} / {ssim_expected}"


def test_two_files_of_one_stem_are_two_pictures(tmp_path):
    save(picture(40, 40), tmp_path / "Twins" / "a.png")
    save(picture(40, 40, seed=1), tmp_path / "Twins" / "a.bmp")
    found = evaluate(tmp_path / "Twins", [Nearest(2)], 2)
    assert sorted(row.picture for row in found.rows) == ["a.bmp", "a.png"]
    assert found.cells()[0][1] == "Twins (2)"
