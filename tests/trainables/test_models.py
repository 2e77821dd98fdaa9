import subprocess
import sys

import pytest
import torch
from torch import nn

from trainables.config import MODEL_FAMILIES
from trainables.models import MODELS, build, check_name, count_parameters

SMALL = [name for name in MODELS if name not in ("resnet110", "resnet32x4", "wrn-40-4")]
CIFAR = (3, 32, 32)

COUNTS = {  # for 10 and for 100 classes of 3x32x32 images
    "cnn4": (750, 3_720),
    "cnn8": (2_066, 7_916),
    "cnn16": (6_426, 18_036),
    "cnn32": (22_058, 45_188),
    "cnn64": (80_970, 127_140),
    "resnet8": (78_042, 83_892),
    "resnet14": (175_258, 181_108),
    "resnet20": (272_474, 278_324),
    "resnet32": (466_906, 472_756),
    "resnet44": (661_338, 667_188),
    "resnet56": (855_770, 861_620),
    "resnet110": (1_730_714, 1_736_564),
    "resnet8x4": (1_210_410, 1_233_540),
    "resnet32x4": (7_410_730, 7_433_860),
    "wrn-16-2": (691_674, 703_284),
    "wrn-40-2": (2_243_546, 2_255_156),
    "wrn-40-4": (8_949_210, 8_972_340),
}
PUBLISHED_MILLIONS = {  # for 100 classes, to the digits that papers print
    "resnet8": 0.08,
    "resnet20": 0.28,
    "resnet32": 0.47,
    "resnet56": 0.86,
    "resnet110": 1.7,
    "resnet8x4": 1.2,
    "resnet32x4": 7.4,
    "wrn-16-2": 0.70,
    "wrn-40-2": 2.3,
}


def _weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def _convolutions(model):
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def test_configuration_and_table_know_the_same_models():
    assert tuple(MODELS) == MODEL_FAMILIES


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(1, 8, 8), CIFAR, (1, 28, 28), (4, 17, 9)])
def test_models_map_images_of_any_shape_to_logits(name, shape):
    model = build(name, shape, 7, seed=0)
    for training in (True, False):
        assert model.train(training)(torch.randn(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts_are_exact_and_those_published(name):
    counts = tuple(count_parameters(build(name, CIFAR, classes, 0)) for classes in (10, 100))
    assert counts == COUNTS[name]
    if name in PUBLISHED_MILLIONS:
        digits = len(str(PUBLISHED_MILLIONS[name]).split(".")[1])
        assert round(counts[1] / 1e6, digits) == PUBLISHED_MILLIONS[name]


@pytest.mark.parametrize(
    ("name", "depth", "shortcuts"), [("resnet20", 20, 2), ("resnet8x4", 8, 3), ("wrn-16-2", 16, 3)]
)
def test_depth_counts_the_layers_with_weights(name, depth, shortcuts):
    """WRN counts the projections of one stage, by 6n + 4; ResNet none."""
    model = build(name, CIFAR, 10, 0)
    projections = [conv for conv in _convolutions(model) if conv.kernel_size == (1, 1)]
    assert len(projections) == shortcuts
    others = len(_convolutions(model)) - shortcuts + 1  # and the linear layer
    assert others == (depth if name.startswith("resnet") else depth - 2)


@pytest.mark.parametrize("name", ["resnet20", "wrn-16-2"])
def test_stages_halve_the_image_twice(name):
    sizes = []
    model = build(name, CIFAR, 10, 0)
    for module in model.modules():
        if type(module).__name__.endswith("Block"):
            module.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    model(torch.zeros(2, *CIFAR))
    k = 2 if name.startswith("wrn") else 1
    assert list(dict.fromkeys(sizes)) == [(16 * k, 32, 32), (32 * k, 16, 16), (64 * k, 8, 8)]


def test_shortcut_carries_the_image_through_where_the_weights_are_zero():
    x = torch.rand(2, 16, 8, 8)
    (block, *_) = (m for m in build("resnet8", CIFAR, 10, 0).modules() if hasattr(m, "shortcut"))
    nn.init.zeros_(block.norm2.weight)
    assert torch.equal(block(x), x)
    blocks = [m for m in build("wrn-40-2", CIFAR, 10, 0).modules() if hasattr(m, "projection")]
    nn.init.zeros_(blocks[1].conv2.weight)
    wide = torch.randn(2, 32, 8, 8)
    assert torch.equal(blocks[1](wide), wide)


@pytest.mark.parametrize("name", ["resnet20", "wrn-40-2"])
def test_convolutions_start_with_the_spread_of_he_et_al(name):
    for conv in _convolutions(build(name, CIFAR, 10, 0)):
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        values = conv.weight.numel()
        expected = (2 / fan_out) ** 0.5
        assert conv.weight.std().item() == pytest.approx(expected, rel=5 / values**0.5)


def test_initial_weights_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    one, two, other = (build("cnn8", (1, 8, 8), 10, seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(_weights(one), _weights(two))
    assert torch.equal(_weights(one), _weights(build("cnn8", (1, 8, 8), 10, 1)))
    assert not torch.equal(_weights(one), _weights(other))


def test_the_small_network_keeps_the_weights_that_searches_were_recorded_with():
    first = next(build("cnn8", (1, 8, 8), 10, seed=1).parameters())
    assert first.flatten()[:3].tolist() == pytest.approx([0.1717544, -0.1471261, -0.0646205])


def test_capacity_grows_with_width():
    counts = [COUNTS[name] for name in MODELS if name.startswith("cnn")]
    assert counts == sorted(counts)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg", r"'vgg'.*cnn4, cnn8.*torchvision:NAME.*package.module:function"),
        ("ResNet20", r"'ResNet20' \(nearest: resnet20\); known: cnn4"),
        ("wrn_16_2", r"nearest: wrn-16-2"),
        ("torchvision:resnet51", r"nearest: torchvision:resnet50.*torchvision:vgg16"),
        ("torchvision:resnet18?stem=tiny", r"'stem=tiny'.*known: stem=small"),
        ("torchvision:vgg11?stem=small", r"'vgg11' has no small stem.*resnet18"),
        ("no_such_package.module:net", r"no module 'no_such_package'"),
        ("math:no_such_function", r"math has no function 'no_such_function'"),
        ("math:pi", r"a model is needed here, found a float"),
    ],
)
def test_unknown_names_are_refused_with_the_known_and_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        check_name(name)
    with pytest.raises(ValueError, match=message):
        build(name, (1, 8, 8), 10, 0)


def test_checking_a_name_builds_nothing(monkeypatch):
    def fail(self):
        raise AssertionError("a module was built")

    monkeypatch.setattr(nn.Module, "__init__", fail)
    for name in (*MODELS, "torchvision:vit_h_14", "torchvision:resnext50_32x4d?stem=small"):
        check_name(name)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("torchvision:resnet18", (1, 28, 28)),
        ("torchvision:mobilenet_v3_small", (4, 32, 32)),
        ("torchvision:shufflenet_v2_x0_5", CIFAR),
        ("torchvision:vit_b_16", (1, 32, 32)),
        ("torchvision:squeezenet1_1", (1, 64, 64)),
        ("torchvision:googlenet", (1, 32, 32)),
    ],
)
def test_torchvision_models_take_images_of_any_kind(name, shape):
    model = build(name, shape, 7, seed=3)
    assert model(torch.rand(2, *shape)).shape == (2, 7)
    assert torch.equal(_weights(model), _weights(build(name, shape, 7, seed=3)))


def test_torchvision_counts_are_torchvisions_own():
    assert count_parameters(build("torchvision:resnet18", (3, 64, 64), 1000, 0)) == 11_689_512


def test_small_stem_keeps_the_size_of_small_images():
    model = build("torchvision:resnet18?stem=small", CIFAR, 10, 0)
    # As in the many CIFAR variants of ResNet-18: 11,173,962 parameters for 10 classes.
    assert count_parameters(model) == 11_173_962
    seen = []
    model.layer1.register_forward_hook(lambda _m, _i, out: seen.append(out.shape))
    model(torch.zeros(2, *CIFAR))
    assert seen == [(2, 64, 32, 32)]
    grey = build("torchvision:resnet18?stem=small", (1, 28, 28), 10, 0)
    assert grey.conv1.weight.shape == (64, 1, 3, 3)


def test_images_too_small_for_a_model_are_named():
    with pytest.raises(ValueError, match=r"torchvision:alexnet fails on two images .*\(1, 8, 8\)"):
        build("torchvision:alexnet", (1, 8, 8), 10, 0)
    with pytest.raises(ValueError, match=r"vit_b_16 cannot be made for .*\(1, 28, 28\).*patch"):
        build("torchvision:vit_b_16", (1, 28, 28), 10, 0)


OWN = """
from torch import nn

def good(shape, classes):
    inputs = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(inputs, classes))

def a_class_too_many(shape, classes):
    return good(shape, classes + 1)

def no_network(shape, classes):
    return classes

def raises(shape, classes):
    raise RuntimeError("no licence")

def wrong_size(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(5, classes))

def changes_its_input(shape, classes):
    return nn.Sequential(nn.Hardtanh(0.4, 0.6, inplace=True), good(shape, classes))

def nothing_to_train(shape, classes):
    return nn.Flatten()

class Pair(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.net = good(shape, classes)

    def forward(self, x):
        return (self.net(x), x) if self.training else self.net(x)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_models_of_a_user.py").write_text(OWN)
    monkeypatch.setenv("KDCURVE_PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "own_models_of_a_user"
    sys.modules.pop("own_models_of_a_user", None)


def test_a_users_own_network_is_built_like_ours(own):
    state = torch.get_rng_state()
    one, two = (build(f"{own}:good", (1, 4, 4), 5, seed=2) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert one(torch.rand(3, 1, 4, 4)).shape == (3, 5)
    assert torch.equal(_weights(one), _weights(two))
    assert one.training


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "a_class_too_many",
            r"maps two images of shape \(1, 4, 4\) to \[2, 6\] instead .* \[2, 5\]",
        ),
        ("no_network", r"a torch.nn.Module is needed, got int"),
        ("raises", r"cannot be made for .*no licence"),
        ("wrong_size", r"fails on two images of shape \(1, 4, 4\): mat1"),
        ("changes_its_input", r"changes the images"),
        ("nothing_to_train", r"no parameters"),
        ("Pair", r"to tuple instead"),
    ],
)
def test_a_users_own_network_that_is_no_classifier_is_named(own, function, message):
    with pytest.raises(ValueError, match=rf"{own}:{function}.*{message}"):
        build(f"{own}:{function}", (1, 4, 4), 5, seed=2)


def test_torchvision_is_loaded_only_for_its_own_models():
    """It brings torch's compiler, which takes as long to load as torch itself."""
    code = (
        "import sys; from trainables.models import build; build('resnet8', (3, 8, 8), 2, 0); "
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
