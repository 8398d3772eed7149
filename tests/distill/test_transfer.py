"""Transfer: parts by structure, re-initialising, rates by depth, warm-up, UpKern."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from glialite_distill.mednext import build_mednext
from glialite_distill.transfer import (
    freeze_except,
    parameter_groups,
    reinitialise,
    trainable_names,
    upkern,
    warmup_cosine,
)
from glialite_runtime.errors import ConfigError
from torch import nn

SHARED = {
    "input_channels": 4,
    "n_stages": 3,
    "features_per_stage": [4, 6, 8],
    "conv_op": nn.Conv3d,
    "kernel_sizes": [[3] * 3] * 3,
    "strides": [[1] * 3, [2] * 3, [2] * 3],
    "num_classes": 3,
    "n_conv_per_stage_decoder": [1, 1],
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "deep_supervision": True,
}


def plain() -> nn.Module:
    """Return nnU-Net's U-Net as its trainer builds it, with three stages."""
    network = PlainConvUNet(n_conv_per_stage=[1, 1, 1], **SHARED)
    return network.apply(network.initialize)


def residual() -> nn.Module:
    """Return nnU-Net's residual-encoder U-Net as its trainer builds it, with three stages."""
    network = ResidualEncoderUNet(n_blocks_per_stage=[1, 1, 1], **SHARED)
    return network.apply(network.initialize)


def mednext(kernel_size: int = 3) -> nn.Module:
    """Return a narrow MedNeXt."""
    return build_mednext("mednext-b", 2, kernel_size, (4, 3))


NETWORKS = pytest.mark.parametrize("build", [plain, residual, mednext])

UNET_LAST = """
decoder.stages.1.convs.0.conv.weight decoder.stages.1.convs.0.conv.bias
decoder.stages.1.convs.0.norm.weight decoder.stages.1.convs.0.norm.bias
decoder.transpconvs.1.weight decoder.transpconvs.1.bias
decoder.seg_layers.0.weight decoder.seg_layers.0.bias decoder.seg_layers.1.weight decoder.seg_layers.1.bias
"""
PLAIN_SHALLOW = """
encoder.stages.0.0.convs.0.conv.weight encoder.stages.0.0.convs.0.conv.bias
encoder.stages.0.0.convs.0.norm.weight encoder.stages.0.0.convs.0.norm.bias
"""
RESIDUAL_SHALLOW = """
encoder.stem.convs.0.conv.weight encoder.stem.convs.0.conv.bias
encoder.stem.convs.0.norm.weight encoder.stem.convs.0.norm.bias
encoder.stages.0.blocks.0.conv1.conv.weight encoder.stages.0.blocks.0.conv1.conv.bias
encoder.stages.0.blocks.0.conv1.norm.weight encoder.stages.0.blocks.0.conv1.norm.bias
encoder.stages.0.blocks.0.conv2.conv.weight encoder.stages.0.blocks.0.conv2.conv.bias
encoder.stages.0.blocks.0.conv2.norm.weight encoder.stages.0.blocks.0.conv2.norm.bias
"""
MEDNEXT_LAST = """
up_blocks.3.conv1.weight up_blocks.3.conv1.bias up_blocks.3.norm.weight up_blocks.3.norm.bias
up_blocks.3.conv2.weight up_blocks.3.conv2.bias up_blocks.3.conv3.weight up_blocks.3.conv3.bias
up_blocks.3.res_conv.weight up_blocks.3.res_conv.bias
dec_stages.3.0.conv1.weight dec_stages.3.0.conv1.bias dec_stages.3.0.norm.weight dec_stages.3.0.norm.bias
dec_stages.3.0.conv2.weight dec_stages.3.0.conv2.bias dec_stages.3.0.conv3.weight dec_stages.3.0.conv3.bias
dec_stages.3.1.conv1.weight dec_stages.3.1.conv1.bias dec_stages.3.1.norm.weight dec_stages.3.1.norm.bias
dec_stages.3.1.conv2.weight dec_stages.3.1.conv2.bias dec_stages.3.1.conv3.weight dec_stages.3.1.conv3.bias
out_0.conv_out.weight out_0.conv_out.bias
out_blocks.0.conv_out.weight out_blocks.0.conv_out.bias out_blocks.1.conv_out.weight out_blocks.1.conv_out.bias
out_blocks.2.conv_out.weight out_blocks.2.conv_out.bias out_blocks.3.conv_out.weight out_blocks.3.conv_out.bias
"""
MEDNEXT_SHALLOW = """
stem.weight stem.bias
enc_stages.0.0.conv1.weight enc_stages.0.0.conv1.bias enc_stages.0.0.norm.weight enc_stages.0.0.norm.bias
enc_stages.0.0.conv2.weight enc_stages.0.0.conv2.bias enc_stages.0.0.conv3.weight enc_stages.0.0.conv3.bias
enc_stages.0.1.conv1.weight enc_stages.0.1.conv1.bias enc_stages.0.1.norm.weight enc_stages.0.1.norm.bias
enc_stages.0.1.conv2.weight enc_stages.0.1.conv2.bias enc_stages.0.1.conv3.weight enc_stages.0.1.conv3.bias
"""


def values(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of every parameter."""
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize(
    ("build", "part", "names"),
    [
        (plain, "last-decoder", UNET_LAST),
        (plain, "shallow", PLAIN_SHALLOW),
        (residual, "last-decoder", UNET_LAST),
        (residual, "shallow", RESIDUAL_SHALLOW),
        (mednext, "last-decoder", MEDNEXT_LAST),
        (mednext, "shallow", MEDNEXT_SHALLOW),
    ],
)
def test_the_tensors_of_a_part_are_these(build: Callable[[], nn.Module], part: str, names: str) -> None:
    """Last decoder stage with its upsampling and every head; or the stem with the first encoder stage."""
    assert trainable_names(build(), part) == tuple(names.split())


@NETWORKS
def test_all_is_every_parameter_once(build: Callable[[], nn.Module]) -> None:
    """nnU-Net registers its layers under several names; each is one tensor."""
    network = build()
    names = trainable_names(network, "all")
    assert len(names) == len(set(names)) == len(list(network.parameters()))


def test_an_unknown_part_or_network_is_refused() -> None:
    """The message lists the parts, or says which networks have stages; "all" works for any network."""
    with pytest.raises(ConfigError, match="unknown part 'decoder' to finetune; known: all, last-decoder, shallow"):
        trainable_names(plain(), "decoder")
    with pytest.raises(ConfigError, match="the stages of a Linear are not known"):
        trainable_names(nn.Linear(2, 2), "shallow")
    assert trainable_names(nn.Linear(2, 2), "all") == ("weight", "bias")


@NETWORKS
def test_only_the_named_tensors_move(build: Callable[[], nn.Module]) -> None:
    """After two optimizer steps every other tensor is bit-equal, every named one has changed."""
    torch.manual_seed(0)
    network = build().train()
    names = trainable_names(network, "last-decoder")
    freeze_except(network, names)
    before = values(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        sum(output.square().mean() for output in network(torch.randn(1, 4, 32, 32, 32))).backward()
        optimizer.step()
    after = values(network)
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(names)


def test_freezing_twice_follows_the_last_call() -> None:
    """A second call thaws what it names; an unknown name changes nothing."""
    network = plain()
    freeze_except(network, trainable_names(network, "last-decoder"))
    freeze_except(network, ["decoder.seg_layers.1.bias"])
    assert [n for n, p in network.named_parameters() if p.requires_grad] == ["decoder.seg_layers.1.bias"]
    with pytest.raises(ConfigError, match=r"a PlainConvUNet has no parameters named head\.bias, head\.weight"):
        freeze_except(network, ["head.weight", "head.bias", "decoder.seg_layers.1.bias"])
    assert [n for n, p in network.named_parameters() if p.requires_grad] == ["decoder.seg_layers.1.bias"]


@NETWORKS
@pytest.mark.parametrize("part", ["last-decoder", "shallow"])
def test_reinitialised_tensors_are_those_of_a_fresh_network(build: Callable[[], nn.Module], part: str) -> None:
    """Constants (biases, norms, nnU-Net's zeroed residual norms) come back; drawn weights have the fresh spread."""
    torch.manual_seed(0)
    network, fresh = build(), build()
    names = trainable_names(network, part)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7.0)
    reinitialise(network, names, seed=1)
    for name, parameter in network.named_parameters():
        expected = dict(fresh.named_parameters())[name]
        if name not in names:
            assert bool((parameter == 7).all()), name
        elif expected.numel() > 1 and bool((expected == expected.flatten()[0]).all()):
            assert torch.equal(parameter, expected), name
        elif expected.numel() >= 96:
            assert float(parameter.detach().std()) == pytest.approx(float(expected.detach().std()), rel=0.4), name
        else:
            assert not bool((parameter == 7).any()), name


def test_reinitialising_depends_on_the_seed_alone() -> None:
    """The generator's state neither matters nor moves; another seed draws other weights."""
    base = plain()
    names = trainable_names(base, "last-decoder")
    drawn = []
    for disturb, seed in ((0, 1), (5, 1), (0, 2)):
        network = copy.deepcopy(base)
        torch.manual_seed(disturb)
        state = torch.get_rng_state()
        reinitialise(network, names, seed)
        assert torch.equal(state, torch.get_rng_state())
        drawn.append(network.get_parameter("decoder.transpconvs.1.weight"))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    with pytest.raises(ConfigError, match="has no parameters named nothing"):
        reinitialise(base, ["nothing"], 1)


def test_early_layers_learn_slowly_and_deeper_ones_fast() -> None:
    """The stem and the first encoder stage have the first rate; all that lies deeper has the last one."""
    network = mednext()
    groups = parameter_groups(network, (1e-6, 1e-4), 1e-4)
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    found = {name: rate_of[id(p)] for name, p in network.named_parameters()}
    expected = {
        "stem.weight": 1e-6,
        "enc_stages.0.1.conv3.bias": 1e-6,
        "down_blocks.0.conv1.weight": 1e-4,
        "enc_stages.1.0.norm.weight": 1e-4,
        "enc_stages.2.0.conv1.weight": 1e-4,
        "down_blocks.2.res_conv.weight": 1e-4,
        "enc_stages.3.1.conv2.weight": 1e-4,
        "down_blocks.3.conv1.weight": 1e-4,
        "bottleneck.1.conv3.weight": 1e-4,
        "up_blocks.0.conv1.weight": 1e-4,
        "dec_stages.3.1.conv3.weight": 1e-4,
        "out_0.conv_out.weight": 1e-4,
        "out_blocks.0.conv_out.bias": 1e-4,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert [group["factor"] for group in groups] == pytest.approx([group["lr"] / 1e-4 for group in groups])


@NETWORKS
def test_every_parameter_is_in_one_group_and_an_optimizer_takes_them(build: Callable[[], nn.Module]) -> None:
    """None is forgotten or counted twice; frozen ones are left out."""
    network = build()
    groups = parameter_groups(network, (1e-6, 1e-4), 1e-4)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in network.parameters())
    assert torch.optim.AdamW(groups, lr=1e-4).param_groups[0]["lr"] == pytest.approx(1e-6)
    freeze_except(network, trainable_names(network, "last-decoder"))
    (group,) = parameter_groups(network, (1e-6, 1e-4), 1e-4)
    assert len(group["params"]) == len(trainable_names(network, "last-decoder"))


@pytest.mark.parametrize(("rates", "rate"), [((0.0, 1e-4), 1e-4), ((1e-6, math.nan), 1e-4), ((1e-6, 1e-4), 0.0)])
def test_rates_that_are_not_positive_are_refused(rates: tuple[float, float], rate: float) -> None:
    """Zero is what freezing is for; NaN would poison the weights."""
    with pytest.raises(ConfigError, match="learning rates must be positive"):
        parameter_groups(plain(), rates, rate)


def test_warm_up_climbs_then_the_cosine_falls() -> None:
    """Hand-derived: four straight steps to 1, the half at half way, 0 at the end and after it."""
    rates = [warmup_cosine(1.0, epoch, 13, 3) for epoch in (0, 1, 2, 3, 8, 13, 99)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.5, 0.0, 0.0])
    assert warmup_cosine(0.1, 12, 13, 3) == pytest.approx(0.1 * 0.5 * (1 - math.cos(math.pi / 10)))


def test_warm_up_may_be_absent_or_longer_than_the_run() -> None:
    """Without it the cosine starts at once; a run of one epoch still moves."""
    assert [warmup_cosine(1.0, epoch, 4, 0) for epoch in (0, 2)] == pytest.approx([1.0, 0.5])
    assert warmup_cosine(1.0, 0, 1, 9) == pytest.approx(0.1)


def test_upkern_interpolates_depthwise_kernels_and_keeps_the_rest() -> None:
    """Along one axis (a, b, c) becomes (a, .6a + .4b, b, .6c + .4b, c); what has the same shape is bit-equal."""
    torch.manual_seed(0)
    small, large = mednext(3), mednext(5)
    weights = upkern(small.state_dict(), large)
    large.load_state_dict(weights)
    along = torch.tensor([[1, 0, 0], [0.6, 0.4, 0], [0, 1, 0], [0, 0.4, 0.6], [0, 0, 1]], dtype=torch.float32)
    kernels = 0
    for name, before in small.state_dict().items():
        after = large.state_dict()[name]
        if before.shape[2:] == (3, 3, 3):
            kernels += 1
            expected = torch.einsum("ncxyz,ix,jy,kz->ncijk", before, along, along, along)
            assert torch.allclose(after, expected, atol=1e-6), name
        else:
            assert torch.equal(after, before), name
    assert kernels == 26


def test_upkern_leaves_the_trained_weights_alone() -> None:
    """What is written into the new network does not reach back into the old one."""
    small = mednext(3).state_dict()
    before = copy.deepcopy(small)
    for tensor in upkern(small, mednext(5)).values():
        tensor.zero_()
    assert all(torch.equal(small[name], before[name]) for name in before)


def test_upkern_refuses_networks_that_differ_in_more_than_kernels() -> None:
    """Another width, or missing and foreign tensors: every problem is named at once."""
    with pytest.raises(ConfigError, match=r"stem\.weight is \(2, 4, 1, 1, 1\), \(4, 4, 1, 1, 1\) is needed"):
        upkern(mednext(3).state_dict(), build_mednext("mednext-b", 4, 5, (4, 3)))
    small = mednext(3).state_dict()
    small["foreign"] = small.pop("stem.bias")
    with pytest.raises(ConfigError) as caught:
        upkern(small, mednext(5))
    assert str(caught.value).splitlines()[1:] == [
        "  foreign is not part of the network with larger kernels",
        "  stem.bias is missing in the trained network",
    ]


def test_upkern_does_not_stretch_ordinary_convolutions() -> None:
    """A U-Net's dense kernels are refused: the method is for depthwise ones."""
    kwargs = {**SHARED, "kernel_sizes": [[5] * 3] * 3}
    with pytest.raises(ConfigError, match="only depthwise kernels may differ in size"):
        upkern(plain().state_dict(), PlainConvUNet(n_conv_per_stage=[1, 1, 1], **kwargs))
